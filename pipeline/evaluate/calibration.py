"""Whether a confidence of 80 % means 80 % right, and a temperature that brings it closer to that."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binned_statistic, binomtest

from pipeline.evaluate.metrics import CALIBRATION_BINS

# Of the temperature's natural logarithm, as in scikit-learn.
LOG_LIMITS = (-10, 10)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature T for which softmax(logits / T) has the least log loss (Guo et al. 2017).

    Args:
        logits: ``float64``, ``(images, classes)``.
        labels: true class indices, ``(images,)``.

    Returns:
        T > 0; above 1 where the network is too sure. 1 where every image is right, or there is none: then the log
        loss falls without end as T falls, and no temperature is the best.
    """
    of_label = np.take_along_axis(logits, labels[:, None], axis=1)
    if (of_label >= logits.max(axis=1, keepdims=True)).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-np.take_along_axis(scaled, labels[:, None], axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_LIMITS, options={"xatol": 1e-6}).x))


def cross_fitted_probabilities(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Temperature-scaled probabilities, ``(images, classes)``, by the temperature of the other half of the images.

    For judging temperature scaling on the split that the temperature comes from: no image has a say in its own. The
    halves are drawn at random, always alike.
    """
    halves = np.random.default_rng(0).permutation(len(labels)) % 2
    temperatures = [fit_temperature(logits[halves != half], labels[halves != half]) for half in (0, 1)]
    probabilities: NDArray[np.float64] = softmax(logits / np.array(temperatures)[halves, None], axis=1)
    return probabilities


def reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """The reliability diagram (DeGroot & Fienberg 1983): 15 bins of equal width by the predicted class's probability.

    Returns:
        A row a bin that has images: low and high, its ends; images, how many; confidence, their mean probability of
        the predicted class; accuracy, the share of them that is right; accuracy_low and accuracy_high, its exact
        binomial 95 % interval (Clopper & Pearson 1934).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    images, hits = (binned_statistic(confidence, right, name, edges).statistic.astype(int) for name in ("count", "sum"))
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "images": images})
    table["confidence"] = binned_statistic(confidence, confidence, "mean", edges).statistic
    filled: NDArray[np.bool_] = images > 0
    table, images, hits = table[filled].reset_index(drop=True), images[filled], hits[filled]
    table["accuracy"] = hits / images
    intervals = [binomtest(*pair).proportion_ci(0.95, "exact") for pair in zip(hits, images, strict=True)]
    return table.assign(accuracy_low=[ends.low for ends in intervals], accuracy_high=[ends.high for ends in intervals])
