"""What the report is made of: the files of the other stages, read and checked."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.paths import AUDIT_TABLE, EVALUATION, LIVE, METRICS, PLOTS

NEEDED = {"evaluate": ("split", "images", "accuracy")}
METRIC_FILES = {"audit": "augment", "train": "train", "evaluate": "evaluate", "tsne": "tsne"}
# A class may be called 0012 or NA, and an id too: these columns stay text.
TEXT = {"id", "source", "class", "predicted_class", "layer", "probabilities", "finding", "split", "group", "detail"}


@dataclass(frozen=True)
class Inputs:
    """The results of a run.

    Attributes:
        metrics: the content of ``results/metrics/*.json`` by name.
        images: a row an image of the evaluated split: id, source, class, predicted_class, correct, confidence, loss
            and finding, what the audit found about it.
        classes: precision, recall, f1 and images by class, with the ends of their intervals where there are any.
        pairs: class, predicted_class, count and share of each kind of mistake, the most frequent first.
        reliability: probabilities (plain or calibrated), low, high, images, confidence and accuracy of each bin.
        roc, precision_recall: class, fpr, tpr; class, recall, precision.
        epochs: epoch, split, loss and accuracy.
        steps: step, loss, gradient_norm and lr.
        points: layer, id, x and y of each point of the t-SNE pictures.
    """

    metrics: dict[str, dict[str, Any]]
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
    """Read the files from their places.

    Raises:
        PipelineError: one is missing or does not hold what it should.
    """
    metrics = {name: _read_metrics(METRICS / f"{name}.json", stage) for name, stage in METRIC_FILES.items()}
    images = ["id", "source", "class", "predicted_class", "correct", "confidence", "loss"]
    classes = ["class", "precision", "recall", "f1", "images"]
    bins = ["probabilities", "low", "high", "images", "confidence", "accuracy"]
    return Inputs(
        metrics=metrics,
        images=_with_findings(_read_table(EVALUATION / "predictions.csv", "evaluate", images)),
        classes=_read_table(PLOTS / "classes.csv", "evaluate", classes),
        pairs=_read_table(PLOTS / "confused_pairs.csv", "evaluate", ["class", "predicted_class", "count", "share"]),
        reliability=_read_table(PLOTS / "reliability.csv", "evaluate", bins),
        roc=_read_table(PLOTS / "roc.csv", "evaluate", ["class", "fpr", "tpr"]),
        precision_recall=_read_table(PLOTS / "precision_recall.csv", "evaluate", ["class", "recall", "precision"]),
        epochs=pd.concat([_read_epochs(split) for split in ("train", "valid")], ignore_index=True),
        steps=_read_table(PLOTS / "steps.csv", "train", ["step", "loss", "gradient_norm", "lr"]),
        points=_read_points(str(metrics["tsne"].get("layer", "layer"))),
    )


def _read_metrics(path: Path, stage: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run dvc repro {stage}") from None
    except ValueError:
        raise PipelineError(f"{path}: holds no JSON; run dvc repro --force {stage}") from None
    missing = [key for key in NEEDED.get(path.stem, ()) if key not in content]
    if missing:
        raise PipelineError(f"{path}: has no {missing[0]}; run dvc repro --force {stage}")
    return content


def _read_table(path: Path, stage: str, columns: list[str]) -> pd.DataFrame:
    """Read a CSV or TSV file: the columns ``TEXT`` as text, others as numbers, and no probability by class."""
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, usecols=lambda name: not re.fullmatch(r"p_\d+", name)
        )
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run dvc repro {stage}") from None
    except ValueError:
        raise PipelineError(f"{path}: holds no table; run dvc repro --force {stage}") from None
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
    return pd.DataFrame(
        {"epoch": table["step"] + 1, "split": split, "loss": table["loss"], "accuracy": table["accuracy"]}
    )


def _read_points(layer: str) -> pd.DataFrame:
    """The points of all layers, or of the one that an older version of the stage drew."""
    path = PLOTS / "tsne_layers.csv"
    if path.exists() or not (PLOTS / "tsne.csv").exists():
        return _read_table(path, "tsne", ["layer", "id", "x", "y"])
    return _read_table(PLOTS / "tsne.csv", "tsne", ["id", "x", "y"]).assign(layer=layer)
