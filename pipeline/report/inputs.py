"""The results of the other stages, read from their files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.paths import AUDIT_TABLE, DETAILS, EVALUATION, LIVE, METRICS, PLOTS
from pipeline.common.results import STAGES, read_results
from pipeline.errors import PipelineError

REQUIRED = {
    "audit": ("splits", "classes"),
    "train": ("best_epoch", "parameters"),
    "evaluate": ("split", "images", "accuracy", "ece", "temperature", "calibrated"),
    "tsne": ("layer", "layers"),
}
# A class or an id may be called 0012 or NA: these columns stay text.
TEXT = {"id", "source", "class", "predicted_class", "layer", "probabilities", "finding", "split", "group", "detail"}


@dataclass(frozen=True)
class Inputs:
    """The results of a run.

    Attributes:
        results: metrics and details from ``read_results``, by name.
        images: one row per image of the evaluated split: id, source, class, predicted_class, correct, confidence, loss
            and finding, the findings of the audit.
        classes: precision, recall, f1 and images by class, with their intervals if there are any.
        pairs: class, predicted_class, count and share of each kind of mistake, the most frequent first.
        reliability: probabilities (plain or calibrated), low, high, images, confidence and accuracy of each bin.
        roc, precision_recall: class, fpr, tpr; class, recall, precision.
        epochs: epoch, split, loss and accuracy.
        steps: step, loss, gradient_norm and lr.
        points: layer, id, x and y of each point of the t-SNE pictures.
    """

    results: dict[str, dict[str, Any]]
    images: pd.DataFrame
    classes: pd.DataFrame
    pairs: pd.DataFrame
    reliability: pd.DataFrame
    roc: pd.DataFrame
    precision_recall: pd.DataFrame
    epochs: pd.DataFrame
    steps: pd.DataFrame
    points: pd.DataFrame

    @property
    def layers(self) -> list[str]:
        """The layers that have a t-SNE picture, from the first to the last."""
        return list(dict.fromkeys(self.points["layer"]))


def read_inputs() -> Inputs:
    """Read all files.

    Raises:
        PipelineError: a file is missing or lacks required contents.
    """
    results = {name: read_results(name) for name in STAGES}
    for name, keys in REQUIRED.items():
        for key in keys:
            if key not in results[name]:
                files = f"{METRICS / name}.json and {DETAILS / name}.json"
                raise PipelineError(f"{files}: have no {key}; run dvc repro --force {STAGES[name]}")
    images = ["id", "source", "class", "predicted_class", "correct", "confidence", "loss"]
    bins = ["probabilities", "low", "high", "images", "confidence", "accuracy"]
    classes = ["class", "precision", "recall", "f1", "images", "roc_auc", "average_precision"]
    return Inputs(
        results=results,
        images=_with_findings(_read_table(EVALUATION / "predictions.csv", "evaluate", images)),
        classes=_read_table(PLOTS / "classes.csv", "evaluate", classes),
        pairs=_read_table(PLOTS / "confused_pairs.csv", "evaluate", ["class", "predicted_class", "count", "share"]),
        reliability=_read_table(PLOTS / "reliability.csv", "evaluate", bins),
        roc=_read_table(PLOTS / "roc.csv", "evaluate", ["class", "fpr", "tpr"]),
        precision_recall=_read_table(PLOTS / "precision_recall.csv", "evaluate", ["class", "recall", "precision"]),
        epochs=pd.concat([_read_epochs(split) for split in ("train", "valid")], ignore_index=True),
        steps=_read_table(PLOTS / "steps.csv", "train", ["step", "loss", "gradient_norm", "lr"]),
        points=_read_table(PLOTS / "tsne_layers.csv", "tsne", ["layer", "id", "x", "y"]),
    )


def read_metrics() -> dict[str, dict[str, Any]]:
    """Read only the metrics, which git tracks, by name."""
    return {name: json.loads((METRICS / f"{name}.json").read_text("utf-8")) for name in STAGES}


def _read_table(path: Path, stage: str, columns: list[str]) -> pd.DataFrame:
    """Read a CSV or TSV file: the columns ``TEXT`` as text, others as numbers, without the probabilities by class."""
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, usecols=lambda name: not name.startswith("p_")
        )
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run dvc repro {stage}") from None
    except ValueError:
        raise PipelineError(f"{path}: is not a table; run dvc repro --force {stage}") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise PipelineError(f"{path}: has no column {missing[0]}; run dvc repro --force {stage}")
    numbers = [name for name in table.columns if name not in TEXT]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    return table


def _with_findings(images: pd.DataFrame) -> pd.DataFrame:
    findings = _read_table(AUDIT_TABLE, "augment", ["source", "finding"])
    of_source = findings.groupby("source")["finding"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    return images.assign(finding=[of_source.get(name, "") for name in images["source"]])


def _read_epochs(split: str) -> pd.DataFrame:
    folder = LIVE / "plots/metrics" / split
    loss, accuracy = (_read_table(folder / f"{name}.tsv", "train", ["step", name]) for name in ("loss", "accuracy"))
    table = loss.merge(accuracy[["step", "accuracy"]], on="step")
    # DVCLive counts from 0, the metrics and the user from 1.
    return table.assign(epoch=table["step"] + 1, split=split)[["epoch", "split", "loss", "accuracy"]]
