"""What the answers of an ONNX file are worth: calibration, unsure answers, and images unlike the training data.

    OMP_NUM_THREADS=1 python benchmarks/answers.py results/model.onnx data/dataset photos-of-something-else.zip …

All of it is measured on the valid split, which has the labels. Temperature, energy and thresholds were fitted to it
as well, so the figures of the file are optimistic. "Held out" are the means of 20 repetitions: they are fitted to a
random half of the images, and the other half is judged. Outsiders are scikit-learn's digits and the photos of each
zip, at most 1,000 of them; AUROC is that of the energy score.

Without a model, an untrained network and photos of noise.

Measured: see benchmarks/RESULTS.md.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from inputs import SEED, photo_files
from numpy.typing import NDArray
from scipy.special import softmax
from serve import write_network
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from pipeline.common.dataset import PackedDataset, evenly_spaced
from pipeline.common.shares import wilson
from pipeline.evaluate.calibration import abstention, cross_fitted_probabilities, risk_coverage
from pipeline.evaluate.metrics import calibration_metrics
from pipeline.images.decoding import plain_photo
from pipeline.images.transforms import plain_copy
from pipeline.network.calibrating import energies, fit_calibration
from pipeline.network.calibration import Calibration
from pipeline.network.onnx_file import OnnxModel, open_onnx
from pipeline.plots.style import saved_figure

REPETITIONS = 20
OUTSIDERS = 1000
LEVELS = (0.9, 0.95, 0.99)
BATCH = 32
Images = NDArray[np.uint8]
Outputs = tuple[NDArray[np.float64], NDArray[np.float64]]


def outputs(model: OnnxModel, images: Images) -> Outputs:
    """Probabilities and logits, ``float64``, ``(n, classes)``."""
    batches = [model.run(np.array(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    probabilities, logits = (np.concatenate(each).astype(np.float64) for each in zip(*batches, strict=True))
    # Their sums differ from 1 in the last bits of float32.
    return probabilities / probabilities.sum(axis=1, keepdims=True), logits


def photos(model: OnnxModel, files: list[Path]) -> Images:
    """Photos as the network gets them."""
    plain = plain_copy(model)
    with warnings.catch_warnings(action="ignore"):
        return np.stack([plain(plain_photo(file.read_bytes(), model.image_size)) for file in files])


def digits(model: OnnxModel, count: int) -> Images:
    """Scikit-learn's digits as the network gets them."""
    plain = plain_copy(model)
    grey = (load_digits().images[:count] * 255 / 16).round().astype(np.uint8)
    return np.stack([plain(np.dstack([image] * 3)) for image in grey])


def halves(labels: NDArray[np.int64], found: Outputs) -> list[tuple[Calibration, NDArray[np.bool_]]]:
    """For each repetition: what was fitted to one half, and the mask of the other."""
    random = np.random.default_rng(SEED)
    masks = [random.permutation(len(labels)) % 2 == 0 for _ in range(REPETITIONS)]
    return [(fit_calibration(found[1][~mask], labels[~mask]), mask) for mask in masks]


def report_calibration(labels: NDArray[np.int64], found: Outputs) -> None:
    """Print calibration error and log loss of the file's two outputs."""
    probabilities, logits = found
    crossed = cross_fitted_probabilities(logits, labels)
    tables = {"softmax of logits": softmax(logits, axis=1), "probabilities": probabilities, "held out": crossed}
    for name, table in tables.items():
        metrics = calibration_metrics(labels, table)
        print(f"calibration, {name}: ECE {metrics['ece']:.4f}, log loss {metrics['log_loss']:.4f}")


def report_unsure(labels: NDArray[np.int64], found: Outputs, calibration: Calibration) -> None:
    """Print the coverage at each accuracy, and what the thresholds achieve."""
    probabilities, logits = found
    hits = int((probabilities.argmax(axis=1) == labels).sum())
    low, high = wilson([hits], [len(labels)])
    print(f"accuracy {hits / len(labels):.4f} ({low[0]:.4f} to {high[0]:.4f}), {len(labels):,} images")
    curve, area = risk_coverage(labels, probabilities)
    for level in LEVELS:
        reached = curve["coverage"][curve["accuracy"] >= level]
        print(f"accuracy {level:.0%}: coverage {reached.max() if len(reached) else 0:.1%}")
    print(f"area under the risk-coverage curve: {area:.4f}")
    of_file = abstention(labels, probabilities, calibration.thresholds)
    of_halves = [
        abstention(labels[mask], softmax(logits[mask] / fitted.temperature, axis=1), fitted.thresholds)
        for fitted, mask in halves(labels, found)
    ]
    for name, same in of_file.items():
        accuracies = [half[name]["accuracy"] for half in of_halves if half[name]["accuracy"] is not None]
        coverages = [half[name]["coverage"] for half in of_halves]
        held_out = f"{np.mean(accuracies):.4f} ± {np.std(accuracies):.4f}" if accuracies else "none accepted"
        print(
            f"thresholds for {name}: coverage {same['coverage']:.1%}, accuracy {same['accuracy']}; held out: coverage "
            f"{np.mean(coverages):.1%} ± {np.std(coverages):.1%}, accuracy {held_out}"
        )


