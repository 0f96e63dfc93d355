"""How good predictions are, by scikit-learn and torchmetrics.

Where several classes are equally probable, every measure takes the first of them for the predicted one, as ``argmax``
does.
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_curve,
    top_k_accuracy_score,
)

from pipeline.errors import PipelineError

BY_CLASS = ("precision", "recall", "f1")
CALIBRATION_BINS = 15
CURVE_POINTS, ALL_CURVES_POINTS = 200, 40_000


def check_top_k(top_k: int, classes: int) -> None:
    """Refuse a top-k accuracy that would be 1 whatever the network says; two classes leave no other.

    Raises:
        PipelineError: ``top_k`` is not below the number of classes.
    """
    most = max(classes - 1, 2)
    if top_k > most:
        allowed = "2" if most == 2 else f"2 to {most}"
        raise PipelineError(f"params.yaml: evaluate.top_k: got {top_k}, allowed with {classes} classes is {allowed}")


def compute_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int) -> dict[str, float]:
    """Compute every figure that judges the predictions as a whole.

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``float64``, ``(images, classes)``; each row sums to 1.
        top_k: fewer than the number of classes.

    Returns:
        ``accuracy``; ``balanced_accuracy``, the mean recall of the classes that have images; ``top_{k}_accuracy``;
        ``macro_precision``, ``macro_recall`` and ``macro_f1``, means over the classes that an image has or is
        taken for, 0 where one is 0/0; ``log_loss`` in nats; ``brier``, 0 to 2 (0 to 1 for two classes, as scikit-learn
        scales it: Brier 1950); ``ece``, see :func:`expected_calibration_error`.
    """
    predicted = probabilities.argmax(axis=1)
    macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    return {
        "accuracy": accuracy_score(labels, predicted),
        # What balanced_accuracy_score computes, without its warnings of classes that have no images.
        "balanced_accuracy": recall_score(labels, predicted, labels=np.unique(labels), average="macro"),
        f"top_{top_k}_accuracy": _top_k_accuracy(labels, probabilities, top_k),
        **{f"macro_{name}": value for name, value in zip(BY_CLASS, macro, strict=False)},
        **calibration_metrics(labels, probabilities),
    }


def calibration_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Compute those that a temperature changes: ``log_loss``, ``brier`` and ``ece``, as :func:`compute_metrics` has
    them."""
    classes = np.arange(probabilities.shape[1])
    return {
        "log_loss": log_loss(labels, probabilities, labels=classes),
        "brier": brier_score_loss(labels, probabilities, labels=classes),
        "ece": expected_calibration_error(labels, probabilities),
    }


def _top_k_accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int) -> float:
    classes = probabilities.shape[1]
    if classes == 2:
        # Every image is a hit, and scikit-learn takes one score a row.
        return 1.0
    # Of equal scores scikit-learn takes the last class first: turned round, the first, as argmax does.
    turned = probabilities[:, ::-1]
    return float(top_k_accuracy_score(classes - 1 - labels, turned, k=top_k, labels=np.arange(classes)))


def expected_calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean distance of confidence and accuracy over 15 bins of equal width (Guo et al. 2017), 0 to 1.

    The confidence is the probability of the predicted class.
    """
    # It imports far more than this function: seconds that only this stage has to spend.
    from torchmetrics.functional.classification import binary_calibration_error

    confidence = torch.from_numpy(probabilities.max(axis=1))
    correct = torch.from_numpy(probabilities.argmax(axis=1) == labels)
    return binary_calibration_error(confidence, correct.int(), n_bins=CALIBRATION_BINS).item()


def image_scores(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], top_k: int
) -> dict[str, NDArray[np.float64]]:
    """What each image adds to the metrics that are means over the images: ``(images,)`` by the metric's name.

    Arguments as of :func:`compute_metrics`; a log loss is at most 36, since scikit-learn takes no probability for
    smaller than the precision of ``float64``.
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
    """Precision, recall, F1 and the number of images, a row a class.

    A class without images has no recall and no F1, and one for which no image is taken either no precision: NaN. A
    class with images for which none is taken has the precision 0.
    """
    indices = np.arange(len(classes))
    values = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    table = pd.DataFrame({"class": classes, **dict(zip((*BY_CLASS, "images"), values, strict=True))})
    empty = table["images"] == 0
    table.loc[empty, ["recall", "f1"]] = np.nan
    table.loc[empty & ~np.isin(indices, predicted), "precision"] = np.nan
    return table


def confused_pairs(counts: NDArray[np.int64], classes: tuple[str, ...]) -> pd.DataFrame:
    """The kinds of mistakes, the most frequent first.

    Args:
        counts: the confusion matrix, ``(classes, classes)``, rows the true class.
        classes: the class names.

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

    A curve is thinned to 200 points, fewer beyond 200 classes; the areas are those of the whole curve. A class that
    no image or every image has is left out of the curves, and its areas are NaN.

    Returns:
        ``class, fpr, tpr``; ``class, recall, precision``; and ``class, roc_auc, average_precision``, a row a class.
    """
    # One empty table first: where no class has a curve, its columns remain.
    roc = [pd.DataFrame(columns=["class", "fpr", "tpr"])]
    precision_recall = [pd.DataFrame(columns=["class", "recall", "precision"])]
    areas = []
    points = min(CURVE_POINTS, max(ALL_CURVES_POINTS // len(classes), 10))
    for index, name in enumerate(classes):
        positive, scores = labels == index, probabilities[:, index]
        if positive.all() or not positive.any():
            areas.append((np.nan, np.nan))
            continue
        fpr, tpr, _ = roc_curve(positive, scores)
        precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
        areas.append((auc(fpr, tpr), average_precision_score(positive, scores)))
        roc.append(_thinned(name, points, fpr=fpr, tpr=tpr))
        precision_recall.append(_thinned(name, points, recall=recall[::-1], precision=precision[::-1]))
    table = pd.DataFrame(areas, columns=["roc_auc", "average_precision"])
    table.insert(0, "class", classes)
    return pd.concat(roc), pd.concat(precision_recall), table


def _thinned(name: str, points: int, **curve: NDArray[np.float64]) -> pd.DataFrame:
    """A curve with at most so many points, its ends among them, beside the name of its class."""
    length = len(next(iter(curve.values())))
    kept = np.unique(np.linspace(0, length - 1, min(length, points)).round().astype(np.int64))
    return pd.DataFrame({"class": name, **{key: values[kept] for key, values in curve.items()}})
