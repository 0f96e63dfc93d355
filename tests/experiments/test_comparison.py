"""The statistics of a comparison, against sums and simulations of their own."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from pipeline.errors import PipelineError
from pipeline.evaluate.metrics import image_scores
from pipeline.experiments.comparison import (
    changed_images,
    class_changes,
    compare,
    comparison_facts,
    comparison_lines,
    detectable,
    least_significant,
    mcnemar,
    pair,
    prediction_table,
    verdict_lines,
)

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = ("NA", "炒饭", "a class with a very long name indeed")


def predictions(right, classes=CLASSES, seed=0, first=0) -> pd.DataFrame:
    """A table of predictions that are right or not as ``right`` says, (images,)."""
    right = np.asarray(right, dtype=bool)
    labels = np.arange(len(right)) % len(classes)
    names, random = np.array(classes, dtype=object), np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "source": [f"photos/{first + number:04}.jpg" for number in range(len(right))],
            "id": [f"{first + number:04}" for number in range(len(right))],
            "class": names[labels],
            "predicted_class": names[np.where(right, labels, (labels + 1) % len(classes))],
            "confidence": random.random(len(right)),
            "loss": random.random(len(right)),
        }
    )


def test_predictions_in_float32_have_the_log_loss_that_evaluate_computes():
    labels, probabilities = np.array([0, 1, 1]), np.array([[1, 0], [1, 0], [0.25, 0.75]], np.float32)
    table = prediction_table(["a", "b", "c"], ["a", "b", "c"], labels, probabilities)
    assert list(table["loss"]) == list(image_scores(labels, probabilities.astype(float), 2)["log_loss"])
    assert list(table["loss"]) == pytest.approx([0, 36.04, 0.2877], abs=1e-2)
    assert list(table["predicted_class"]) == [0, 0, 1]


def drawn(images: int, only_a: float, only_b: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which images two networks have right, drawn with the probabilities that only one of them has one right."""
    kind = random.choice(3, size=images, p=[only_a, only_b, 1 - only_a - only_b])
    both = random.random(images) < 0.8
    return np.where(kind == 2, both, kind == 0), np.where(kind == 2, both, kind == 1)


def direct_p_value(only_a: int, only_b: int) -> float:
    """Twice the sum of the binomial probabilities of a split at least as lopsided."""
    changed, least = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(changed, count) for count in range(least + 1)) / 2**changed)


# What is paired.


def test_images_are_matched_by_their_paths_in_any_order_whatever_their_ids():
    a, b = predictions([1, 0, 1, 1, 0, 1]), predictions([1, 1, 0, 1, 0, 1], seed=1)
    pairs = pair(a, b.assign(id="1_" + b["id"]).sample(frac=1, random_state=0))
    assert list(pairs["id"]) == list(a["id"])
    assert list(pairs["right_a"]) == [True, False, True, True, False, True]
    assert list(pairs["right_b"]) == [True, True, False, True, False, True]
    assert list(pairs["loss_b"]) == list(b["loss"])


def test_images_of_one_network_alone_are_left_out():
    assert list(pair(predictions([1] * 10), predictions([1] * 10)[3:])["id"]) == [f"{n:04}" for n in range(3, 10)]


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        (predictions([1] * 20), predictions([1] * 20, first=12), "only 8 images are in both, of 20 in A and 20 in B; "),
        (predictions([1] * 20), predictions([1] * 20, first=99), "only 0 images are in both"),
        (predictions([1] * 5), predictions([1] * 5), "5 images cannot show a difference; allowed are 6 or more"),
        (
            predictions([1] * 9),
            predictions([1] * 9, classes=("NA", "cake", "pie")),
            "the labels differ: photos/0001.jpg is 炒饭 in A and cake in B, photos/0002.jpg is a class with a very "
            "long name indeed in A and pie in B and 4 more; ",
        ),
    ],
    ids=["a small part", "none", "few", "labels"],
)
def test_other_images_or_labels_are_refused_in_one_line(a, b, line):
    with pytest.raises(PipelineError) as error:
        pair(a, b)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


# The figures.


def test_the_figures_are_those_of_scikit_learn_and_plain_means():
    random = np.random.default_rng(0)
    a, b = (predictions(right, seed=seed) for seed, right in enumerate(drawn(300, 0.1, 0.2, random)))
    result = compare(pair(a, b), left_out=3)
    for name, table, other in (("a", a, b), ("b", b, a)):
        assert getattr(result.accuracy, name) == pytest.approx(accuracy_score(table["class"], table["predicted_class"]))
        assert getattr(result.log_loss, name) == pytest.approx(table["loss"].mean())
        right, others = (part["class"] == part["predicted_class"] for part in (table, other))
        assert getattr(result, f"only_{name}_right") == (right & ~others).sum()
    assert result.accuracy.difference == pytest.approx(result.accuracy.b - result.accuracy.a)
    assert (result.images, result.left_out) == (300, 3)


