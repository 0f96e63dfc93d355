"""Intervals around the metrics: how far they could lie from the truth because the images are so few."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap

from pipeline.evaluate.metrics import BY_CLASS, image_scores

LEVEL = 0.95
# So many drawn images are held at a time: 16 MB an array.
BATCH_IMAGES = 2_000_000


def bootstrap_intervals(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int, resamples: int
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    """95 % percentile intervals (Efron & Tibshirani 1993) over resamples of the images; always the same ones.

    A resample is judged as scikit-learn would judge it if it were the split; one without images of a class adds nothing
    to the intervals of that class's recall and F1. Where all images are right, or all wrong, every resample is like
    the split; then a share has its exact binomial interval (Clopper & Pearson 1934), and another metric none.

    The calibration error has no interval: it is biased upwards, a resample's even more so, and its percentile
    interval misses the truth far too often (none of 300 held the 0 of a perfectly calibrated network).

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``float64``, ``(images, classes)``; each row sums to 1.
        top_k: of the top-k accuracy, which for two classes is always 1 and has no interval.
        resamples: how many are drawn.

    Returns:
        ``{"low": ..., "high": ...}`` by the metric's name, and a table with a row a class and the columns
        precision_low, precision_high and so on, NaN where there is no interval.
    """
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    scores = image_scores(labels, probabilities, top_k)
    if classes == 2:
        del scores[f"top_{top_k}_accuracy"]

    def judge(rows: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        means = [score[rows].mean(axis=axis) for score in scores.values()]
        return np.concatenate([means, *class_means(labels[rows], predicted[rows], classes)])

    ends = _percentiles(judge, len(labels), resamples)
    for row, (hits, images) in enumerate(_shares(scores, labels, predicted, classes)):
        if ends[row, 0] == ends[row, 1]:
            ends[row] = binomtest(hits, images).proportion_ci(LEVEL, "exact") if images else np.nan
    names = [*scores, "balanced_accuracy", *(f"macro_{name}" for name in BY_CLASS)]
    whole = zip(names, ends[: len(names)].tolist(), strict=True)
    intervals = {name: {"low": low, "high": high} for name, (low, high) in whole if not np.isnan(low)}
    by_class = np.hstack(list(ends[len(names) :].reshape(len(BY_CLASS), classes, 2)))
    return intervals, pd.DataFrame(by_class, columns=[f"{name}_{end}" for name in BY_CLASS for end in ("low", "high")])


def class_means(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Judge many samples at once by precision, recall and F1, with the rules of ``pipeline.evaluate.metrics``.

    Args:
        labels, predicted: class indices, ``(samples, images)``.
        classes: how many there are.

    Returns:
        Balanced accuracy and macro precision, recall and F1, ``(4, samples)``; precision, recall and F1 by class,
        ``(3 · classes, samples)``, NaN where they are 0/0.
    """
    true, taken, hits = _class_counts(labels, predicted, classes)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / taken, hits / true, 2 * hits / (true + taken)
    seen = (true + taken > 0).sum(axis=0)
    macro = [np.nansum(values, axis=0) / seen for values in (precision, recall, f1)]
    f1[true == 0] = np.nan
    return np.stack([np.nanmean(recall, axis=0), *macro]), np.concatenate([precision, recall, f1])


def _class_counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.int64], ...]:
    """By class and sample, ``(classes, samples)``: how many images have it, are taken for it, and both."""
    samples = len(labels)
    offsets = classes * np.arange(samples)[:, None]
    right = labels == predicted

    def count(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(indices, minlength=samples * classes).reshape(samples, classes).T

    return count((labels + offsets).ravel()), count((predicted + offsets).ravel()), count((labels + offsets)[right])


def _percentiles(judge: Callable[..., NDArray[np.float64]], images: int, resamples: int) -> NDArray[np.float64]:
    """The intervals, ``(metrics, 2)``, of a function from row numbers ``(samples, images)`` to
    ``(metrics, samples)``."""
    rows = np.arange(images)
    if images == 1:
        # Nothing to draw from, and scipy refuses it.
        return np.repeat(judge(rows[None]), 2, axis=1)
    with warnings.catch_warnings():
        # A class has no recall in a resample without it, and in none where it has no images.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        drawn = bootstrap(
            (rows,),
            judge,
            vectorized=True,
            method="percentile",
            n_resamples=resamples,
            batch=max(BATCH_IMAGES // images, 1),
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
        ends: NDArray[np.float64] = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1).T
        return ends


def _shares(
    scores: dict[str, NDArray[np.float64]], labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> list[tuple[int, int]]:
    """For each row of the intervals how many of how many images are hits; (0, 0) where it is no share of images."""
    true, taken, hits = (counts[:, 0].tolist() for counts in _class_counts(labels[None], predicted[None], classes))
    whole = [(int(score.sum()), len(score)) if "accuracy" in name else (0, 0) for name, score in scores.items()]
    means = [(0, 0)] * (1 + len(BY_CLASS))
    return [*whole, *means, *zip(hits, taken, strict=True), *zip(hits, true, strict=True), *[(0, 0)] * classes]
