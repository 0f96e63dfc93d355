"""The bootstrap intervals: the metrics of a resample, and coverage."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support, recall_score

from pipeline.evaluate.bootstrap import bootstrap_intervals, class_means
from pipeline.evaluate.metrics import compute_metrics
from tests.support.examples import examples


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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
    whole, by_class = class_means(labels, predicted, classes)
    for sample in range(4):
        true, guess = labels[sample], predicted[sample]
        macro = precision_recall_fscore_support(true, guess, average="macro", zero_division=0)[:3]
        balanced = recall_score(true, guess, labels=np.unique(true), average="macro")
        np.testing.assert_allclose(whole[:, sample], [balanced, *macro])
        expected = np.array(
            precision_recall_fscore_support(true, guess, labels=np.arange(classes), zero_division=np.nan)[:3]
        )
        expected[2, ~np.isin(np.arange(classes), true)] = np.nan
        np.testing.assert_allclose(by_class[:, sample], expected.ravel())


def test_intervals_of_the_accuracy_contain_the_true_value_in_most_of_60_test_sets():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(60):
        interval = bootstrap_intervals(*simulate(random, 300, 5, 0.7), 2, 200)[0]["accuracy"]
        covered += interval["low"] <= 0.7 <= interval["high"]
    assert 0.88 <= covered / 60 < 1


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.6, 0.85])
def test_intervals_of_the_accuracy_contain_the_true_value_in_93_to_97_percent_of_500_test_sets(accuracy):
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(500):
        interval = bootstrap_intervals(*simulate(random, 300, 5, accuracy), 2, 1000)[0]["accuracy"]
        covered += interval["low"] <= accuracy <= interval["high"]
    assert 0.93 <= covered / 500 <= 0.97


@pytest.mark.slow
def test_intervals_of_the_other_metrics_contain_the_true_value_as_often():
    random = np.random.default_rng(8)
    truth = compute_metrics(*simulate(random, 400_000, 4, 0.7), top_k=2)
    covered = dict.fromkeys(("balanced_accuracy", "macro_f1", "log_loss", "brier", "top_2_accuracy"), 0)
    for _ in range(500):
        intervals = bootstrap_intervals(*simulate(random, 300, 4, 0.7), 2, 1000)[0]
        for name in covered:
            covered[name] += intervals[name]["low"] <= truth[name] <= intervals[name]["high"]
    assert all(0.92 <= count / 500 <= 0.98 for count in covered.values()), covered


def test_the_same_predictions_have_the_same_intervals_around_their_metrics():
    labels, probabilities = simulate(np.random.default_rng(1), 200, 4)
    first, first_table = bootstrap_intervals(labels, probabilities, 2, 500)
    again, again_table = bootstrap_intervals(labels, probabilities, 2, 500)
    assert first == again
    assert first_table.equals(again_table)
    metrics = compute_metrics(labels, probabilities, 2)
    assert set(metrics) - set(first) == {"ece"}
    for name, ends in first.items():
        assert ends["low"] < metrics[name] < ends["high"], name


def test_if_all_predictions_are_correct_shares_have_the_exact_interval_and_other_metrics_none():
    labels = np.repeat(np.arange(3), 4)
    intervals, by_class = bootstrap_intervals(labels, np.eye(3)[labels], 2, 100)
    exact = binomtest(12, 12).proportion_ci(0.95, "exact")
    assert intervals == {name: {"low": exact.low, "high": 1.0} for name in ("accuracy", "top_2_accuracy")}
    assert by_class["recall_low"].tolist() == pytest.approx([binomtest(4, 4).proportion_ci(0.95, "exact").low] * 3)
    assert by_class["f1_low"].isna().all()


@pytest.mark.parametrize("right", [True, False])
def test_one_image_is_enough(right):
    intervals, by_class = bootstrap_intervals(np.array([0]), np.eye(3)[[0 if right else 2]], 2, 100)
    assert intervals["accuracy"] == pytest.approx({"low": 0.025, "high": 1.0} if right else {"low": 0.0, "high": 0.975})
    assert by_class["recall_low"].isna().tolist() == [False, True, True]


def test_ten_images_of_two_classes_have_wide_intervals_and_no_top_2():
    labels, probabilities = simulate(np.random.default_rng(3), 10, 2)
    intervals, by_class = bootstrap_intervals(labels, probabilities, 2, 1000)
    assert "top_2_accuracy" not in intervals
    assert intervals["accuracy"]["high"] - intervals["accuracy"]["low"] > 0.3
    assert by_class.shape == (2, 6)


def test_a_class_without_images_has_no_recall_and_does_not_affect_others():
    labels, probabilities = simulate(np.random.default_rng(4), 100, 3)
    with_class = np.insert(probabilities, 1, 0, axis=1)
    intervals, by_class = bootstrap_intervals(labels, probabilities, 2, 200)
    more, more_by_class = bootstrap_intervals(labels + (labels > 0), with_class, 2, 200)
    for name, ends in intervals.items():
        assert more[name] == pytest.approx(ends), name
    assert more_by_class.loc[1].isna().all()
    np.testing.assert_allclose(more_by_class.drop(1), by_class)


def test_a_thousand_resamples_of_food_11_take_seconds():
    labels, probabilities = simulate(np.random.default_rng(5), 3430, 11)
    start = time.monotonic()
    bootstrap_intervals(labels, probabilities, 3, 1000)
    assert time.monotonic() - start < 10
