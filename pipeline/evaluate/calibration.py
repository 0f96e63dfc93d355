"""Whether 80 % confidence means 80 % accuracy, and what abstaining below a confidence would achieve."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binned_statistic

from pipeline.common.dataset import evenly_spaced
from pipeline.common.shares import wilson
from pipeline.evaluate.metrics import BINS
from pipeline.network.calibrating import fit_temperature
from pipeline.network.calibration import PRECISIONS

CURVE_POINTS = 200


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


def risk_coverage(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[pd.DataFrame, float]:
    """The risk-coverage curve (Geifman & El-Yaniv 2017): the accuracy of the predictions with at least a confidence.

    Returns:
        confidence, the lowest that is accepted; coverage, the share of images that have it; accuracy of these; for at
        most 200 different confidences, from the highest to the lowest. And the area under the risk 1 - accuracy as a
        function of the coverage, 0 to 1: its mean over all images, where images of equal confidence are accepted
        together.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    table = pd.DataFrame({"confidence": confidence, "hits": correct, "images": 1}).groupby("confidence").sum()
    table = table.sort_index(ascending=False)
    accuracy = table["hits"].cumsum() / table["images"].cumsum()
    area = float(np.average(1 - accuracy, weights=table["images"]))
    coverage = table["images"].cumsum() / len(labels)
    curve = pd.DataFrame({"coverage": coverage, "accuracy": accuracy}).reset_index()
    return curve.iloc[evenly_spaced(len(curve), CURVE_POINTS)], area


def abstention(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    thresholds: tuple[tuple[float | None, ...], ...],
) -> dict[str, dict[str, float | None]]:
    """What the thresholds of each level of precision achieve: the share of images that are accepted, and the accuracy
    of these, None if there are none."""
    if not thresholds:
        return {}
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    # None becomes NaN, which no probability reaches.
    accepted = confidence[:, None] >= np.array(thresholds, float)[predicted]
    return {
        f"precision_{level:g}": {
            "coverage": float(of_level.mean()),
            "accuracy": float((predicted == labels)[of_level].mean()) if of_level.any() else None,
        }
        for level, of_level in zip(PRECISIONS, accepted.T, strict=True)
    }
