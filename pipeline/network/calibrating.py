"""Fits calibration, energy limit and thresholds to the logits of the validation split."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import binom

from pipeline.network.calibration import PRECISIONS, Calibration

# Limits of the temperature's natural logarithm, as in scikit-learn.
LOG_LIMITS = (-10, 10)
# The share of ordinary images that is taken for images unlike them.
OUTLIERS = 0.01
# Of the test whether a class is less precise than all together.
SIGNIFICANCE = 0.05


def fit_calibration(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Fit temperature, energy and thresholds to the logits of the validation split, ``(images, classes)``."""
    temperature = fit_temperature(logits, labels)
    return Calibration(
        temperature=temperature,
        energy=float(np.quantile(energies(logits), OUTLIERS, method="lower")),
        thresholds=precision_thresholds(labels, softmax(logits / temperature, axis=1)),
    )


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature T that minimises the log loss of softmax(logits / T) (Guo et al. 2017).

    As in Platt scaling (Platt 1999), labels count as wrong with a probability of 1 / (images + 2): without it, the loss
    of a network that classifies every image correctly would keep falling as T approaches 0.

    Args:
        logits: ``float64``, ``(images, classes)``.
        labels: true class indices, ``(images,)``.

    Returns:
        T > 0; above 1 if the network is overconfident; 1 without images.
    """
    images, classes = logits.shape
    if not images:
        return 1.0
    wrong = 1 / (images + 2)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        of_label = np.take_along_axis(scaled, labels[:, None], axis=1)[:, 0]
        of_others = (scaled.sum(axis=1) - of_label) / (classes - 1)
        return float(-((1 - wrong) * of_label + wrong * of_others).mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_LIMITS, options={"xatol": 1e-6}).x))


def energies(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The energy score of each image, ``(images,)``: logsumexp of its logits less their mean. It is low for images
    unlike the training data.

    Without the mean it is the negative energy of Liu et al. 2020. A constant that is added to all logits changes no
    probability, but that energy: with it, a grey image, whose logits are all about 0, looked more like the training
    images of a fine-tuned network than those images, whose logits are mostly negative.
    """
    centred = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    scores: NDArray[np.float64] = logsumexp(centred, axis=1)
    return scores


def precision_thresholds(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[tuple[float | None, ...], ...]:
    """For each class and each of ``PRECISIONS``, the lowest probability such that predictions of the class with at
    least this probability have that precision.

    The precision is estimated as (hits + 1) / (predictions + 2), so that a few images do not suffice for a high one. If
    a class has no such probability, the threshold is that of all classes together, unless the class is significantly
    less precise there (binomial test, 5 %). It is 0 if all predictions have that precision, and None if there is no
    such probability. What is unsure for a precision is unsure for a higher one, too.
    """
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    together = _thresholds(confidence, predicted == labels)
    rows = []
    for index in range(probabilities.shape[1]):
        chosen = predicted == index
        of_class, correct = confidence[chosen], labels[chosen] == index
        row = _thresholds(of_class, correct)
        for level, (precision, own, least) in enumerate(zip(PRECISIONS, row, together, strict=True)):
            if own is None and least is not None:
                above = of_class >= least
                if binom.cdf(correct[above].sum(), above.sum(), precision) >= SIGNIFICANCE:
                    row[level] = least
        highest = np.maximum.accumulate([np.inf if least is None else least for least in row])
        rows.append(tuple(None if np.isinf(least) else float(least) for least in highest))
    return tuple(rows)


def _thresholds(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[float | None]:
    """The thresholds of a set of predictions for each of ``PRECISIONS``, rounded down to four decimals."""
    order = np.argsort(-confidence, kind="stable")
    precision = (correct[order].cumsum() + 1) / (np.arange(len(order)) + 3)
    rounded = np.floor(confidence[order] * 1e4) / 1e4
    # A threshold accepts all images of its rounded probability, so it is judged after the last of them.
    last = np.append(rounded[1:] < rounded[:-1], True)[: len(order)]
    # If all of them have it, nothing is known against those of lower probability.
    lowest = np.append(rounded[:-1], 0.0)
    reached = [np.flatnonzero(last & (precision >= level)) for level in PRECISIONS]
    return [float(lowest[rows[-1]]) if len(rows) else None for rows in reached]
