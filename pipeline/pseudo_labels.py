"""``python -m pipeline pseudo-label``: labels unlabelled images with an ensemble, for ``data.pseudo_labels``.

Lee 2013, Pseudo-Label; Xie et al. 2020, Self-training with Noisy Student.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.files import write_table
from pipeline.common.label_files import COLUMNS, DROP, read_corrections
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import UNLABELLED, RawImage, RawReader, read_raw_archive
from pipeline.common.shares import wilson
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec
from pipeline.predict.files import load_models, member_outputs
from pipeline.predict.table import require_csv
from pipeline.progress import say, table_lines

Models = Sequence[tuple[PixelClassifier, ModelSpec]]


def pseudo_label(
    model_files: Sequence[Path],
    confidence: float,
    output: Path,
    split: str = UNLABELLED,
    per_class: int | None = None,
    corrections: str | None = None,
) -> None:
    """Write the class of the images of which the mean of the models' calibrated probabilities is high enough.

    Args:
        model_files: as for ``load_models``.
        confidence: the lowest probability.
        output: the CSV file, with the columns id, label and confidence.
        split: ``unlabelled``, or ``test``.
        per_class: the most images of a class, those with the highest probability; None for all.
        corrections: ``data.corrections``, for the labels of valid.

    Raises:
        PipelineError: a model cannot be used or has other classes than ``data/raw.zip``, there are no such images,
            all of them have labels, or none reaches the confidence.
    """
    require_csv("--output", output)
    classes, images, _ = read_raw_archive(RAW_ARCHIVE)
    chosen = [image for image in images if image.split == split and image.label is None]
    if not chosen:
        fix = "put them into a folder unlabeled of the source" if split == UNLABELLED else "choose unlabelled"
        raise PipelineError(f"--split: got {split}, but {RAW_ARCHIVE} has no unlabelled images in it; {fix}")
    models = load_models(model_files)
    if models[0][1].classes != classes:
        raise PipelineError(
            f"{model_files[0]}: its classes are {listed(models[0][1].classes)}, those of {RAW_ARCHIVE} are "
            f"{listed(classes)}; name a model of this dataset"
        )
    of_valid = {image: classes[image.label] for image in images if image.split == "valid" and image.label is not None}
    corrected = read_corrections(corrections)
    labels = {image.path: corrected.get(image.path, label) for image, label in of_valid.items()}
    valid = [image for image in of_valid if corrected.get(image.path) != DROP]
    _say_precision(predicted_images(valid, models), confidence, labels, classes)
    table = predicted_images(chosen, models)
    sure = table[table["confidence"] >= confidence].sort_values("confidence", ascending=False, kind="stable")
    if per_class is not None:
        sure = sure.groupby("predicted").head(per_class)
    if sure.empty:
        raise PipelineError(
            f"--confidence: none of the {len(table):,} images reaches {confidence}; the highest is "
            f"{table['confidence'].max():.4f}: lower it"
        )
    _say_classes(sure["predicted"].to_numpy(), classes)
    rows = sure.assign(id=sure["path"], label=np.array(classes, object)[sure["predicted"]]).sort_values("id")
    write_table(output, rows[COLUMNS["pseudo_labels"]], "%.6f")
    say(f"pseudo-label: {output}: {len(rows):,} of {len(chosen):,} images of {split}; set data.pseudo_labels to it")


def predicted_images(images: Sequence[RawImage], models: Models) -> pd.DataFrame:
    """One row per image that can be decoded: path, predicted class and its probability, ``confidence``."""
    archive, failures = RawReader(RAW_ARCHIVE), dict[RawImage, str]()
    rows: list[tuple[str, int, float]] = []
    batches = member_outputs(images, lambda image: (image.entry, archive.read(image)), models, None, 0, failures)
    for batch, outputs in batches:
        probabilities: NDArray[np.float64] = outputs[:, :, :-1].mean(axis=0, dtype=np.float64)
        if not np.isfinite(probabilities).all():
            raise PipelineError("--model: the probabilities are NaN or infinite; name a model of another training")
        best = probabilities.argmax(axis=1)
        rows += zip([image.path for image in batch], best, probabilities.max(axis=1), strict=True)
    if failures:
        names = [f"{image.path}: {reason}" for image, reason in failures.items()]
        say(f"pseudo-label: {len(failures):,} images cannot be decoded and are left out ({listed(names, 3)})")
    return pd.DataFrame(rows, columns=["path", "predicted", "confidence"])


def _say_precision(valid: pd.DataFrame, confidence: float, labels: Mapping[str, str], classes: Sequence[str]) -> None:
    """Say the accuracy on valid of labels with such a confidence; ``labels`` are the true ones by path."""
    sure = valid[valid["confidence"] >= confidence]
    if sure.empty:
        return say(f"pseudo-label: none of the {len(valid):,} images of valid reaches {confidence}")
    right = int((np.array(classes, object)[sure["predicted"]] == sure["path"].map(labels)).sum())
    low, high = wilson(right, len(sure))
    say(
        f"pseudo-label: on valid, {len(sure):,} of {len(valid):,} images reach {confidence}, with an accuracy "
        f"of {right / len(sure):.4f} (95 % interval {low:.3f} to {high:.3f}), if no model was trained on them"
    )


def _say_classes(predicted: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Print how many images get which label, and name the classes that get none."""
    counts = np.bincount(predicted, minlength=len(classes))
    table = pd.DataFrame({"class": classes, "images": counts, "share": counts / len(predicted)})
    say("\n".join(table_lines(table, {"share": "{:.1%}"})))
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        say(f"pseudo-label: warning: no image of {listed(missing, 10)}; a lower --confidence may find some")
