"""Cross-fitted temperature scaling, the reliability diagram, and abstention."""

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluate.calibration import abstention, cross_fitted_probabilities, reliability, risk_coverage
from pipeline.evaluate.metrics import calibration_metrics
from tests.support.logits import simulate


def test_no_image_influences_its_own_temperature():
    logits, labels = simulate(60, 3, 3)
    before = cross_fitted_probabilities(logits, labels)
    # Its own logits count, but not whether its prediction is correct.
    labels[7] = (labels[7] + 1) % 3
    after = cross_fitted_probabilities(logits, labels)
    np.testing.assert_array_equal(before[7], after[7])
    changed = (before != after).any(axis=1)
    assert 0 < changed.sum() <= 30


def test_one_image_can_be_cross_fitted():
    np.testing.assert_allclose(cross_fitted_probabilities(np.array([[1.0, 0.0]]), np.array([1])).sum(axis=1), 1)


def test_the_diagram_contains_every_image_once_and_its_gaps_add_up_to_the_calibration_error():
    logits, labels = simulate(2000, 4, 2)
    probabilities = softmax(logits, axis=1)
    table = reliability(labels, probabilities)
    assert list(table.columns) == [
        "low", "high", "images", "confidence", "accuracy", "accuracy_low", "accuracy_high",
    ]  # fmt: skip
    assert table["images"].sum() == 2000
    assert table["confidence"].between(table["low"], table["high"]).all()
    assert table["accuracy"].between(table["accuracy_low"], table["accuracy_high"]).all()
    gap = (table["images"] * (table["accuracy"] - table["confidence"]).abs()).sum() / 2000
    assert gap == pytest.approx(calibration_metrics(labels, probabilities)["ece"])


def test_predictions_with_confidence_1_are_in_the_last_bin():
    table = reliability(np.array([0, 1, 1]), np.eye(2)[[0, 1, 0]])
    assert table[["images", "confidence", "accuracy"]].to_numpy().tolist() == [[3, 1, pytest.approx(2 / 3)]]


def test_the_risk_coverage_curve_is_the_accuracy_of_the_most_confident_images():
    confidence = np.array([0.9, 0.8, 0.8, 0.7])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 0, 0])
    curve, area = risk_coverage(labels, probabilities)
    assert curve.to_numpy() == pytest.approx(np.array([[0.9, 0.25, 1], [0.8, 0.75, 2 / 3], [0.7, 1, 0.75]]))
    assert area == pytest.approx((0 + 1 / 3 + 1 / 3 + 0.25) / 4)


def test_the_risk_coverage_curve_of_many_images_has_200_points_and_ends_with_all_of_them():
    logits, labels = simulate(3000, 5, 1)
    probabilities = softmax(logits, axis=1)
    curve, area = risk_coverage(labels, probabilities)
    accuracy = (probabilities.argmax(axis=1) == labels).mean()
    assert len(curve) == 200
    assert curve.iloc[-1][["coverage", "accuracy"]].tolist() == pytest.approx([1, accuracy])
    # The surest predictions are right more often.
    assert area < (1 - accuracy) / 1.5


def test_abstention_counts_what_reaches_the_threshold_of_its_class_and_none_reaches_no_threshold():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    found = abstention(labels, probabilities, ((0.0, 0.65, 0.8, None, None), (0.5, 0.8, 0.9, 0.9, None)))
    assert [(row["coverage"], row["accuracy"]) for row in found.values()] == [
        (1, 0.75),
        (0.75, pytest.approx(2 / 3)),
        (0.25, 1),
        (0, None),
        (0, None),
    ]
    assert list(found) == ["precision_0.8", "precision_0.9", "precision_0.95", "precision_0.98", "precision_0.99"]
    assert abstention(labels, probabilities, ()) == {}
