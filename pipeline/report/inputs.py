"""The results of the other stages, read from their files."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.paths import AUDIT_TABLE, BATCH, EVALUATION, LIVE, METRICS, PLOTS, SALIENCY
from pipeline.common.reading import checked, checked_bytes, json_object, reading
from pipeline.common.results import RESULTS, read_results

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
        risk_coverage: confidence, coverage and accuracy of the answers with at least this confidence.
        reliability: probabilities (plain or calibrated), low, high, images, confidence and accuracy of each bin.
        roc, precision_recall: class, fpr, tpr; class, recall, precision.
        epochs: epoch, split, loss and accuracy.
        steps: step, loss, gradient_norm and lr.
        points: layer, id, x and y of each point of the t-SNE pictures.
        batch: the file ``results/plots/train_batch.png``.
        saliency: the content of ``results/saliency.json``.
    """

    results: dict[str, dict[str, Any]]
    images: pd.DataFrame
    classes: pd.DataFrame
    pairs: pd.DataFrame
    reliability: pd.DataFrame
    risk_coverage: pd.DataFrame
    roc: pd.DataFrame
    precision_recall: pd.DataFrame
    epochs: pd.DataFrame
    steps: pd.DataFrame
    points: pd.DataFrame
    batch: bytes
    saliency: dict[str, Any]

    @property
    def layers(self) -> list[str]:
        """The layers that have a t-SNE picture, from the first to the last."""
        return list(dict.fromkeys(self.points["layer"]))


def read_inputs() -> Inputs:
    """Read all files.

    Raises:
        PipelineError: a file is missing or damaged, or not from the same run as the others of its stage.
    """
    results = {name: read_results(name) for name in RESULTS}
    files = {name: value for content in results.values() for name, value in content["files"].items()}
    return Inputs(
        results=results,
        images=_with_findings(_read_table(EVALUATION / "predictions.csv", files), _read_table(AUDIT_TABLE, files)),
        classes=_read_table(PLOTS / "classes.csv", files),
        pairs=_read_table(PLOTS / "confused_pairs.csv", files),
        reliability=_read_table(PLOTS / "reliability.csv", files),
        risk_coverage=_read_table(PLOTS / "risk_coverage.csv", files),
        roc=_read_table(PLOTS / "roc.csv", files),
        precision_recall=_read_table(PLOTS / "precision_recall.csv", files),
        epochs=pd.concat([_read_epochs(split, files) for split in ("train", "valid")], ignore_index=True),
        steps=_read_table(PLOTS / "steps.csv", files),
        points=_read_table(PLOTS / "tsne_layers.csv", files),
        batch=_read(BATCH, files),
        saliency=_read_saliency(),
    )


def _read_saliency() -> dict[str, Any]:
    with reading(SALIENCY):
        return checked(SALIENCY.read_text("utf-8"))


def read_metrics() -> dict[str, dict[str, Any]]:
    """Read only the metrics, which git tracks, by name."""
    return {name: json_object((METRICS / f"{name}.json").read_text("utf-8")) for name in RESULTS}


def _read(path: Path, files: dict[str, str]) -> bytes:
    with reading(path):
        return checked_bytes(path, files.get(path.as_posix()))


def _read_table(path: Path, files: dict[str, str]) -> pd.DataFrame:
    """Read a CSV or TSV file with the checksum in ``files``: the columns ``TEXT`` as text, others as numbers, without
    the probabilities by class."""
    with reading(path):
        table = pd.read_csv(
            BytesIO(checked_bytes(path, files.get(path.as_posix()))),
            sep="\t" if path.suffix == ".tsv" else ",",
            dtype=str,
            keep_default_na=False,
            usecols=lambda name: not name.startswith("p_"),
        )
    numbers = [name for name in table.columns if name not in TEXT]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    return table


def _with_findings(images: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    of_source = findings.groupby("source")["finding"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    return images.assign(finding=[of_source.get(name, "") for name in images["source"]])


def _read_epochs(split: str, files: dict[str, str]) -> pd.DataFrame:
    folder = LIVE / "plots/metrics" / split
    loss, accuracy = (_read_table(folder / f"{name}.tsv", files) for name in ("loss", "accuracy"))
    table = loss.merge(accuracy[["step", "accuracy"]], on="step")
    # DVCLive counts from 0, the metrics and the user from 1.
    return table.assign(epoch=table["step"] + 1, split=split)[["epoch", "split", "loss", "accuracy"]]
