"""Confidence intervals: the metrics of a resample, and coverage."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import precision_recall_fscore_support, recall_score

from pipeline.common.shares import wilson
from pipeline.evaluate.intervals import (
    class_means,
    confidence_intervals,
    intervals_by_class,
    paired_differences,
)
from pipeline.evaluate.metrics import compute_metrics, metrics_by_class
from tests.support.examples import examples

pytestmark = pytest.mark.filterwarnings("error")


def simulate(random, images: int, classes: int, accuracy: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a network that has the given accuracy."""
    labels = random.integers(0, classes, images)
    wrong = (labels + random.integers(1, classes, images)) % classes
    predicted = np.where(random.random(images) < accuracy, labels, wrong)
    weights = random.dirichlet(np.ones(classes), images) + 1.5 * np.eye(classes)[predicted]
    return labels, weights / weights.sum(axis=1, keepdims=True)


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_metrics_of_a_sample_equal_scikit_learns(classes, images, seed):
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(0, classes, (2, 4, images))
    found = class_means(labels, predicted, classes)
    for sample in range(4):
        true, guess = labels[sample], predicted[sample]
        macro = precision_recall_fscore_support(true, guess, average="macro", zero_division=0)[:3]
        balanced = recall_score(true, guess, labels=np.unique(true), average="macro")
        np.testing.assert_allclose(found[:, sample], [balanced, *macro])


def bootstrapped(images: int) -> np.ndarray:
    """The percentile interval of each number of hits with infinitely many resamples, ``(2, images + 1)``."""
    share = np.arange(images + 1) / images
    return np.stack([binom.ppf(end, images, share) / images for end in (0.025, 0.975)])


@pytest.mark.parametrize(
    ("images", "accuracy", "of_wilson", "of_bootstrap"),
    [
        (20, 0.9, 0.957, 0.876),
        (100, 0.9, 0.936, 0.966),
        (100, 0.98, 0.949, 0.866),
        (359, 0.8, 0.952, 0.952),
        (359, 0.98, 0.963, 0.923),
        (359, 0.99, 0.970, 0.863),
        (1000, 0.99, 0.963, 0.964),
        (3430, 0.85, 0.950, 0.950),
    ],
)
def test_coverage_of_wilsons_interval_and_of_the_bootstrap_over_all_possible_samples(
    images, accuracy, of_wilson, of_bootstrap
):
    hits = np.arange(images + 1)
    probability = binom.pmf(hits, images, accuracy)
    for (low, high), coverage in ((wilson(hits, images), of_wilson), (bootstrapped(images), of_bootstrap)):
        assert probability[(low <= accuracy) & (accuracy <= high)].sum() == pytest.approx(coverage, abs=0.001)


@pytest.mark.parametrize(("images", "accuracy"), [(100, 0.98), (359, 0.99)])
def test_intervals_of_the_accuracy_contain_the_true_value_in_93_to_99_percent_of_500_test_sets(images, accuracy):
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(500):
        interval = confidence_intervals(*simulate(random, images, 5, accuracy), 2, 0)["accuracy"]
        covered += interval["low"] <= accuracy <= interval["high"]
    assert 0.93 <= covered / 500 <= 0.99


def test_intervals_by_class_contain_the_true_value_in_93_to_97_percent_of_2000_test_sets():
    random = np.random.default_rng(9)
    # Precision, recall and F1 are the accuracy, for all classes are equally frequent and confused.
    tables = []
    for _ in range(400):
        labels, probabilities = simulate(random, 300, 5, 0.9)
        tables.append(intervals_by_class(labels, probabilities.argmax(axis=1), 5))
    table = pd.concat(tables)
    for name in ("precision", "recall", "f1"):
        covered = (table[f"{name}_low"] <= 0.9) & (table[f"{name}_high"] >= 0.9)
        assert 0.93 <= covered.mean() <= 0.97, name


@pytest.mark.slow
def test_intervals_of_the_other_metrics_contain_the_true_value_as_often():
    random = np.random.default_rng(8)
    truth = compute_metrics(*simulate(random, 400_000, 4, 0.7), top_k=2)
    covered = dict.fromkeys(("balanced_accuracy", "macro_f1", "log_loss", "brier", "top_2_accuracy"), 0)
    for _ in range(500):
        intervals = confidence_intervals(*simulate(random, 300, 4, 0.7), 2, 1000)
        for name in covered:
            covered[name] += intervals[name]["low"] <= truth[name] <= intervals[name]["high"]
    assert all(0.92 <= count / 500 <= 0.98 for count in covered.values()), covered


def test_the_interval_of_the_macro_f1_contains_the_true_value_in_most_test_sets_with_few_images_of_many_classes():
    random, classes = np.random.default_rng(0), 100
    accuracy = random.uniform(0.5, 1, classes)

    def predictions(images: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(classes), images)
        wrong = random.random(len(labels)) > accuracy[labels]
        return labels, (labels + wrong * random.integers(1, classes, len(labels))) % classes

    labels, predicted = predictions(4000)
    truth, covered = class_means(labels[None], predicted[None], classes)[3, 0], 0
    for _ in range(100):
        labels, predicted = predictions(5)
        ends = confidence_intervals(labels, np.eye(classes)[predicted], 2, 200)["macro_f1"]
        covered += ends["low"] <= truth <= ends["high"]
    assert covered >= 85  # 69 with percentiles


