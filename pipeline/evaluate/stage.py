"""Stage ``evaluate``: evaluate the network on images that it was not trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import confusion_matrix
from torch import nn

from pipeline.common.dataset import PackedDataset, PackedSplit
from pipeline.common.files import write_table
from pipeline.common.paths import DATASET, EVALUATION, MODEL, PLOTS
from pipeline.common.results import write_results
from pipeline.evaluate.baseline import evaluate_baseline, has_pretrained_weights
from pipeline.evaluate.calibration import abstention, cross_fitted_probabilities, reliability, risk_coverage
from pipeline.evaluate.intervals import confidence_intervals, intervals_by_class, paired_differences
from pipeline.evaluate.metrics import (
    calibration_metrics,
    compute_metrics,
    confused_pairs,
    curves_by_class,
    image_scores,
    largest_top_k,
    metrics_by_class,
)
from pipeline.evaluate.plots import plot_confusion, plot_curves_by_class, plot_mistakes, plot_reliability
from pipeline.network.calibrating import energies
from pipeline.network.inference import choose_tta, open_trained, predict_logits
from pipeline.network.models import ModelSpec
from pipeline.params.schema import EvaluateParams
from pipeline.progress import say

MISTAKES_SHOWN = 24
BASELINES = ("logistic_regression", "k_nearest_neighbors")
FLOATS = "%.6f"
_TABLES = ("classes", "confused_pairs", "precision_recall", "reliability", "risk_coverage", "roc")
READ_BY_REPORT = (EVALUATION / "predictions.csv", *(PLOTS / f"{name}.csv" for name in _TABLES))


def evaluate(params: EvaluateParams) -> None:
    """Write the metrics, their details, the predictions for every image, and tables and pictures of them.

    The calibrated metrics are those of the probabilities that ``predict`` writes: the temperature was fitted on the
    valid split. If that is the split evaluated, they are cross-fitted: each half of its images is evaluated with the
    temperature of the other half. The thresholds of ``abstain`` were chosen on the valid split, too.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, the split has no labels or, with ``tta: views``,
            no views, or the network's output is not finite.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    split, classes = dataset.labelled_split(params.split), spec.classes
    top_k = largest_top_k(params.top_k, len(classes))
    if top_k < params.top_k:
        say(f"evaluate: note: with {len(classes)} classes, evaluate.top_k is {top_k} instead of {params.top_k}")
        params = params.model_copy(update={"top_k": top_k})
    temperature = spec.calibration.temperature
    logits = predict_logits(model, spec, split, "evaluate").astype(np.float64)
    probabilities, calibrated = softmax(logits, axis=1), _calibrated(logits, split, temperature)
    results = _compute(split.labels, probabilities, params)
    results |= {
        "temperature": temperature,
        "calibrated": calibration_metrics(split.labels, calibrated),
        "abstain": _write_risk_coverage(split.labels, calibrated, spec.calibration.thresholds),
    }
    if params.tta != "none":
        results["tta"] = _evaluate_tta(model, spec, dataset, split, calibrated, params)
    judged = {"calibrated": calibrated.max(axis=1), "energy": energies(logits)}
    table = _predictions(split, probabilities, judged, classes, params.top_k)
    if params.baseline and has_pretrained_weights():
        results["baseline"] = evaluate_baseline(dataset, spec, split)
    elif params.baseline:
        say("evaluate: note: evaluate.baseline has no effect, since model.pretrained is false")
    write_table(EVALUATION / "predictions.csv", table, "%.6g")
    _write_confusion(table, classes, split.name)
    _write_reliability(split, probabilities, calibrated, results)
    _write_by_class(split, probabilities, classes)
    _plot_mistakes(table, split)
    metrics = {name: results.pop(name) for name in ("accuracy", "macro_f1", "log_loss")}
    write_results("evaluate", metrics, {"split": split.name, "images": len(split), **results}, *READ_BY_REPORT)
    _report_accuracy(split, metrics | results)
    if "tta" in results:
        say(f"evaluate: {results['tta']['summary']}")


