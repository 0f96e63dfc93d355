"""Temperature scaling and the reliability diagram."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from pipeline.evaluate.calibration import (
    cross_fitted_probabilities,
    fit_temperature,
    reliability,
)
from pipeline.evaluate.metrics import calibration_metrics


def simulate(images: int, classes: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times those whose softmax the labels are drawn from."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    return logits * temperature, np.minimum(labels, classes - 1)


class Logits(ClassifierMixin, BaseEstimator):
    """A classifier for scikit-learn whose decision function is its input."""

    def fit(self, logits, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits):
        return logits

    def predict(self, logits):
        return logits.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 11])
def test_the_simulated_temperature_is_found(classes, temperature):
    logits, labels = simulate(20_000, classes, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_equals_scikit_learns():
    logits, labels = simulate(500, 5, 2.5)
    model = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, labels)), method="temperature")
    expected = model.fit(logits, labels).predict_proba(logits)
    ours = softmax(logits / fit_temperature(logits, labels), axis=1)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_scaling_changes_no_prediction_and_reduces_the_loss_and_the_calibration_error():
    logits, labels = simulate(3000, 7, 3)
    plain, scaled = softmax(logits, axis=1), softmax(logits / fit_temperature(logits, labels), axis=1)
    np.testing.assert_array_equal(plain.argmax(axis=1), scaled.argmax(axis=1))
    assert log_loss(labels, scaled) < log_loss(labels, plain)
    assert calibration_metrics(labels, scaled)["ece"] < calibration_metrics(labels, plain)["ece"] / 3


@pytest.mark.parametrize("images", [0, 1, 5])
def test_if_every_prediction_is_correct_the_temperature_is_1(images):
    labels = np.arange(images) % 3
    assert fit_temperature(np.eye(3)[labels], labels) == 1.0


def test_predictions_worse_than_chance_become_uniform():
    labels = np.arange(30) % 3
    probabilities = softmax(-5 * np.eye(3)[labels] / fit_temperature(-5 * np.eye(3)[labels], labels), axis=1)
    np.testing.assert_allclose(probabilities, 1 / 3, atol=1e-3)


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