def test_b_against_a_is_a_against_b_turned_round():
    random = np.random.default_rng(1)
    a, b = (predictions(right, seed=seed) for seed, right in enumerate(drawn(500, 0.05, 0.1, random)))
    there, back = compare(pair(a, b)), compare(pair(b, a))
    assert back.p_value == there.p_value
    assert (back.only_a_right, back.only_b_right) == (there.only_b_right, there.only_a_right)
    # The same resamples, whose quantiles are read off from the other end.
    assert back.accuracy.low == pytest.approx(-there.accuracy.high, abs=1e-3)
    assert back.accuracy.high == pytest.approx(-there.accuracy.low, abs=1e-3)


def test_the_same_network_twice_is_no_difference():
    table = predictions(np.arange(100) % 7 > 0)
    result = compare(pair(table, table))
    assert (result.p_value, result.accuracy.difference) == (1.0, 0.0)
    assert (result.log_loss.low, result.log_loss.high) == (0.0, 0.0)
    # Bonett and Price add one image that only A has right, and one that only B has.
    most = norm.ppf(0.975) * 2**0.5 / 102
    assert (result.accuracy.low, result.accuracy.high) == pytest.approx((-most, most))
    assert changed_images(pair(table, table)).empty
    assert "No difference: A and B are right on the same images, of 100." in " ".join(verdict_lines(result))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_direct_binomial_sum(only_a, only_b):
    assert mcnemar(only_a, only_b) == pytest.approx(direct_p_value(only_a, only_b), rel=1e-9)
    assert mcnemar(only_a, only_b) == pytest.approx(mcnemar(only_b, only_a))


@given(st.integers(0, 200))
def test_least_significant_is_the_least_split_below_one_in_twenty(changed):
    images = 1000
    changed_at_least = max(changed, 6)
    more = round((least_significant(images, changed) * images + changed_at_least) / 2)
    assert direct_p_value(changed_at_least - more, more) < 0.05
    assert more - 1 <= changed_at_least / 2 or direct_p_value(changed_at_least - more + 1, more - 1) >= 0.05


def test_no_split_of_fewer_than_six_changed_images_is_significant():
    assert direct_p_value(0, 5) > 0.05 > direct_p_value(0, 6)
    assert least_significant(359, 0) == least_significant(359, 6) == 6 / 359


@pytest.mark.parametrize(("images", "changed"), [(359, 0.03), (359, 0.0), (1000, 0.1), (3430, 0.2)])
def test_a_detectable_difference_is_found_four_times_in_five(images, changed):
    difference, random = detectable(images, changed), np.random.default_rng(0)
    share = max(changed, difference)
    found = 0
    for _ in range(2000):
        counts = random.multinomial(images, [(share - difference) / 2, (share + difference) / 2, 1 - share])
        found += mcnemar(*counts[:2].tolist()) < 0.05
    # Three standard errors of 2,000 draws.
    assert found / 2000 == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 2000))


def test_more_images_or_less_disagreement_show_smaller_differences():
    sizes = [detectable(images, 0.1) for images in (100, 359, 1000, 3430)]
    assert sizes == sorted(sizes, reverse=True)
    assert detectable(1000, 0.02) < detectable(1000, 0.1) < detectable(1000, 0.3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(6, 400))
def test_the_interval_of_the_log_loss_agrees_with_a_bootstrap_by_hand(seed, images):
    random = np.random.default_rng(seed)
    pairs = pair(*(predictions(right) for right in drawn(images, 0.2, 0.25, random)))
    result = compare(pairs).log_loss
    assert result.low <= result.difference <= result.high
    changes = (pairs["loss_b"] - pairs["loss_a"]).to_numpy()
    if np.ptp(changes):
        by_hand = np.quantile(random.choice(changes, size=(4000, images)).mean(axis=1), [0.025, 0.975])
        # A step of the mean, and the error of quantiles of so few resamples.
        tolerance = 2 * max(np.abs(changes)) / images + 0.15 * changes.std() / math.sqrt(images)
        assert (result.low, result.high) == pytest.approx(tuple(by_hand), abs=tolerance)


