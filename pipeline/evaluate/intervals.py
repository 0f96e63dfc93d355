"""Confidence intervals of the metrics: how uncertain they are because the images are a sample.

Shares of images have the intervals of ``pipeline.common.shares``, all other metrics the percentile interval of the
bootstrap (Efron & Tibshirani 1993), the macro F1 its basic interval (Davison & Hinkley 1997).
"""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from pipeline.common.shares import LEVEL, bonett_price, wilson
from pipeline.evaluate.metrics import BY_CLASS, image_scores

# Images of all resamples in one batch: 16 MB per array.
BATCH_IMAGES = 2_000_000


def confidence_intervals(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int, resamples: int
) -> dict[str, dict[str, float]]:
    """The 95 % intervals of the metrics of a split; the same on every run.

    The calibration error has none: it is biased upwards, in resamples even more, so that a percentile interval misses
    the true value far too often (none of 300 contained the 0 of a perfectly calibrated network). Neither has a metric
    that is the same in every resample, as if all images are classified correctly.

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``float64``, ``(images, classes)``; each row sums to 1.
        top_k: k of the top-k accuracy, which is always 1 for two classes and then has no interval.
        resamples: number of resamples of the bootstrap; with 0, only shares have intervals.

    Returns:
        ``{"low": ..., "high": ...}`` by the metric's name.
    """
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    scores = image_scores(labels, probabilities, top_k)
    if classes == 2:
        del scores[f"top_{top_k}_accuracy"]
    shares = {name: scores.pop(name) for name in list(scores) if "accuracy" in name}
    names = [*scores, "balanced_accuracy", *(f"macro_{name}" for name in BY_CLASS)]

    def statistic(rows: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        means = [score[rows].mean(axis=axis) for score in scores.values()]
        return np.concatenate([means, class_means(labels[rows], predicted[rows], classes)])

    ends = {name: wilson(score.sum(), len(score)) for name, score in shares.items()}
    if resamples and len(labels) > 1:  # of one image, all resamples are equal
        found = dict(zip(names, _percentiles(statistic, len(labels), resamples), strict=True))
        # A resample has fewer different images of a class, and so a lower F1: with 5 images per class, percentiles
        # contain the true value in 7 of 10 cases. Their mirror image at the estimate does in 9.
        mirrored = 2 * statistic(np.arange(len(labels))[None])[-1] - found["macro_f1"][::-1]
        found["macro_f1"] = mirrored.clip(0, 1)
        ends |= {name: pair for name, pair in found.items() if pair[0] < pair[1]}
    return {name: {"low": float(low), "high": float(high)} for name, (low, high) in ends.items()}


def paired_differences(
    labels: NDArray[np.int64], before: NDArray[np.float64], after: NDArray[np.float64], resamples: int
) -> dict[str, dict[str, float]]:
    """Accuracy and log loss of ``after`` minus those of ``before``, probabilities of the same images.

    Returns:
        For each its ``difference``, with the ends ``low`` and ``high`` of the 95 % interval: for the accuracy by Bonett
        & Price (2012), which holds also if few images change, for the log loss by the bootstrap.
    """
    old, new = (image_scores(labels, probabilities, 2) for probabilities in (before, after))
    changes = {name: new[name] - old[name] for name in ("accuracy", "log_loss")}
    ends = {"accuracy": bonett_price((changes["accuracy"] > 0).sum(), (changes["accuracy"] < 0).sum(), len(labels))}
    if resamples and np.ptp(changes["log_loss"]) > 0:
        loss = changes["log_loss"]
        [ends["log_loss"]] = _percentiles(lambda rows, axis=-1: loss[rows].mean(axis=axis)[None], len(loss), resamples)
    named = {name: dict(zip(("low", "high"), map(float, pair), strict=True)) for name, pair in ends.items()}
    return {name: {"difference": float(change.mean()), **named.get(name, {})} for name, change in changes.items()}


def intervals_by_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> pd.DataFrame:
    """Wilson's intervals of each class's precision, recall and F1, given the number of images that they count.

    An F1 of 2 j / (1 + j) is a share, too: j is the share of hits among the images that have the class as a label or as
    the prediction (Hand, Christen & Kirielle 2021).

    Returns:
        One row per class and the columns precision_low, precision_high and so on, NaN where the class has no images.
    """
    true, positive, hits = (counts[:, 0] for counts in _class_counts(labels[None], predicted[None], classes))
    jaccard = wilson(hits, np.where(true > 0, true + positive - hits, 0))
    ends = {
        "precision": wilson(hits, positive),
        "recall": wilson(hits, true),
        "f1": 2 * jaccard / (1 + jaccard),
    }
    return pd.DataFrame(
        {f"{name}_{end}": ends[name][row] for name in BY_CLASS for row, end in enumerate(("low", "high"))}
    )


def class_means(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Balanced accuracy and macro precision, recall and F1 of many samples at once, ``(4, samples)``, by the rules of
    ``pipeline.evaluate.metrics``.

    Args:
        labels, predicted: class indices, ``(samples, images)``.
        classes: number of classes.
    """
    true, positive, hits = _class_counts(labels, predicted, classes)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / positive, hits / true, 2 * hits / (true + positive)
    seen = (true + positive > 0).sum(axis=0)
    macro = [np.nansum(values, axis=0) / seen for values in (precision, recall, f1)]
    return np.stack([np.nanmean(recall, axis=0), *macro])


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
    with warnings.catch_warnings():
        # A metric may be the same in every resample.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        distribution = bootstrap(
            (np.arange(images),),
            statistic,
            vectorized=True,
            method="percentile",
            n_resamples=resamples,
            batch=max(BATCH_IMAGES // images, 1),
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    ends: NDArray[np.float64] = np.quantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1).T
    return ends
