"""The metrics, compared with their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from pipeline.evaluate.metrics import (
    compute_metrics,
    confused_pairs,
    curves_by_class,
    image_scores,
    largest_top_k,
    metrics_by_class,
)
from tests.support.examples import examples

pytestmark = pytest.mark.filterwarnings("error")


@st.composite
def predictions(draw, least=2):
    """Labels that may lack a class, and probabilities that may be tied, 0 or 1."""
    classes, images = draw(st.integers(least, 6)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = random.choice(classes, draw(st.integers(1, classes)), replace=False)
    weights = random.random((images, classes)) ** draw(st.sampled_from([1, 4]))
    steps = draw(st.sampled_from([0, 1, 2, 4]))
    if steps:
        weights = np.floor(weights * (steps + 0.999))
    weights[weights.sum(axis=1) == 0] = 1
    return random.choice(present, images), weights / weights.sum(axis=1, keepdims=True)


def ratio(hits: int, images: int) -> float:
    return hits / images if images else 0.0


def class_figures(labels, predicted, index) -> tuple[float, float, float]:
    hits = sum(1 for label, guess in zip(labels, predicted, strict=True) if label == guess == index)
    precision, recall = ratio(hits, np.sum(predicted == index)), ratio(hits, np.sum(labels == index))
    return precision, recall, ratio(2 * precision * recall, precision + recall)


def calibration_error(confidence, correct) -> float:
    total = 0.0
    for number in range(15):
        # The last bin contains a confidence of 1.
        inside = [
            i for i, c in enumerate(confidence) if number / 15 <= c < (number + 1) / 15 or c == 1 == (number + 1) / 15
        ]
        total += abs(sum(confidence[i] - correct[i] for i in inside))
    return total / len(confidence)


@settings(max_examples=examples(150), deadline=None)
@given(predictions(), st.integers(2, 5))
@example((np.array([0, 2, 2]), np.full((3, 3), 1 / 3)), 2)
def test_every_metric_agrees_with_its_definition(case, top_k):
    labels, probabilities = case
    classes = probabilities.shape[1]
    top_k = min(top_k, max(classes - 1, 2))
    metrics = compute_metrics(labels, probabilities, top_k)
    rows = [row.tolist() for row in probabilities]
    predicted = np.array([row.index(max(row)) for row in rows])
    ranked = [sorted(range(classes), key=lambda index, row=row: (-row[index], index)) for row in rows]
    of_label = [row[label] for row, label in zip(rows, labels, strict=True)]
    squares = [sum((p - (i == label)) ** 2 for i, p in enumerate(row)) for row, label in zip(rows, labels, strict=True)]
    figures = np.array([class_figures(labels, predicted, index) for index in range(classes)])
    seen = sorted({*labels.tolist(), *predicted.tolist()})
    expected = {
        "accuracy": np.mean(predicted == labels),
        "balanced_accuracy": np.mean([figures[index][1] for index in set(labels.tolist())]),
        f"top_{top_k}_accuracy": np.mean([label in order[:top_k] for label, order in zip(labels, ranked, strict=True)]),
        **dict(zip(("macro_precision", "macro_recall", "macro_f1"), figures[seen].mean(axis=0), strict=True)),
        "log_loss": np.mean([-math.log(min(max(p, 2.0**-52), 1 - 2.0**-52)) for p in of_label]),
        "brier": np.mean(squares) / (2 if classes == 2 else 1),
        "ece": calibration_error(probabilities.max(axis=1), predicted == labels),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-9), name
    for name, scores in image_scores(labels, probabilities, top_k).items():
        assert scores.mean() == pytest.approx(metrics[name], abs=1e-9), name


@settings(max_examples=100, deadline=None)
@given(predictions())
def test_metrics_by_class_agree_with_their_definitions_and_are_nan_where_undefined(case):
    labels, probabilities = case
    predicted = probabilities.argmax(axis=1)
    names = tuple(f"class {index}" for index in range(probabilities.shape[1]))
    table = metrics_by_class(labels, predicted, names)
    assert list(table.columns) == ["class", "precision", "recall", "f1", "images"]
    for index, row in table.iterrows():
        assert row["images"] == np.sum(labels == index)
        if row["images"]:
            assert row[["precision", "recall", "f1"]].tolist() == pytest.approx(class_figures(labels, predicted, index))
        else:
            assert np.isnan([row["recall"], row["f1"]]).all()
            assert np.isnan(row["precision"]) == (index not in predicted)


@settings(max_examples=100, deadline=None)
@given(predictions())
def test_areas_under_the_curves_agree_with_counting_pairs_and_ranks(case):
    labels, probabilities = case
    names = tuple(map(str, range(probabilities.shape[1])))
    roc, precision_recall, areas = curves_by_class(labels, probabilities, names)
    drawn = [name for index, name in enumerate(names) if 0 < np.sum(labels == index) < len(labels)]
    assert list(roc["class"].unique()) == list(precision_recall["class"].unique()) == drawn
    for index, row in areas.iterrows():
        scores, positive = probabilities[:, index], labels == index
        if row["class"] not in drawn:
            assert np.isnan([row["roc_auc"], row["average_precision"]]).all()
            continue
        pairs = scores[positive][:, None] - scores[~positive][None]
        assert row["roc_auc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
        ends = sorted(set(scores), reverse=True)
        recall = [np.mean(scores[positive] >= end) for end in ends]
        precision = [np.mean(positive[scores >= end]) for end in ends]
        area = sum(p * (r - before) for p, r, before in zip(precision, recall, [0, *recall], strict=False))
        assert row["average_precision"] == pytest.approx(area)


def test_calibration_error_equals_torchmetrics():
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 7, 500), random.dirichlet(np.ones(7), 500)
    expected = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), num_classes=7)
    assert compute_metrics(labels, probabilities, 3)["ece"] == pytest.approx(expected.item())


def test_equal_probabilities_predict_the_first_classes():
    labels = np.repeat(np.arange(5), 3)
    metrics = compute_metrics(labels, np.full((15, 5), 0.2), top_k=3)
    assert (metrics["accuracy"], metrics["top_3_accuracy"]) == (0.2, 0.6)
    assert metrics["log_loss"] == pytest.approx(math.log(5))
    assert metrics["ece"] == pytest.approx(0)


def test_perfect_predictions_have_perfect_metrics_even_if_a_class_has_no_images():
    metrics = compute_metrics(np.array([0, 1, 1]), np.eye(3)[[0, 1, 1]], top_k=2)
    assert [metrics[name] for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1")] == [1, 1, 1, 1]
    assert (metrics["brier"], metrics["ece"]) == (0, 0)


@pytest.mark.parametrize(
    ("top_k", "classes", "largest"), [(3, 2, 2), (3, 3, 2), (5, 5, 4), (100, 11, 10), (3, 11, 3), (2, 2, 2)]
)
def test_top_k_is_less_than_the_number_of_classes_and_at_least_2(top_k, classes, largest):
    assert largest_top_k(top_k, classes) == largest


def test_confused_pairs_are_sorted_by_count():
    counts = np.array([[5, 2, 0], [4, 0, 1], [0, 2, 0]])
    table = confused_pairs(counts, ("a", "b", "c"))
    assert table.to_numpy().tolist() == [
        ["b", "a", 4, 4 / 5],
        ["a", "b", 2, 2 / 7],
        ["c", "b", 2, 1.0],
        ["b", "c", 1, 1 / 5],
    ]
    assert confused_pairs(np.eye(3, dtype=int), ("a", "b", "c")).empty


def test_curves_of_many_images_are_thinned_and_keep_their_ends():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 20_000)
    probabilities = random.dirichlet(np.ones(3), 20_000)
    roc, precision_recall, areas = curves_by_class(labels, probabilities, ("a", "b", "c"))
    assert roc["class"].value_counts().tolist() == precision_recall["class"].value_counts().tolist() == [200] * 3
    one = roc[roc["class"] == "a"]
    assert one[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert np.trapezoid(one["tpr"].astype(float), one["fpr"].astype(float)) == pytest.approx(
        areas["roc_auc"][0], abs=0.01
    )


@pytest.mark.slow
def test_curves_of_a_thousand_classes_stay_small():
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 1000, 2000), random.dirichlet(np.ones(1000), 2000)
    roc, precision_recall, _ = curves_by_class(labels, probabilities, tuple(map(str, range(1000))))
    assert max(len(roc), len(precision_recall)) <= 40_000
