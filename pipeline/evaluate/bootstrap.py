"""Confidence intervals of the metrics: how uncertain they are because the images are a sample."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap

from pipeline.evaluate.metrics import BY_CLASS, image_scores

LEVEL = 0.95
# Images of all resamples in one batch: 16 MB per array.
BATCH_IMAGES = 2_000_000


def bootstrap_intervals(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int, resamples: int
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    """95 % percentile intervals (Efron & Tibshirani 1993) over resamples of the images; the same on every run.

    The metrics of a resample are those that scikit-learn would compute for it. A resample without images of a class
    is left out of the intervals of that class's recall and F1. If all images are classified correctly, or none, every
    resample has the same accuracy: then a share of images has its exact binomial interval (Clopper & Pearson 1934),
    and other metrics have none.

    The calibration error has no interval: it is biased upwards, in resamples even more, so that a percentile interval
    misses the true value far too often (none of 300 contained the 0 of a perfectly calibrated network).

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``float64``, ``(images, classes)``; each row sums to 1.
        top_k: k of the top-k accuracy, which is always 1 for two classes and then has no interval.
        resamples: number of resamples.

    Returns:
        ``{"low": ..., "high": ...}`` by the metric's name, and a table with one row per class and the columns
        precision_low, precision_high and so on, NaN where there is no interval.
    """
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    scores = image_scores(labels, probabilities, top_k)
    if classes == 2:
        del scores[f"top_{top_k}_accuracy"]

    def statistic(rows: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        means = [score[rows].mean(axis=axis) for score in scores.values()]
        return np.concatenate([means, *class_means(labels[rows], predicted[rows], classes)])

    ends = _percentiles(statistic, len(labels), resamples)
    for row, (hits, images) in enumerate(_shares(scores, labels, predicted, classes)):
        if ends[row, 0] == ends[row, 1]:
            ends[row] = binomtest(hits, images).proportion_ci(LEVEL, "exact") if images else np.nan
    names = [*scores, "balanced_accuracy", *(f"macro_{name}" for name in BY_CLASS)]
    overall = zip(names, ends[: len(names)].tolist(), strict=True)
    intervals = {name: {"low": low, "high": high} for name, (low, high) in overall if not np.isnan(low)}
    by_class = np.hstack(list(ends[len(names) :].reshape(len(BY_CLASS), classes, 2)))
    return intervals, pd.DataFrame(by_class, columns=[f"{name}_{end}" for name in BY_CLASS for end in ("low", "high")])


def class_means(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of many samples at once, by the rules of ``pipeline.evaluate.metrics``.

    Args:
        labels, predicted: class indices, ``(samples, images)``.
        classes: number of classes.

    Returns:
        Balanced accuracy and macro precision, recall and F1, ``(4, samples)``; precision, recall and F1 by class,
        ``(3 · classes, samples)``, NaN where they are 0/0.
    """
    true, positive, hits = _class_counts(labels, predicted, classes)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / positive, hits / true, 2 * hits / (true + positive)
    seen = (true + positive > 0).sum(axis=0)
    macro = [np.nansum(values, axis=0) / seen for values in (precision, recall, f1)]
    f1[true == 0] = np.nan
    return np.stack([np.nanmean(recall, axis=0), *macro]), np.concatenate([precision, recall, f1])


def _class_counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.int64], ...]:
    """Images by class and sample, ``(classes, samples)``: with this label, with this prediction, and with both."""
    samples = len(labels)
    offsets = classes * np.arange(samples)[:, None]

    def count(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(indices, minlength=samples * classes).reshape(samples, classes).T

    labels, predicted = labels + offsets, predicted + offsets
    return count(labels.ravel()), count(predicted.ravel()), count(labels[labels == predicted])


def _percentiles(statistic: Callable[..., NDArray[np.float64]], images: int, resamples: int) -> NDArray[np.float64]:
    """The intervals, ``(metrics, 2)``, of a function from rows ``(samples, images)`` to ``(metrics, samples)``."""
    rows = np.arange(images)
    if images == 1:
        # There is only one resample, and scipy rejects a single observation.
        return np.repeat(statistic(rows[None]), 2, axis=1)
    with warnings.catch_warnings():
        # A class has no recall in a resample without it, and in no resample if it has no images.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        distribution = bootstrap(
            (rows,),
            statistic,
            vectorized=True,
            method="percentile",
            n_resamples=resamples,
            batch=max(BATCH_IMAGES // images, 1),
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
        ends: NDArray[np.float64] = np.nanquantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1).T
        return ends


def _shares(
    scores: dict[str, NDArray[np.float64]], labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> list[tuple[int, int]]:
    """Hits and images for each row of the intervals; (0, 0) if the metric is not a share of images."""
    true, positive, hits = (counts[:, 0].tolist() for counts in _class_counts(labels[None], predicted[None], classes))
    overall = [(int(score.sum()), len(score)) if "accuracy" in name else (0, 0) for name, score in scores.items()]
    means = [(0, 0)] * (1 + len(BY_CLASS))
    return [*overall, *means, *zip(hits, positive, strict=True), *zip(hits, true, strict=True), *[(0, 0)] * classes]
