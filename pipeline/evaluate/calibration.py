"""Whether 80 % confidence means 80 % accuracy, and a temperature that brings the two closer together."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binned_statistic

from pipeline.evaluate.intervals import wilson
from pipeline.evaluate.metrics import BINS

# Limits of the temperature's natural logarithm, as in scikit-learn.
LOG_LIMITS = (-10, 10)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature T that minimises the log loss of softmax(logits / T) (Guo et al. 2017).

    Args:
        logits: ``float64``, ``(images, classes)``.
        labels: true class indices, ``(images,)``.

    Returns:
        T > 0; above 1 if the network is overconfident. 1 if every image is classified correctly, or there are no
        images: then the log loss has no minimum, since it keeps falling as T approaches 0.
    """
    of_label = np.take_along_axis(logits, labels[:, None], axis=1)
    if (of_label >= logits.max(axis=1, keepdims=True)).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-np.take_along_axis(scaled, labels[:, None], axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_LIMITS, options={"xatol": 1e-6}).x))


def cross_fitted_probabilities(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Temperature-scaled probabilities, ``(images, classes)``: each half of the images is scaled by the temperature
    that was fitted on the other half.

    For evaluating temperature scaling on the split that the temperature is fitted on: no image influences its own
    temperature. The halves are random, but the same on every run.
    """
    halves = np.random.default_rng(0).permutation(len(labels)) % 2
    temperatures = [fit_temperature(logits[halves != half], labels[halves != half]) for half in (0, 1)]
    probabilities: NDArray[np.float64] = softmax(logits / np.array(temperatures)[halves, None], axis=1)
    return probabilities


def reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """The reliability diagram (DeGroot & Fienberg 1983): 15 bins of equal width by confidence.

    Returns:
        One row per bin that is not empty: low and high, its limits; images, their number; confidence, their mean
        confidence; accuracy, the share that is classified correctly; accuracy_low and accuracy_high, its
        95 % interval by Wilson.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    values, edges = [confidence, correct], np.linspace(0, 1, BINS + 1)
    images, _ = binned_statistic(confidence, values, "count", edges).statistic.astype(int)
    total, hits = binned_statistic(confidence, values, "sum", edges).statistic
    filled = images > 0
    images, total, hits = images[filled], total[filled], hits[filled].astype(int)
    low, high = wilson(hits, images)
    columns = {
        "low": edges[:-1][filled],
        "high": edges[1:][filled],
        "images": images,
        "confidence": total / images,
        "accuracy": hits / images,
        "accuracy_low": low,
        "accuracy_high": high,
    }
    return pd.DataFrame(columns)
