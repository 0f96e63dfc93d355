"""``python -m pipeline predict --split NAME``: predicts a split with one or several models, and judges them.

The images are decoded for each model as ``predict PATH`` does it: the models may differ in size and resizing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.dataset import PackedDataset, PackedSplit
from pipeline.common.files import write_table
from pipeline.common.paths import DATASET, RAW_ARCHIVE
from pipeline.common.raw_archive import RawImage, RawReader, read_raw_archive
from pipeline.common.runs import copy_output
from pipeline.common.shares import wilson
from pipeline.common.text import listed, shown_name
from pipeline.errors import PipelineError
from pipeline.evaluate.metrics import compute_metrics, largest_top_k
from pipeline.experiments.comparison import (
    FEWEST_IMAGES,
    compare,
    pair,
    prediction_table,
    summary_lines,
    verdict_lines,
)
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec
from pipeline.params.schema import AugmentParams
from pipeline.predict.files import is_run, load_models, member_outputs, read_tta, refuse_failures
from pipeline.predict.stage import probability_table, report_submission, submission_table
from pipeline.predict.table import require_csv
from pipeline.progress import say, table_lines

# Of the cross-fitted weights.
FOLDS = 5
# EM stops when no weights are better by more than this, in nats.
TOLERANCE = 1e-6
MOST_STEPS = 10_000
COLUMNS = {
    "balanced_accuracy": "balanced",
    "macro_precision": "precision",
    "macro_recall": "recall",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
}


@dataclass(frozen=True)
class Predicted:
    """A split, and what each model says about it.

    Attributes:
        split: the split.
        probabilities: ``float64``, ``(models, images, classes)``.
        judged: the rows of the images that metrics and weights are computed of: labelled, and in the training split of
            no model, as far as that is known.
    """

    split: PackedSplit
    probabilities: NDArray[np.float64]
    judged: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of the judged images."""
        return self.split.labels[self.judged]


def predict_split(
    name: str,
    model_files: Sequence[Path],
    top_k: int,
    tta: str = "none",
    fit: bool = False,
    submission: Path | None = None,
    output: Path | None = None,
) -> None:
    """Predict a split with the mean of the models, write it, and print the metrics of the models and of their mean on
    valid and on this split.

    Args:
        name: of the split of ``data/dataset/``.
        model_files: as for ``load_models``.
        top_k: k of the top-k accuracy.
        tta: as for ``predict_paths``.
        fit: whether to weight the models by the weights that minimise the log loss on valid.
        submission: the CSV file of ``Id`` and ``Category``, as the stage ``predict`` writes it.
        output: the CSV file of the probabilities, as the stage ``predict`` writes it.

    Raises:
        PipelineError: an option, a model or the dataset cannot be used, the models have other classes than the dataset,
            or an image cannot be decoded.
    """
    for option, path in (("--submission", submission), ("--output", output)):
        require_csv(option, path)
    if submission is not None and output is not None and submission.resolve() == output.resolve():
        raise PipelineError(f"--submission: got {shown_name(submission)}, as for --output, allowed is another file")
    if fit and len(model_files) < 2:
        raise PipelineError("--fit-weights: got one model, allowed are two or more; add --model, or leave it out")
    dataset = PackedDataset(DATASET)
    if name not in dataset:
        splits = listed(dataset.manifest.shapes)
        raise PipelineError(f"--split: got {name!r}, allowed are the splits of {DATASET}: {splits}")
    models = load_models(model_files)
    classes = models[0][1].classes
    if classes != dataset.manifest.classes:
        raise PipelineError(
            f"{model_files[0]}: its classes are {listed(classes)}, those of {DATASET} are "
            f"{listed(dataset.manifest.classes)}; name a model of this dataset, or run dvc repro"
        )
    augmentation = read_tta(tta)
    trained_on = training_images(model_files)
    predicted = {
        split: _predict(dataset.split(split), model_files, models, trained_on, augmentation)
        for split in dict.fromkeys(["valid", name])
        if split in dataset
    }
    weights = np.full(len(models), 1 / len(models))
    if fit:
        weights = _fit_on(predicted.get("valid"))
    for number, (path, weight) in enumerate(zip(model_files, weights, strict=True), 1):
        say(f"predict: model {number} is {shown_name(path)}{f', weight {weight:.4f}' if fit else ''}")
    _judge(predicted, weights, fit, largest_top_k(top_k, len(classes)))
    split, mean = predicted[name].split, _mean(weights, predicted[name].probabilities)
    if output is not None:
        write_table(output, probability_table(split.ids, classes, mean), "%.6f")
        say(f"predict: {output}: probabilities of the {len(split):,} images of the {name} split")
    if submission is not None:
        write_table(submission, submission_table(split.ids, classes, mean))
        report_submission(submission, split, classes)