def test_the_same_predictions_have_the_same_intervals_around_their_metrics():
    labels, probabilities = simulate(np.random.default_rng(1), 200, 4)
    first = confidence_intervals(labels, probabilities, 2, 500)
    assert first == confidence_intervals(labels, probabilities, 2, 500)
    metrics = compute_metrics(labels, probabilities, 2)
    assert set(metrics) - set(first) == {"ece"}
    for name, ends in first.items():
        assert ends["low"] < metrics[name] < ends["high"], name
    by_class = intervals_by_class(labels, probabilities.argmax(axis=1), 4)
    table = metrics_by_class(labels, probabilities.argmax(axis=1), ("a", "b", "c", "d"))
    for name in ("precision", "recall", "f1"):
        assert (by_class[f"{name}_low"] < table[name]).all()
        assert (table[name] < by_class[f"{name}_high"]).all()


def test_if_all_predictions_are_correct_shares_have_an_interval_and_other_metrics_none():
    labels = np.repeat(np.arange(3), 4)
    intervals, by_class = confidence_intervals(labels, np.eye(3)[labels], 2, 100), intervals_by_class(labels, labels, 3)
    low, high = wilson(12, 12)
    assert high == 1
    assert intervals == {name: {"low": low, "high": 1.0} for name in ("accuracy", "top_2_accuracy")}
    assert by_class["recall_low"].tolist() == pytest.approx([wilson(4, 4)[0]] * 3)


@pytest.mark.parametrize("right", [True, False])
def test_one_image_is_enough(right):
    probabilities = np.eye(3)[[0 if right else 2]]
    intervals = confidence_intervals(np.array([0]), probabilities, 2, 100)
    assert intervals["accuracy"] == pytest.approx(
        {"low": 0.2065, "high": 1.0} if right else {"low": 0.0, "high": 0.7935}, abs=1e-4
    )
    by_class = intervals_by_class(np.array([0]), probabilities.argmax(axis=1), 3)
    assert by_class["recall_low"].isna().tolist() == [False, True, True]
    assert by_class["f1_low"].isna().tolist() == [False, True, True]


def test_ten_images_of_two_classes_have_wide_intervals_and_no_top_2():
    intervals = confidence_intervals(*simulate(np.random.default_rng(3), 10, 2), 2, 1000)
    assert "top_2_accuracy" not in intervals
    assert intervals["accuracy"]["high"] - intervals["accuracy"]["low"] > 0.25


def test_without_resamples_only_shares_have_intervals():
    intervals = confidence_intervals(*simulate(np.random.default_rng(3), 50, 3), 2, 0)
    assert list(intervals) == ["accuracy", "top_2_accuracy"]


def test_a_class_without_images_has_no_recall_and_does_not_affect_others():
    labels, probabilities = simulate(np.random.default_rng(4), 100, 3)
    with_class = np.insert(probabilities, 1, 0, axis=1)
    intervals = confidence_intervals(labels, probabilities, 2, 200)
    more = confidence_intervals(labels + (labels > 0), with_class, 2, 200)
    for name, ends in intervals.items():
        assert more[name] == pytest.approx(ends), name
    by_class = intervals_by_class(labels, probabilities.argmax(axis=1), 3)
    more_by_class = intervals_by_class(labels + (labels > 0), with_class.argmax(axis=1), 4)
    assert more_by_class.loc[1].isna().all()
    np.testing.assert_allclose(more_by_class.drop(1), by_class)


def test_a_thousand_resamples_of_food_11_take_seconds():
    labels, probabilities = simulate(np.random.default_rng(5), 3430, 11)
    start = time.process_time()
    confidence_intervals(labels, probabilities, 3, 1000)
    assert time.process_time() - start < 10


def test_paired_differences_are_those_of_the_metrics_and_narrower_than_the_intervals_of_each():
    labels, before = simulate(np.random.default_rng(3), 300, 4)
    after = np.where(np.arange(300)[:, None] < 270, before, np.eye(4)[labels] / 2 + 1 / 8)
    found = paired_differences(labels, before, after, 500)
    old, new = (compute_metrics(labels, probabilities, 2) for probabilities in (before, after))
    interval = confidence_intervals(labels, before, 2, 500)
    for name, change in found.items():
        assert change["difference"] == pytest.approx(new[name] - old[name])
        assert change["low"] < change["difference"] < change["high"]
        assert change["high"] - change["low"] < interval[name]["high"] - interval[name]["low"]
    assert found == paired_differences(labels, before, after, 500)
    assert paired_differences(labels, before, before, 500)["log_loss"] == {"difference": 0}
    assert "low" not in paired_differences(labels, before, after, 0)["log_loss"]
