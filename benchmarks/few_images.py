"""Accuracy against the number of images per class: fine-tuned, only the last layer trained, and from scratch.

    python benchmarks/few_images.py run benchmarks/few_images.jsonl food10.zip tf_efficientnet_lite0.safetensors
    python benchmarks/few_images.py draw benchmarks/few_images.jsonl docs/images/few_images.png

The archive has the images ``train/{class}_{name}`` and ``valid/{class}_{name}``. Each run gets n training images per
class, drawn by its seed; a fifth of them, at least one, becomes its valid split, so that n counts all labels that are
needed. It is evaluated on all of ``valid/``, which it did not use before. A run is ``dvc repro evaluate`` of a recipe,
in a temporary clone of the last commit.

*run* appends one line of JSON per run, and leaves out those that the file already has, so that it can be stopped at any
time. *draw* shows the mean over the seeds, and their range.
"""

import itertools
import json
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import typer
from inputs import SMALL, call, clone_with_recipe, with_quick_mode, write_noise_archive

from pipeline.plots.style import saved_figure

SIZES = (5, 20, 100)
PRETRAINED = {"model.name": "timm/tf_efficientnet_lite0", "augment.image_size": 128}  # that of imagefolder
# The backbone stays as it is, and without random changes of the images its features are computed once.
FROZEN = {"train.freeze_epochs": "train.epochs", "train.random_resized_crop": 1.0}
FROZEN |= {f"train.{name}": 0.0 for name in ("hflip", "color_jitter", "random_erase", "mixup_alpha", "cutmix_alpha")}
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuned": ("finetune", PRETRAINED),
    "last layer only": ("finetune", PRETRAINED | FROZEN),
    "from scratch": ("imagefolder", {}),
}
app = typer.Typer(add_completion=False)


def subset(archive: Path, n: int, seed: int, folder: Path) -> int:
    """Extract n training images per class, all if it is 0, as ``train/`` and ``valid/``, and those to evaluate on as
    ``test/``, each with one folder per class; return the number of labels in train and valid."""
    random = np.random.default_rng(seed)
    by_class: dict[tuple[str, str], list[str]] = defaultdict(list)
    with zipfile.ZipFile(archive) as content:
        for name in sorted(content.namelist()):
            path = PurePosixPath(name)
            if path.parent.name in ("train", "valid") and path.suffix:
                by_class[path.parent.name, path.name.partition("_")[0]].append(name)
        chosen = {}
        for (part, label), names in by_class.items():
            if part == "valid":
                chosen["test", label] = names
                continue
            drawn = random.permutation(names)[: n or None].tolist()
            held_out = max(1, len(drawn) // 5)
            chosen |= {("valid", label): drawn[:held_out], ("train", label): drawn[held_out:]}
        for (split, label), names in chosen.items():
            (folder / split / label).mkdir(parents=True)
            for name in names:
                (folder / split / label / PurePosixPath(name).name).write_bytes(content.read(name))
    return sum(len(names) for (split, _), names in chosen.items() if split != "test")


def measured(recipe: str, changes: dict[str, Any]) -> dict[str, float]:
    """Reproduce a recipe in a temporary clone; see :func:`reproduced`."""
    with tempfile.TemporaryDirectory() as folder:
        clone_with_recipe(Path(folder), recipe, changes)
        return reproduced(Path(folder))


def reproduced(folder: Path) -> dict[str, float]:
    """Reproduce a clone; return its accuracy, and the seconds that all stages took together."""
    start = time.perf_counter()
    call(folder, "dvc", "repro", "evaluate")
    accuracy = json.loads((folder / "results/metrics/evaluate.json").read_text())["accuracy"]
    return {"accuracy": accuracy, "seconds": round(time.perf_counter() - start, 1)}


def missing_runs(
    output: Path, archive: Path, curves: dict[str, tuple[str, dict[str, Any]]], sizes: Sequence[int], seeds: int
) -> None:
    """Append a line for each run that the output does not have yet."""
    lines = output.read_text().splitlines() if output.exists() else []
    done = {(line["curve"], line["n"], line["seed"]) for line in map(json.loads, lines)}
    for seed, n, curve in itertools.product(range(1, seeds + 1), sizes, curves):
        if (curve, n, seed) in done:
            continue
        recipe, changes = curves[curve]
        with tempfile.TemporaryDirectory() as folder:
            labels = subset(archive, n, seed, Path(folder))
            data = {"seed": seed, "data.source": "folder", "data.location": folder}
            line = {"curve": curve, "n": n, "seed": seed, "labels": labels, **measured(recipe, data | changes)}
        print(json.dumps(line), flush=True)
        with output.open("a") as file:
            print(json.dumps(line), file=file)


@app.command()
def run(output: Path, archive: Path, weights: Path, seeds: int = 3) -> None:
    """Measure all curves."""
    pretrained = {"model.pretrained": str(weights.resolve())}
    curves = {
        curve: (recipe, changes | pretrained if recipe == "finetune" else changes)
        for curve, (recipe, changes) in CURVES.items()
    }
    missing_runs(output, archive, curves, SIZES, seeds)


@app.command()
def draw(lines: Path, picture: Path) -> None:
    """Draw the mean of each curve, and the range of its runs."""
    table = pd.read_json(lines, lines=True)
    with saved_figure(picture, 7, 4.5) as figure:
        axis = figure.subplots()
        for curve, rows in table.groupby("curve", sort=False):
            of_size = rows.groupby("n")["accuracy"].agg(["mean", "min", "max"])
            (line,) = axis.plot(of_size.index, of_size["mean"], marker="o", label=curve)
            axis.fill_between(of_size.index, of_size["min"], of_size["max"], color=line.get_color(), alpha=0.2, lw=0)
        axis.set(xscale="log", xlabel="labelled images per class", ylabel="accuracy on new images", ylim=(0, 1))
        ticks = sorted(set(table["n"]))
        axis.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axis.minorticks_off()
        axis.legend(title=f"mean and range of {table['seed'].nunique()} seeds", frameon=False)
        axis.grid(axis="y", alpha=0.3)


def quick() -> None:
    """Two networks of one epoch, on a few images of noise."""
    with tempfile.TemporaryDirectory() as folder:
        archive, output = Path(folder, "photos.zip"), Path(folder, "runs.jsonl")
        write_noise_archive(archive, 6)
        curves = {"small": ("imagefolder", SMALL)}
        missing_runs(output, archive, curves, (5,), 1)
        finished = output.read_text()
        missing_runs(output, archive, curves, (5,), 1)
        if output.read_text() != finished:
            raise SystemExit("a finished run was not left out")
        draw(output, Path(folder, "few_images.png"))


with_quick_mode(app, quick)
if __name__ == "__main__":
    app()