def training_images(model_files: Sequence[Path]) -> set[str]:
    """The paths in the source of the images that earlier runs were trained on; those of files are not known.

    A network of another fold, or of another ``data.split_seed``, has seen images of this ``valid`` and ``test``.
    """
    found: set[str] = set()
    for run in filter(is_run, model_files):
        with TemporaryDirectory() as folder:
            try:
                path = copy_output(str(run), DATASET / "index.csv", Path(folder), "--model")
            except PipelineError as error:
                say(f"predict: note: {error}; so it is not known which images it was trained on")
                continue
            index = pd.read_csv(path, dtype=str, keep_default_na=False)
        found |= set(index["source"][index["split"] == "train"])
    return found


def _predict(
    split: PackedSplit,
    model_files: Sequence[Path],
    models: Sequence[tuple[PixelClassifier, ModelSpec]],
    trained_on: set[str],
    tta: tuple[str, AugmentParams | None, int],
) -> Predicted:
    """Decode the images of a split from the archive, and predict them with each model."""
    images = _of_archive(split)
    archive, failures = RawReader(RAW_ARCHIVE), dict[RawImage, str]()
    method, views, seed = tta

    def read(image: RawImage) -> tuple[str, bytes]:
        return image.entry, archive.read(image)

    found = member_outputs(images, read, models, views, seed, failures, method=method)
    outputs = [values for _, values in found]
    refuse_failures({Path(image.path): why for image, why in failures.items()}, len(images), "predict", "predicted")
    probabilities = np.concatenate(outputs, axis=1)[:, :, :-1].astype(np.float64)
    for path, of_model in zip(model_files, probabilities, strict=True):
        if bad := int((~np.isfinite(of_model).all(axis=1)).sum()):
            raise PipelineError(
                f"{shown_name(path)}: its probabilities are NaN or infinite for {bad:,} of {len(images):,} images; "
                "name a model of another training"
            )
    # They were rounded to float32, so the sum of a row is not exactly 1.
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    seen = np.array([source in trained_on for source in split.sources]) | (split.name == "train")
    return Predicted(split, probabilities, np.flatnonzero(~seen & split.labelled))


def _of_archive(split: PackedSplit) -> list[RawImage]:
    # By their paths: an image with a pseudo-label is in another folder of the archive.
    images = {image.path: image for image in read_raw_archive(RAW_ARCHIVE)[1]}
    try:
        return [images[path] for path in split.sources]
    except KeyError as error:
        raise PipelineError(
            f"{RAW_ARCHIVE}: has no image {shown_name(error.args[0])} of the {split.name} split of {DATASET}; run "
            "dvc repro, which writes both"
        ) from None


