"""Metrics of class probabilities, computed by scikit-learn.

Where several classes have the same probability, the first of them is the predicted one, as with ``argmax``.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binned_statistic
from sklearn.metrics import (
    auc,
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_curve,
)

from pipeline.common.dataset import evenly_spaced

BY_CLASS = ("precision", "recall", "f1")
# Of the calibration error and the reliability diagram.
BINS = 15
CURVE_POINTS, ALL_CURVES_POINTS = 200, 40_000


def largest_top_k(top_k: int, classes: int) -> int:
    """``top_k``, but less than the number of classes: the accuracy would always be 1. At least 2, also for two classes,
    which have no other."""
    return min(top_k, max(classes - 1, 2))


def compute_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int) -> dict[str, float]:
    """Compute every metric of a whole split.

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``float64``, ``(images, classes)``; each row sums to 1.
        top_k: k of the top-k accuracy.

    Returns:
        ``accuracy``; ``balanced_accuracy``, the mean recall over the classes that have images; ``top_{k}_accuracy``;
        ``macro_precision``, ``macro_recall`` and ``macro_f1``, means over the classes that occur as a label or as a
        prediction, where 0/0 counts as 0; and those of :func:`calibration_metrics`.
    """
    scores, predicted = image_scores(labels, probabilities, top_k), probabilities.argmax(axis=1)
    macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    return {
        "accuracy": scores["accuracy"].mean(),
        # The same as balanced_accuracy_score, without its warning about classes that have no images.
        "balanced_accuracy": recall_score(labels, predicted, labels=np.unique(labels), average="macro"),
        f"top_{top_k}_accuracy": scores[f"top_{top_k}_accuracy"].mean(),
        **{f"macro_{name}": value for name, value in zip(BY_CLASS, macro, strict=False)},
        **calibration_metrics(labels, probabilities),
    }


def calibration_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Compute the metrics that a temperature changes.

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``float64``, ``(images, classes)``; each row sums to 1.

    Returns:
        ``log_loss`` in nats; ``brier`` (Brier 1950), 0 to 2, or 0 to 1 for two classes, as scikit-learn scales it;
        ``ece``, the expected calibration error (Guo et al. 2017), 0 to 1: the mean distance between confidence, the
        probability of the predicted class, and accuracy over 15 bins of equal width.
    """
    classes = np.arange(probabilities.shape[1])
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    gaps = binned_statistic(confidence, confidence - correct, "sum", np.linspace(0, 1, BINS + 1)).statistic
    return {
        "log_loss": log_loss(labels, probabilities, labels=classes),
        "brier": brier_score_loss(labels, probabilities, labels=classes),
        "ece": float(np.abs(gaps).sum() / len(labels)),
    }


def image_scores(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int
) -> dict[str, NDArray[np.float64]]:
    """The score of each image, ``(images,)``, for the metrics that are means over the images, by the metric's name.

    Arguments as in :func:`compute_metrics`. The log loss of an image is at most 36: scikit-learn clips probabilities
    to the precision of ``float64``.
    """
    classes = np.arange(probabilities.shape[1])
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    rank = (probabilities > of_label).sum(axis=1)
    rank += ((probabilities == of_label) & (classes < labels[:, None])).sum(axis=1)
    epsilon = np.finfo(probabilities.dtype).eps
    distances = ((probabilities - (classes == labels[:, None])) ** 2).sum(axis=1)
    return {
        "accuracy": (rank < 1).astype(float),
        f"top_{top_k}_accuracy": (rank < top_k).astype(float),
        "log_loss": -np.log(np.clip(of_label[:, 0], epsilon, 1 - epsilon)),
        "brier": distances / 2 if len(classes) == 2 else distances,
    }


def metrics_by_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...]) -> pd.DataFrame:
    """Precision, recall, F1 and the number of images, one row per class.

    A class without images has no recall and no F1 (NaN), and if it is never predicted, no precision either. A class
    with images that is never predicted has precision 0.
    """
    indices = np.arange(len(classes))
    values = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    table = pd.DataFrame({"class": classes, **dict(zip((*BY_CLASS, "images"), values, strict=True))})
    empty = table["images"] == 0
    table.loc[empty, ["recall", "f1"]] = np.nan
    table.loc[empty & ~np.isin(indices, predicted), "precision"] = np.nan
    return table


def confused_pairs(counts: NDArray[np.int64], classes: tuple[str, ...]) -> pd.DataFrame:
    """The pairs of classes in a confusion matrix, ``(classes, classes)``, that are mistakes, the most frequent first.

    Returns:
        The columns class, predicted_class, count, and share: of the images of the class.
    """
    mistakes = counts - np.diag(np.diag(counts))
    actual, predicted = np.nonzero(mistakes)
    order = np.argsort(-mistakes[actual, predicted], kind="stable")
    actual, predicted = actual[order], predicted[order]
    names = np.array(classes, dtype=object)
    count = mistakes[actual, predicted]
    share = count / counts.sum(axis=1)[actual]
    return pd.DataFrame({"class": names[actual], "predicted_class": names[predicted], "count": count, "share": share})


def curves_by_class(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: tuple[str, ...]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """ROC and precision-recall curves of each class against all others.

    A curve is thinned to 200 points, fewer with more than 200 classes; the areas are those of the whole curve. A class
    that has no images, or all of them, has no curves, and its areas are NaN.

    Returns:
        ``class, fpr, tpr``; ``class, recall, precision``; and ``class, roc_auc, average_precision``, one row per class.
    """
    areas, points = [], min(CURVE_POINTS, max(ALL_CURVES_POINTS // len(classes), 10))
    # An empty table first: if no class has a curve, its columns remain.
    none = np.empty(0)
    roc = [_thinned("", points, fpr=none, tpr=none)]
    precision_recall = [_thinned("", points, recall=none, precision=none)]
    for index, name in enumerate(classes):
        positive, scores = labels == index, probabilities[:, index]
        if positive.all() or not positive.any():
            areas.append((name, np.nan, np.nan))
            continue
        fpr, tpr, _ = roc_curve(positive, scores)
        precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
        areas.append((name, auc(fpr, tpr), average_precision_score(positive, scores)))
        roc.append(_thinned(name, points, fpr=fpr, tpr=tpr))
        precision_recall.append(_thinned(name, points, recall=recall[::-1], precision=precision[::-1]))
    table = pd.DataFrame(areas, columns=["class", "roc_auc", "average_precision"])
    return pd.concat(roc), pd.concat(precision_recall), table


def _thinned(name: str, points: int, **curve: NDArray[np.float64]) -> pd.DataFrame:
    """At most ``points`` points of a curve, including both ends, and a column with the name of its class."""
    kept = evenly_spaced(len(next(iter(curve.values()))), points)
    return pd.DataFrame({"class": name, **{key: values[kept] for key, values in curve.items()}})
