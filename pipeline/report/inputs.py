"""Small pictures of the images, few enough bytes that all of them fit into one page."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from cv2.typing import MatLike
from numpy.typing import NDArray

from pipeline.common.paths import AUDIT_TABLE, EVALUATION, LIVE, METRICS, PLOTS
from pipeline.errors import PipelineError

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


# Side in pixels and quality of WebP, the best first; base64 makes four bytes of three.
FORMS = ((96, 80), (80, 75), (64, 70), (56, 60), (48, 50))
SAMPLE = 128


@dataclass(frozen=True)
class Thumbnails:
    """Data URIs by row, for as many rows as the budget allows."""

    side: int
    uris: dict[int, str]


def make_thumbnails(images: NDArray[np.uint8], rows: Sequence[int], first: set[int], budget: int) -> Thumbnails:
    """Encode the plain copies of ``rows``, as large as all of them together fit into ``budget`` characters.

    Where they don't fit at the smallest size, those in ``first`` come first, then an even sample of the others.

    Args:
        images: ``uint8``, ``(images, copies, height, width, 3)``.
        rows: places in ``images``.
        first: the rows that need a picture most.
        budget: characters.
    """
    ordered = [*(row for row in rows if row in first), *_spread([row for row in rows if row not in first])]
    sample = ordered[:: max(len(ordered) // SAMPLE, 1)]
    for side, quality in FORMS:
        mean = sum(len(_encoded(images[row, 0], side, quality)) for row in sample) / max(len(sample), 1)
        if mean * len(ordered) <= budget * 0.95:
            break
    uris, used = {}, 0
    for row in ordered:
        uri = _encoded(images[row, 0], side, quality)
        used += len(uri)
        if used > budget:
            break
        uris[row] = uri
    return Thumbnails(min(side, images.shape[2]), uris)


def _spread(rows: list[int]) -> list[int]:
    """In an order of which each beginning is an even sample of the whole."""
    count = len(rows)
    bits = max(count - 1, 1).bit_length()
    reversed_bits = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return [rows[place] for place in reversed_bits if place < count]


def _encoded(pixels: NDArray[np.uint8], side: int, quality: int) -> str:
    """A WebP as a data URI; a smaller image is not enlarged."""
    small: MatLike = np.ascontiguousarray(pixels[..., ::-1])
    if len(small) > side:
        small = cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