def _mean(weights: NDArray[np.float64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.tensordot(weights, probabilities, axes=1)
    return np.minimum(mean, 1)  # the sum of the weights may be the next number above 1


def _fit_on(valid: Predicted | None) -> NDArray[np.float64]:
    """The weights of the models, fitted on valid."""
    images = 0 if valid is None else len(valid.judged)
    if valid is None or images < 2 * FOLDS:
        raise PipelineError(
            f"--fit-weights: needs {2 * FOLDS} labelled images or more in the valid split that no model was trained "
            f"on, found {images:,}; leave it out, or name models of the same split"
        )
    return fit_weights(_of_label(valid.probabilities[:, valid.judged], valid.labels))


def _of_label(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of the label, ``(models, images)``."""
    return probabilities[:, np.arange(len(labels)), labels]


def fit_weights(of_label: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of the mean with the lowest log loss, ``(models,)``, which sum to 1: a convex problem.

    By the EM algorithm for the weights of a mixture (Dempster, Laird & Rubin 1977), where each model has explained one
    more image alone (a Dirichlet prior). Without it, small differences between models that are right on every image
    would give one of them all the weight; with it, the weights are the more equal, the fewer images there are.

    Args:
        of_label: the probability of the label of each image by each model, ``(models, images)``.
    """
    of_label = np.maximum(of_label, np.finfo(float).eps)
    models, images = of_label.shape
    weights, total = np.full(models, 1 / models), 1 + models / images
    for _ in range(MOST_STEPS):
        gains = (of_label / (weights @ of_label)).mean(axis=1) + 1 / (images * weights)
        # What is minimised is convex: this bounds how much lower it can be.
        if gains.max() - total < TOLERANCE:
            break
        weights *= gains / total
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def cross_fitted_mean(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The weighted mean, ``(images, classes)``, where each of ``FOLDS`` folds has the weights that were fitted on the
    others: no image influences its own weights. The folds are random, but the same on every run."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    mean = np.empty(probabilities.shape[1:])
    for number in range(FOLDS):
        others, own = fold != number, fold == number
        mean[own] = _mean(fit_weights(_of_label(probabilities[:, others], labels[others])), probabilities[:, own])
    return mean


def _judge(predicted: dict[str, Predicted], weights: NDArray[np.float64], fit: bool, top_k: int) -> None:
    """Print the metrics of each model and of the mean by split, and whether the mean is better than the best model."""
    best = best_on = ""
    for name, found in predicted.items():
        images, all_images = len(found.judged), len(found.split)
        if not found.split.labelled:
            say(f"predict: the {name} split has no labels, so that it has no metrics")
        elif images < all_images:
            say(
                f"predict: {all_images - images:,} of the {all_images:,} images of {name} are in the train split of a "
                "model: they are left out of the metrics and of the fit of the weights"
            )
        if not images:
            continue
        candidates = _candidates(found, weights, fit)
        metrics = {label: compute_metrics(found.labels, rows, top_k) for label, rows in candidates.items()}
        say("\n".join(["", f"{name}, {images:,} images", *_metric_lines(metrics, images, top_k)]))
        if fit and name == "valid":
            say(f"The weighted mean is cross-fitted: each of {FOLDS} folds has the weights fitted on the others.")
        if not best:
            # The one to beat is chosen on valid, if that has metrics.
            models = list(metrics)[: len(weights)]
            best = max(models, key=lambda model: (metrics[model]["accuracy"], -metrics[model]["log_loss"]))
            best_on = name
        last = list(candidates)[-1]
        if last != best and images >= FEWEST_IMAGES:
            comparison = compare(pair(*(_prediction_table(found, candidates[label]) for label in (best, last))))
            heading = f"A is model {best}, the best one on {best_on}, and B the {last}:"
            say("\n".join(["", heading, *summary_lines(comparison), *verdict_lines(comparison)]))
    say("")


def _candidates(found: Predicted, weights: NDArray[np.float64], fit: bool) -> dict[str, NDArray[np.float64]]:
    """The probabilities of each model and of the means for the judged images, by the names in the table."""
    models = found.probabilities[:, found.judged]
    candidates = {str(number): probabilities for number, probabilities in enumerate(models, 1)}
    if len(models) > 1:
        candidates["mean"] = models.mean(axis=0)
    if fit:
        of_valid = found.split.name == "valid"
        candidates["weighted mean"] = cross_fitted_mean(models, found.labels) if of_valid else _mean(weights, models)
    return candidates


def _metric_lines(metrics: dict[str, dict[str, float]], images: int, top_k: int) -> list[str]:
    table = pd.DataFrame.from_dict(metrics, orient="index")
    low, high = wilson(table["accuracy"] * images, images)
    interval = [f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)]
    table.insert(1, "95 % interval", interval)
    table = table.rename(columns=COLUMNS | {f"top_{top_k}_accuracy": f"top {top_k}"}).rename_axis("model").reset_index()
    return table_lines(table, dict.fromkeys(table.columns[[1, *range(3, len(table.columns))]], "{:.4f}"))


def _prediction_table(found: Predicted, probabilities: NDArray[np.float64]) -> pd.DataFrame:
    sources, ids = (np.array(names, dtype=object)[found.judged] for names in (found.split.sources, found.split.ids))
    return prediction_table(sources.tolist(), ids.tolist(), found.labels, probabilities)
