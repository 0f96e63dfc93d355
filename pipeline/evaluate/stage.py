"""Stage ``evaluate``: judge the network on images that it was not trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import confusion_matrix
from torch import nn

from pipeline.common.dataset import PackedDataset, PackedSplit
from pipeline.common.files import replacing, write_json
from pipeline.common.paths import DATASET, EVALUATION, METRICS, MODEL, PLOTS
from pipeline.errors import PipelineError
from pipeline.evaluate.bootstrap import bootstrap_intervals
from pipeline.evaluate.calibration import cross_fitted_probabilities, fit_temperature, reliability
from pipeline.evaluate.metrics import (
    calibration_metrics,
    check_top_k,
    compute_metrics,
    confused_pairs,
    curves_by_class,
    image_scores,
    metrics_by_class,
)
from pipeline.evaluate.plots import (
    plot_confusion,
    plot_curves_by_class,
    plot_mistakes,
    plot_normalized_confusion,
    plot_reliability,
)
from pipeline.network.inference import open_trained, predict_logits, predict_probabilities
from pipeline.network.models import ModelSpec
from pipeline.params.schema import EvaluateParams
from pipeline.progress import say

MISTAKES_SHOWN = 24


def evaluate(params: EvaluateParams) -> None:
    """Write ``results/metrics/evaluate.json``, the predictions for every image, and tables and pictures of them.

    The temperature of the calibrated figures is fitted on the valid split. Where that is the split evaluated, they are
    cross-fitted: each half of its images is judged with the temperature of the other half.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, the split has no labels or, with ``tta``, no
            views, ``top_k`` is too large, or the network's output is not finite.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    split = dataset.labelled_split(params.split)
    check_top_k(params.top_k, len(spec.classes))
    if params.tta:
        _check_views(split)
    logits = _finite_logits(model, spec, split, "evaluate")
    probabilities = softmax(logits, axis=1)
    temperature, calibrated = _calibrate(dataset, model, spec, split, logits)
    metrics, interval_table = _judge(split.labels, probabilities, params)
    metrics |= {"temperature": temperature, "calibrated": calibration_metrics(split.labels, calibrated)}
    if params.tta:
        averaged = predict_probabilities(model, spec, split, "evaluate, tta", tta=True).astype(np.float64)
        # Rounded to float32 a row's sum is not quite 1.
        averaged /= averaged.sum(axis=1, keepdims=True)
        metrics["tta"] = {"views": split.images.shape[1] - 1, **_judge(split.labels, averaged, params)[0]}
    write_json(METRICS / "evaluate.json", {"split": split.name, "images": len(split), **metrics})
    _write_predictions(split, probabilities, spec.classes, params.top_k)
    _write_confusion(split, probabilities.argmax(axis=1), spec.classes)
    _write_calibration(split, {"plain": probabilities, "calibrated": calibrated}, metrics)
    _write_by_class(split, probabilities, spec.classes, interval_table)
    _draw_mistakes(split, probabilities, spec.classes)
    _say_result(split, metrics)


def _check_views(split: PackedSplit) -> None:
    if split.images.shape[1] == 1:
        key = "augment.views" if split.name == "train" else "augment.test_views"
        raise PipelineError(
            f"params.yaml: evaluate.tta: got true, but the {split.name} split has no augmented views to average over; "
            f"set {key} to 1 or more, or evaluate.tta to false"
        )


def _finite_logits(model: nn.Module, spec: ModelSpec, split: PackedSplit, label: str) -> NDArray[np.float64]:
    """The logits of the plain images, ``float64``, ``(images, classes)``."""
    logits = predict_logits(model, spec, split, label).astype(np.float64)
    if not np.isfinite(logits).all():
        raise PipelineError(
            f"{MODEL}: gives no finite output for the {split.name} split; train it with a lower train.lr"
        )
    return logits


