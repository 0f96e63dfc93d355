"""What is fitted on the validation split: temperature, energy and thresholds."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from pipeline.evaluate.metrics import calibration_metrics
from pipeline.network.calibrating import energies, fit_calibration, fit_temperature, precision_thresholds
from pipeline.network.calibration import PRECISIONS
from pipeline.network.models import class_logits
from tests.support.logits import simulate


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
    logits, labels = simulate(20_000, 5, 2.5)
    model = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, labels)), method="temperature")
    expected = model.fit(logits, labels).predict_proba(logits)
    ours = softmax(logits / fit_temperature(logits, labels), axis=1)
    # That of scikit-learn has no smoothing, which matters for few images only.
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_scaling_changes_no_prediction_and_reduces_the_loss_and_the_calibration_error():
    logits, labels = simulate(3000, 7, 3)
    plain, scaled = softmax(logits, axis=1), softmax(logits / fit_temperature(logits, labels), axis=1)
    np.testing.assert_array_equal(plain.argmax(axis=1), scaled.argmax(axis=1))
    assert log_loss(labels, scaled) < log_loss(labels, plain)
    assert calibration_metrics(labels, scaled)["ece"] < calibration_metrics(labels, plain)["ece"] / 3


@pytest.mark.parametrize("images", [1, 20, 1000])
def test_if_every_prediction_is_correct_the_confidence_is_below_1_and_grows_with_the_images(images):
    labels = np.arange(images) % 3
    probabilities = softmax(np.eye(3)[labels] / fit_temperature(np.eye(3)[labels], labels), axis=1)
    # As if one more prediction had been made that is correct, and one more that is wrong (Platt 1999).
    np.testing.assert_allclose(probabilities.max(axis=1), (images + 1) / (images + 2), atol=1e-4)


def test_without_images_the_temperature_is_1():
    assert fit_temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1.0


def test_predictions_worse_than_chance_become_uniform():
    labels = np.arange(30) % 3
    probabilities = softmax(-5 * np.eye(3)[labels] / fit_temperature(-5 * np.eye(3)[labels], labels), axis=1)
    np.testing.assert_allclose(probabilities, 1 / 3, atol=1e-3)


def test_energy_is_the_logsumexp_of_centred_logits_and_of_one_sigmoid_output_does_not_depend_on_the_class():
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [-4.0, -3.0, -2.0], [7.0, 7.0, 7.0]])
    one_class, none = np.log(np.exp([-1, 0, 1]).sum()), np.log(3)
    np.testing.assert_allclose(energies(logits), [one_class, none, one_class, none])
    one, other = energies(class_logits(torch.tensor([[3.0], [-3.0]])).numpy())
    assert one == pytest.approx(other)
    assert one > energies(class_logits(torch.zeros(1, 1)).numpy())[0]


def test_one_percent_of_the_images_have_a_lower_energy_than_the_limit():
    logits, labels = simulate(1000, 4, 1)
    calibration = fit_calibration(logits, labels)
    assert (energies(logits) < calibration.energy).mean() == pytest.approx(0.01, abs=0.002)
    assert calibration.temperature == fit_temperature(logits, labels)


def thresholds_of(correct, confidence) -> tuple:
    """Thresholds of class 0 if all predictions are of this class."""
    probabilities = np.stack([confidence, 1 - np.array(confidence)], axis=1)
    return precision_thresholds(np.where(correct, 0, 1), probabilities)[0]


def test_a_threshold_is_the_lowest_probability_at_which_the_precision_is_reached():
    confidence = np.linspace(0.999, 0.501, 500)
    correct = np.ones(500, bool)
    correct[200:300:5], correct[300:] = False, np.arange(200) % 2 == 0
    for precision, threshold in zip(PRECISIONS, thresholds_of(correct, confidence), strict=True):
        accepted = confidence >= threshold
        assert (correct[accepted].sum() + 1) / (accepted.sum() + 2) >= precision
        for more in confidence[~accepted]:
            larger = confidence >= more
            assert (correct[larger].sum() + 1) / (larger.sum() + 2) < precision


def test_a_precision_that_all_predictions_have_needs_no_threshold_and_one_that_none_have_has_none():
    assert thresholds_of(np.ones(200, bool), np.linspace(0.6, 0.9, 200)) == (0, 0, 0, 0, 0)
    assert thresholds_of(np.zeros(200, bool), np.linspace(0.6, 0.9, 200)) == (None,) * 5


@pytest.mark.parametrize("first", [True, False], ids=["right ones first", "wrong ones first"])
def test_images_of_the_same_rounded_probability_are_accepted_together_in_any_order(first):
    correct = np.repeat([first, not first], 20)
    assert thresholds_of(correct, 0.95 + 1e-6 * np.arange(40)) == (None,) * 5
    # 60 correct ones above have a precision of 61 / 62, together with the others of 81 / 102.
    surer = thresholds_of(np.append(np.ones(60, bool), correct), np.append(np.full(60, 0.97), np.full(40, 0.95)))
    assert surer == (0.97,) * 4 + (None,)


def test_each_class_has_its_own_thresholds_unless_it_has_too_few_images_for_the_precision():
    # 150 correct predictions of class 0, 150 of class 1 of which the surest 100 are correct, 3 of class 2.
    predicted = np.repeat([0, 1, 2], [150, 150, 3])
    confidence = np.concatenate([np.linspace(0.9, 0.6, 150), np.linspace(0.95, 0.65, 150), [0.9, 0.8, 0.7]])
    labels = predicted.copy()
    labels[250:300] = 2
    probabilities = np.zeros((303, 3))
    probabilities[np.arange(303), predicted] = confidence
    probabilities[np.arange(303), (predicted + 1) % 3] = 1 - confidence
    first, second, third = precision_thresholds(labels, probabilities)
    assert first == (0, 0, 0, 0, 0)
    assert second[3] == pytest.approx(confidence[249], abs=0.005)
    together = thresholds_of(labels == predicted, confidence)
    assert third[0] == 0  # (3 + 1) / (3 + 2) = 0.8
    assert third[1:] == together[1:]


@pytest.mark.parametrize(("wrong", "row"), [(2, (None,) * 5), (59, (0,) * 5)], ids=["every second", "the surest"])
def test_a_class_that_is_less_precise_is_unsure_and_one_with_too_few_images_to_tell_is_like_all(wrong, row):
    # 60 predictions of class 0, of which some are wrong, and 300 correct ones of class 1.
    predicted = np.repeat([0, 1], [60, 300])
    labels = np.where((predicted == 0) & (np.arange(360) % wrong == 0) & (np.arange(360) < 59), 1, predicted)
    confidence = np.append(np.linspace(0.9, 0.6, 60), np.linspace(0.99, 0.7, 300))
    of_first = np.where(predicted == 0, confidence, 1 - confidence)
    assert precision_thresholds(labels, np.stack([of_first, 1 - of_first], axis=1)) == (row, (0,) * 5)
