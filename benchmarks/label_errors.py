"""Wrong labels found by ``python -m pipeline folds``: how many of those that were planted, and what it is worth to
correct them.

    python benchmarks/label_errors.py digits digits.jsonl
    python benchmarks/label_errors.py photos food10.jsonl food10.zip tf_efficientnet_lite0.safetensors

5 % of the images of train and valid get the label of another class, drawn by the seed; the test images keep theirs.
The images are ranked as on the page that ``folds`` writes, and the first 10 % are reviewed: the true label is written
into ``corrections.csv`` where it is another one. Three accuracies on the test images are compared: with the planted
labels, with those corrections, and with all planted labels corrected. The networks are those of the recipe *digits*,
and of the recipe *finetune* with only the last layer trained, at 128 px.

A line of JSON per seed is appended to the output, and a seed that it has already is left out. An archive has the images
``train/{class}_{name}`` and ``valid/{class}_{name}``, of which the latter are tested on, as in ``few_images.py``.
"""

import itertools
import json
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import typer
from few_images import FROZEN, PRETRAINED, subset
from inputs import clone_with_recipe, noise_photo, set_parameters, with_quick_mode
from PIL import Image

from pipeline.cli import app as pipeline
from pipeline.common.files import write_table
from pipeline.experiments.folds import most_suspect

PLANTED, REVIEWED, FOLDS = 0.05, 0.1, 5
STAGES = ("augment", "train", "evaluate")
CORRECTIONS = "corrections.csv"
app = typer.Typer(add_completion=False)


def plant(folder: Path, seed: int) -> dict[str, str]:
    """Move some images of train and valid into the folder of another class; return their true class by their path."""
    random = np.random.default_rng([seed, 1])
    images = sorted(path for split in ("train", "valid") for path in folder.glob(f"{split}/*/*"))
    classes = sorted({path.parent.name for path in images})
    truth = {}
    for place in random.choice(len(images), round(PLANTED * len(images)), replace=False):
        path = images[place]
        wrong = random.choice([name for name in classes if name != path.parent.name])
        path = path.rename(path.parents[1] / wrong / path.name)
        truth[path.relative_to(folder).as_posix()] = images[place].parent.name
    return truth


def predictions(clone: Path, changes: dict[str, Any], stages: Sequence[str]) -> pd.DataFrame:
    """Run stages in this process, in a folder; return what ``evaluate`` predicts, all columns as text."""
    set_parameters(clone, changes)
    with chdir(clone), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        for stage in stages:
            pipeline([stage], standalone_mode=False)
        path = Path("results/evaluation/predictions.csv")
        return pd.read_csv(path, dtype=str, na_filter=False) if path.exists() else pd.DataFrame()


def accuracy(clone: Path, corrections: dict[str, str]) -> float:
    """The accuracy on the test images after a training with these corrections."""
    write_table(clone / CORRECTIONS, pd.DataFrame(corrections.items(), columns=["id", "label"]))
    table = predictions(clone, {"data.corrections": CORRECTIONS}, STAGES)
    return float((table["predicted"] == table["label"]).mean())


def measured(images: Path, seed: int, recipe: str, changes: dict[str, Any]) -> dict[str, float]:
    """Plant, find and correct wrong labels in a folder of images."""
    truth = plant(images, seed)
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name, "clone")
        data = {"seed": seed, "data.source": "folder", "data.location": str(images), "data.sha256": None}
        clone_with_recipe(clone, recipe, changes | data)
        predictions(clone, {"data.folds": FOLDS}, ["source", "pretrained"])
        # What the command ``folds`` runs, each fold as a DVC experiment.
        split = {"evaluate.split": "valid"}
        folds = [predictions(clone, {"data.fold": fold} | split, ["download", *STAGES]) for fold in range(FOLDS)]
        ranked = most_suspect(pd.concat(folds, ignore_index=True))["source"]
        reviewed = ranked.head(round(REVIEWED * len(ranked)))
        found = {path: truth[path] for path in reviewed if path in truth}
        predictions(clone, {"data.folds": None, "data.fold": 0, "evaluate.split": "test"}, ["download"])
        networks = {"before": {}, "after": found, "without": truth}
        accuracies = {name: accuracy(clone, corrections) for name, corrections in networks.items()}
    counts = {"images": len(ranked), "planted": len(truth), "reviewed": len(reviewed), "found": len(found)}
    return {"seed": seed, **counts, "recall": len(found) / len(truth), **accuracies}


def missing_seeds(output: Path, archive: Path, seeds: int, recipe: str, changes: dict[str, Any]) -> None:
    """Append a line for each seed that the output does not have yet, and print mean and standard deviation of all."""
    lines = output.read_text().splitlines() if output.exists() else []
    for seed in sorted({*range(1, seeds + 1)} - {json.loads(line)["seed"] for line in lines}):
        with tempfile.TemporaryDirectory() as folder:
            subset(archive, 0, seed, Path(folder))
            line = json.dumps(measured(Path(folder), seed, recipe, changes))
        print(line, flush=True)
        with output.open("a") as file:
            print(line, file=file)
    table = pd.read_json(output, lines=True)[["recall", "before", "after", "without"]]
    print(table.agg(["mean", "std"]).round(4).to_string())


def digits_archive(path: Path) -> None:
    """The built-in digits, each fifth one to test on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    with zipfile.ZipFile(path, "w") as content:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            encoded = BytesIO()
            Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(encoded, "PNG")
            name = PurePosixPath("train" if number % 5 else "valid", f"{label}_{number:04}.png")
            content.writestr(str(name), encoded.getvalue())


@app.command()
def digits(output: Path, seeds: int = 3) -> None:
    """The built-in digits."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "digits.zip")
        digits_archive(archive)
        missing_seeds(output, archive, seeds, "digits", {"evaluate.bootstrap": 0})


@app.command()
def photos(output: Path, archive: Path, weights: Path, seeds: int = 3) -> None:
    """Photos, and the weights of timm's tf_efficientnet_lite0."""
    changes = {"model.pretrained": str(weights.resolve()), "augment.image_size": 128}
    changes |= {"evaluate.bootstrap": 0, "evaluate.baseline": False}
    missing_seeds(output, archive, seeds, "finetune", PRETRAINED | FROZEN | changes)


def quick() -> None:
    """Small networks, trained for one epoch, on a few images of noise."""
    random = np.random.default_rng(0)
    small = {
        "augment.image_size": 32,
        "augment.views": 0,
        "model.width": 2,
        "train.epochs": 1,
        "train.warmup_epochs": 0.0,
    }
    small |= {"train.ema_decay": 0.0, "evaluate.bootstrap": 0, "train.batch_size": 4}
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "noise.zip")
        with zipfile.ZipFile(archive, "w") as content:
            for part, label, number in itertools.product(("train", "valid"), range(2), range(20)):
                with content.open(f"photos/{part}/{label}_{number}.png", "w") as file:
                    noise_photo(random, 64).save(file, "PNG")
        missing_seeds(Path(folder, "runs.jsonl"), archive, 1, "digits", small)


with_quick_mode(app, quick)
if __name__ == "__main__":
    app()