def _compute(labels: NDArray[np.int64], probabilities: NDArray[np.float64], params: EvaluateParams) -> dict[str, Any]:
    """The metrics with their intervals."""
    metrics = compute_metrics(labels, probabilities, params.top_k)
    intervals = confidence_intervals(labels, probabilities, params.top_k, params.bootstrap)
    return {**metrics, "interval": {name: intervals[name] for name in metrics if name in intervals}}


def _calibrated(logits: NDArray[np.float64], split: PackedSplit, temperature: float) -> NDArray[np.float64]:
    """Probabilities at the temperature; cross-fitted on the split that it was fitted on."""
    if split.name == "valid":
        return cross_fitted_probabilities(logits, split.labels)
    probabilities: NDArray[np.float64] = softmax(logits / temperature, axis=1)
    return probabilities


def _evaluate_tta(
    model: nn.Module,
    spec: ModelSpec,
    dataset: PackedDataset,
    split: PackedSplit,
    plain: NDArray[np.float64],
    params: EvaluateParams,
) -> dict[str, Any]:
    """The metrics with test-time augmentation, and their differences to ``plain``, the calibrated probabilities without
    it; below ``valid`` accuracy and log loss of each method on the valid split, by which ``auto`` chooses it."""
    chosen, labels = choose_tta(model, spec, dataset, split, params.tta, "evaluate"), dataset.split("valid").labels
    results: dict[str, Any] = {"method": chosen.method, "valid": {}}
    for name, probabilities in chosen.valid.items():
        scores = image_scores(labels, probabilities, 2)
        results["valid"][name] = {metric: float(scores[metric].mean()) for metric in ("accuracy", "log_loss")}
        if name != "none":
            change = paired_differences(labels, chosen.valid["none"], probabilities, params.bootstrap)
            results["valid"][name]["change"] = change
    if chosen.method != "none":
        logits = predict_logits(model, spec, split, "evaluate, tta", chosen.method).astype(np.float64)
        temperature = chosen.spec.calibration.temperature
        calibrated = _calibrated(logits, split, temperature)
        results |= _compute(split.labels, softmax(logits, axis=1), params)
        results |= {
            "temperature": temperature,
            "calibrated": calibration_metrics(split.labels, calibrated),
            "change": paired_differences(split.labels, plain, calibrated, params.bootstrap),
        }
    return {**results, "summary": in_words(split.name, results, params.tta == "auto")}


def _report_accuracy(split: PackedSplit, results: dict[str, Any]) -> None:
    low, high = results["interval"]["accuracy"].values()
    images = f"on the {len(split):,} images of the {split.name} split"
    say(f"evaluate: accuracy {results['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) {images}")
    if "baseline" in results:
        regression, neighbors = (results["baseline"][name]["accuracy"] for name in BASELINES)
        say(
            f"evaluate: accuracy {regression:.4f} of logistic regression and {neighbors:.4f} of k nearest neighbors on "
            "the features of the pretrained network, before it was trained"
        )


def in_words(split: str, tta: dict[str, Any], chosen: bool) -> str:
    """Whether test-time augmentation helps, in one or two sentences."""
    if tta["method"] == "none":
        tried = ", ".join(name for name in tta["valid"] if name != "none")
        return f"Test-time augmentation does not help: on valid, {tried} do not lower the log loss. It is left off."
    difference, low, high = (100 * tta["change"]["accuracy"][name] for name in ("difference", "low", "high"))
    effect = "brings" if low > 0 else "costs" if high < 0 else "makes no difference to the accuracy beyond chance:"
    where = "" if not chosen else " It was chosen on valid." if split != "valid" else " It was chosen on these images."
    return (
        f"Test-time augmentation ({tta['method']}) {effect} {difference:+.2f} points (95 % interval {low:+.2f} to "
        f"{high:+.2f}) on {split}; log loss {tta['change']['log_loss']['difference']:+.4f}.{where}"
    )


def _predictions(
    split: PackedSplit,
    probabilities: NDArray[np.float64],
    judged: dict[str, NDArray[np.float64]],
    classes: tuple[str, ...],
    top_k: int,
) -> pd.DataFrame:
    names, predicted = np.array(classes, dtype=object), probabilities.argmax(axis=1)
    columns = {
        "id": split.ids,
        "source": split.sources,
        "label": split.labels,
        "class": names[split.labels],
        "predicted": predicted,
        "predicted_class": names[predicted],
        "correct": (predicted == split.labels).astype(int),
        "confidence": probabilities.max(axis=1),
        "loss": image_scores(split.labels, probabilities, top_k)["log_loss"],
        **judged,
        **{f"p_{name}": column for name, column in zip(classes, probabilities.T, strict=True)},
    }
    return pd.DataFrame(columns)