@pytest.mark.parametrize(("only_a", "only_b", "images"), [(0, 4, 359), (0, 5, 359), (1, 7, 359), (0, 4, 1000)])
def test_few_changed_images_are_no_difference_by_the_interval_as_by_mcnemars_test(only_a, only_b, images):
    a, b = np.arange(images) >= only_b, np.arange(images) < images - only_a
    result = compare(pair(predictions(a), predictions(b)))
    assert result.p_value > 0.05
    assert result.accuracy.low < 0 < result.accuracy.high


def test_the_interval_holds_the_truth_in_about_19_of_20_samples():
    random, held = np.random.default_rng(0), 0
    for _ in range(150):
        tables = [predictions(right) for right in drawn(359, 0.03, 0.05, random)]
        accuracy = compare(pair(*tables)).accuracy
        held += accuracy.low - 1e-9 <= 0.02 <= accuracy.high + 1e-9
    assert 0.90 <= held / 150 <= 0.99


def test_the_interval_is_the_same_in_every_call():
    pairs = pair(*(predictions(right) for right in drawn(200, 0.1, 0.1, np.random.default_rng(3))))
    assert compare(pairs) == compare(pairs)


def test_classes_are_sorted_by_what_they_won_and_have_the_recalls_of_scikit_learn():
    a, b = (predictions(right) for right in drawn(300, 0.2, 0.25, np.random.default_rng(5)))
    table = class_changes(pair(a, b)).set_index("class")
    for name, part in (("a", a), ("b", b)):
        recall = recall_score(part["class"], part["predicted_class"], labels=list(table.index), average=None)
        assert list(table[f"recall_{name}"]) == pytest.approx(list(recall))
    assert list(table["change"]) == sorted(table["change"], reverse=True)
    counts = confusion_matrix(a["class"], a["predicted_class"], labels=list(table.index)).sum(axis=1)
    assert list(table["images"]) == list(counts)


def test_changed_images_are_all_with_another_prediction_the_lost_ones_first():
    names = ("x", "y", "z")
    a = predictions([1, 1, 0, 0, 0, 0], classes=names)
    b = predictions([1, 0, 1, 0, 0, 0], classes=names)
    b.loc[3, "predicted_class"] = "z"
    changed = changed_images(pair(a, b))
    assert dict(zip(changed["id"], changed["change"], strict=True)) == {
        "0001": "right -> wrong",
        "0002": "wrong -> right",
        "0003": "wrong -> another wrong",
    }
    assert list(changed["id"]) == ["0001", "0002", "0003"]


# In words.


@pytest.mark.parametrize(
    ("only_a", "only_b", "words"),
    [
        (0.0, 0.1, "B is better: of the"),
        (0.1, 0.0, "A is better: of the"),
        (0.02, 0.02, "No difference that 600 images can show: of the"),
    ],
)
def test_the_verdict_follows_the_test(only_a, only_b, words):
    tables = [predictions(right) for right in drawn(600, only_a, only_b, np.random.default_rng(0))]
    result = compare(pair(*tables))
    said = " ".join(verdict_lines(result))
    assert said.startswith(words)
    assert ("points is noise here" in said) == (result.p_value >= 0.05)


@pytest.mark.parametrize(("change", "better"), [(0.1, "A"), (-0.1, "B"), (0.0, None)])
def test_probabilities_are_judged_beside_the_accuracy(change, better):
    a = predictions([1] * 100)
    b = a.assign(loss=a["loss"] + change)
    said = " ".join(verdict_lines(compare(pair(a, b.assign(loss=b["loss"] + np.linspace(-0.01, 0.01, 100))))))
    assert ("log loss is significantly lower" in said) == (better is not None)
    assert better is None or f"{better} has the better probabilities" in said


def test_a_report_fits_a_terminal_and_json_holds_the_figures():
    tables = [predictions(right) for right in drawn(600, 0.1, 0.12, np.random.default_rng(0))]
    pairs = pair(*tables)
    result = compare(pairs, left_out=2)
    lines = comparison_lines(("main", "exp-1"), "test", result, pairs, most=2)
    assert lines[:2] == [
        "A is main, B is exp-1: 600 images of the test split; 2 that only one of them has",
        "are left out",
    ]
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("0") for line in lines) <= 6
    figures = comparison_facts(("main", "exp-1"), "test", result)
    assert (figures["a"], figures["images"], figures["p_value"]) == ("main", 600, result.p_value)
    assert figures["accuracy"]["low"] == result.accuracy.low


def test_without_rows_a_report_has_the_counts_alone():
    tables = [predictions(right) for right in drawn(600, 0.1, 0.12, np.random.default_rng(0))]
    pairs = pair(*tables)
    report = "\n".join(comparison_lines(("main", "exp-1"), "test", compare(pairs), pairs, most=0))
    assert "Empty" not in report
    assert "more changed" in report