def _calibrate(
    dataset: PackedDataset, model: nn.Module, spec: ModelSpec, split: PackedSplit, logits: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The temperature of the valid split, and the probabilities of ``split`` that it, or half of it, leads to."""
    if split.name == "valid":
        return fit_temperature(logits, split.labels), cross_fitted_probabilities(logits, split.labels)
    valid = dataset.labelled_split("valid")
    temperature = fit_temperature(_finite_logits(model, spec, valid, "evaluate, valid"), valid.labels)
    return temperature, softmax(logits / temperature, axis=1)


def _judge(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], params: EvaluateParams
) -> tuple[dict[str, object], pd.DataFrame]:
    """The metrics with their intervals, and the table of the intervals by class."""
    metrics: dict[str, object] = dict(compute_metrics(labels, probabilities, params.top_k))
    if not params.bootstrap:
        return metrics, pd.DataFrame()
    intervals, by_class = bootstrap_intervals(labels, probabilities, params.top_k, params.bootstrap)
    return {**metrics, "interval": {name: intervals[name] for name in metrics if name in intervals}}, by_class


def _write_table(path: Path, table: pd.DataFrame, float_format: str = "%.6f") -> None:
    with replacing(path) as beside:
        table.to_csv(beside, index=False, float_format=float_format)


def _write_predictions(
    split: PackedSplit, probabilities: NDArray[np.float64], classes: tuple[str, ...], top_k: int
) -> None:
    names, predicted = np.array(classes, dtype=object), probabilities.argmax(axis=1)
    table = pd.DataFrame(
        {
            "id": split.ids,
            "source": split.sources,
            "label": split.labels,
            "class": names[split.labels],
            "predicted": predicted,
            "predicted_class": names[predicted],
            "correct": (predicted == split.labels).astype(int),
            "confidence": probabilities.max(axis=1),
            "loss": image_scores(split.labels, probabilities, top_k)["log_loss"],
        }
    )
    by_class = pd.DataFrame(probabilities, columns=[f"p_{index}" for index in range(len(classes))])
    _write_table(EVALUATION / "predictions.csv", pd.concat([table, by_class], axis=1), "%.6g")


def _write_confusion(split: PackedSplit, predicted: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    names = np.array(classes, dtype=object)
    _write_table(PLOTS / "confusion.csv", pd.DataFrame({"actual": names[split.labels], "predicted": names[predicted]}))
    counts = confusion_matrix(split.labels, predicted, labels=np.arange(len(classes)))
    _write_table(PLOTS / "confused_pairs.csv", confused_pairs(counts, classes))
    plot_confusion(PLOTS / "confusion_matrix.png", counts, classes, f"Confusion matrix, {split.name} split")
    title = f"Confusion matrix by true class, {split.name} split"
    plot_normalized_confusion(PLOTS / "confusion_normalized.png", counts, classes, title)


def _write_calibration(
    split: PackedSplit, probabilities: Mapping[str, NDArray[np.float64]], metrics: dict[str, Any]
) -> None:
    tables = {name: reliability(split.labels, values) for name, values in probabilities.items()}
    _write_table(PLOTS / "reliability.csv", pd.concat(tables, names=["probabilities"]).reset_index(level=0))
    scaled = f"temperature {metrics['temperature']:.3f}{', cross-fitted' if split.name == 'valid' else ''}"
    headings = [
        f"plain: calibration error {metrics['ece']:.3f}",
        f"{scaled}: calibration error {metrics['calibrated']['ece']:.3f}",
    ]
    title = f"Reliability, {len(split):,} images of the {split.name} split"
    plot_reliability(PLOTS / "reliability.png", dict(zip(headings, tables.values(), strict=True)), title)


def _write_by_class(
    split: PackedSplit, probabilities: NDArray[np.float64], classes: tuple[str, ...], intervals: pd.DataFrame
) -> None:
    roc, precision_recall, areas = curves_by_class(split.labels, probabilities, classes)
    measures = metrics_by_class(split.labels, probabilities.argmax(axis=1), classes)
    _write_table(PLOTS / "classes.csv", pd.concat([measures, intervals, areas.drop(columns="class")], axis=1))
    _write_table(PLOTS / "roc.csv", roc)
    _write_table(PLOTS / "precision_recall.csv", precision_recall)
    plot_curves_by_class(
        PLOTS / "roc_precision_recall.png", roc, precision_recall, areas, f"Curves by class, {split.name} split"
    )


def _draw_mistakes(split: PackedSplit, probabilities: NDArray[np.float64], classes: tuple[str, ...]) -> None:
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    mistakes = np.flatnonzero(predicted != split.labels)
    shown = mistakes[np.argsort(-confidence[mistakes], kind="stable")[:MISTAKES_SHOWN]]
    captions = [
        (classes[split.labels[row]], classes[predicted[row]], f"{confidence[row]:.1%}", Path(split.sources[row]).name)
        for row in shown
    ]
    title = (
        f"The most confident of {len(mistakes):,} mistakes in {len(split):,} images of the {split.name} split:\n"
        "true class → predicted class, confidence, file"
        if len(mistakes)
        else f"No mistakes: all {len(split):,} images of the {split.name} split are classified right"
    )
    plot_mistakes(PLOTS / "mistakes.png", split.images[shown, 0], captions, title)


def _say_result(split: PackedSplit, metrics: dict[str, Any]) -> None:
    interval = metrics.get("interval", {}).get("accuracy")
    within = f" (95 % interval {interval['low']:.4f} to {interval['high']:.4f})" if interval else ""
    say(f"evaluate: accuracy {metrics['accuracy']:.4f}{within} on the {len(split):,} images of the {split.name} split")
    if "tta" in metrics:
        views = metrics["tta"]["views"]
        say(f"evaluate: accuracy {metrics['tta']['accuracy']:.4f} by the mean over each image and its {views} views")