def _write_confusion(table: pd.DataFrame, classes: tuple[str, ...], split: str) -> None:
    pairs = table[["class", "predicted_class"]].set_axis(["actual", "predicted"], axis=1)
    write_table(PLOTS / "confusion.csv", pairs)
    counts = confusion_matrix(table["label"], table["predicted"], labels=np.arange(len(classes)))
    write_table(PLOTS / "confused_pairs.csv", confused_pairs(counts, classes), FLOATS)
    plot_confusion(PLOTS / "confusion_matrix.png", counts, classes, f"Confusion matrix, {split} split")
    title = f"Confusion matrix by true class, {split} split"
    plot_confusion(PLOTS / "confusion_normalized.png", counts, classes, title, normalized=True)


def _write_reliability(
    split: PackedSplit, plain: NDArray[np.float64], calibrated: NDArray[np.float64], results: dict[str, Any]
) -> None:
    tables = {"plain": reliability(split.labels, plain), "calibrated": reliability(split.labels, calibrated)}
    write_table(PLOTS / "reliability.csv", pd.concat(tables, names=["probabilities"]).reset_index(level=0), FLOATS)
    cross_fitted = ", cross-fitted" if split.name == "valid" else ""
    headings = {
        f"plain: calibration error {results['ece']:.3f}": tables["plain"],
        f"temperature {results['temperature']:.3f}{cross_fitted}: calibration error "
        f"{results['calibrated']['ece']:.3f}": tables["calibrated"],
    }
    title = f"Reliability, {len(split):,} images of the {split.name} split"
    plot_reliability(PLOTS / "reliability.png", headings, title)


def _write_risk_coverage(
    labels: NDArray[np.int64], calibrated: NDArray[np.float64], thresholds: tuple[tuple[float | None, ...], ...]
) -> dict[str, Any]:
    """Write the curve, and return the area under it and what the thresholds achieve."""
    curve, area = risk_coverage(labels, calibrated)
    write_table(PLOTS / "risk_coverage.csv", curve, FLOATS)
    return {"aurc": area, **abstention(labels, calibrated, thresholds)}


def _write_by_class(split: PackedSplit, probabilities: NDArray[np.float64], classes: tuple[str, ...]) -> None:
    predicted = probabilities.argmax(axis=1)
    roc, precision_recall, areas = curves_by_class(split.labels, probabilities, classes)
    metrics = metrics_by_class(split.labels, predicted, classes)
    intervals = intervals_by_class(split.labels, predicted, len(classes))
    write_table(PLOTS / "classes.csv", pd.concat([metrics, intervals, areas.drop(columns="class")], axis=1), FLOATS)
    write_table(PLOTS / "roc.csv", roc, FLOATS)
    write_table(PLOTS / "precision_recall.csv", precision_recall, FLOATS)
    title = f"Curves by class, {split.name} split"
    plot_curves_by_class(PLOTS / "roc_precision_recall.png", roc, precision_recall, areas, title)


def _plot_mistakes(table: pd.DataFrame, split: PackedSplit) -> None:
    mistakes = table[table["correct"] == 0].sort_values("confidence", ascending=False, kind="stable")
    shown = mistakes.head(MISTAKES_SHOWN)
    captions = [
        (true, predicted, f"{confidence:.1%}", Path(source).name)
        for true, predicted, confidence, source in shown[
            ["class", "predicted_class", "confidence", "source"]
        ].to_numpy()
    ]
    title = f"No mistakes: all {len(split):,} images of the {split.name} split are classified correctly"
    if len(mistakes):
        count = f"{len(mistakes):,} mistakes in {len(split):,} images of the {split.name} split"
        title = f"The most confident of {count}:\ntrue class → predicted class, confidence, file"
    plot_mistakes(PLOTS / "mistakes.png", split.images[shown.index, 0], captions, title)