def draw_risk_coverage(labels: NDArray[np.int64], probabilities: NDArray[np.float64], picture: Path) -> None:
    """Draw the accuracy of the answers by their share of the images, and the coverage at each accuracy."""
    curve, _ = risk_coverage(labels, probabilities)
    with saved_figure(picture, 7, 4) as figure:
        axis = figure.subplots()
        (line,) = axis.plot(curve["coverage"], curve["accuracy"])
        low, high = wilson(curve["accuracy"] * curve["coverage"] * len(labels), curve["coverage"] * len(labels))
        axis.fill_between(curve["coverage"], low, high, color=line.get_color(), alpha=0.2, lw=0)
        for level in LEVELS:
            reached = curve["coverage"][curve["accuracy"] >= level].max()
            if np.isnan(reached):
                continue
            axis.plot([reached], [level], "o", color=line.get_color())
            text = f"{reached:.0%} answered: {level:.0%} right"
            axis.annotate(text, (reached, level), (-12, -24), textcoords="offset points", ha="right")
        axis.set(xlabel="share of the photos that get an answer", ylabel="accuracy of the answers")
        axis.set(xlim=(0, 1.01), ylim=(curve["accuracy"].min() - 0.05, 1.005))
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.grid(axis="y", alpha=0.3)


def report_outsiders(
    labels: NDArray[np.int64], found: Outputs, calibration: Calibration, others: dict[str, Outputs]
) -> None:
    """Print how well the energy score tells other images from those of the valid split."""
    own, limit = energies(found[1]), calibration.energy
    held_out = np.mean([(own[mask] < fitted.energy).mean() for fitted, mask in halves(labels, found)])
    marked = "no limit" if limit is None else f"{(own < limit).mean():.1%} marked"
    print(f"valid: {marked}, held out {held_out:.1%}")
    for name, (probabilities, logits) in others.items():
        scores = energies(logits)
        truth, confidence = np.arange(len(own) + len(scores)) < len(own), found[0].max(axis=1)
        area = roc_auc_score(truth, np.append(own, scores))
        of_confidence = roc_auc_score(truth, np.append(confidence, probabilities.max(axis=1)))
        share = "" if limit is None else f", {(scores < limit).mean():.1%} marked"
        print(f"{name}: {len(scores):,} images, AUROC {area:.4f} (of the probability: {of_confidence:.4f}){share}")


def main(
    model_file: Annotated[Path | None, typer.Argument(help="ONNX file.")] = None,
    dataset: Annotated[Path | None, typer.Argument(help="The packed dataset.")] = None,
    archives: Annotated[list[Path] | None, typer.Argument(help="Zips with photos of something else.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the risk-coverage curve.")] = None,
    quick: Annotated[bool, typer.Option(help="Only check that everything runs.")] = False,
) -> None:
    """Print what the answers of an ONNX file are worth."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if model_file is None:
            model_file = folder / "model.onnx"
            write_network(model_file)
        model = open_onnx(model_file, 1)
        if dataset is None:
            images = photos(model, photo_files(None, folder / "photos", 40))
            labels = np.arange(40) % len(model.classes)
        else:
            split = PackedDataset(dataset).split("valid")
            images, labels = split.images[:, 0], np.array(split.labels)
        found = outputs(model, images)
        others = {"digits": outputs(model, digits(model, 40 if quick else OUTSIDERS))}
        for number, archive in enumerate(archives or []):
            files = photo_files(archive, folder / str(number))
            chosen = [files[place] for place in evenly_spaced(len(files), OUTSIDERS)]
            others[archive.name] = outputs(model, photos(model, chosen))
    report_calibration(labels, found)
    report_unsure(labels, found, model.calibration)
    if picture:
        draw_risk_coverage(labels, found[0], picture)
    report_outsiders(labels, found, model.calibration, others)


if __name__ == "__main__":
    typer.run(main)
