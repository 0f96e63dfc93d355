"""Wrong labels found by ``python -m pipeline folds``: how many of those that were planted, and what it is worth to
correct them.

    python benchmarks/label_errors.py digits digits.jsonl
    python benchmarks/label_errors.py photos food10.jsonl food10.zip tf_efficientnet_lite0.safetensors own.csv

5 % of the images of train and valid get the label of another class, drawn by the seed; the test images keep theirs.
The images are ranked as on the page that ``folds`` writes, and the first 10 % are reviewed: the true label is written
into ``corrections.csv`` where it is another one. Three accuracies on the test images are compared: with the planted
labels, with those corrections, and with all planted labels corrected.

*digits* runs the stages of the recipe of that name, 5 folds and three more trainings per seed. For *photos* only the
last layer is trained: a logistic regression on the features of the frozen network, which are computed once for all
seeds, at 128 px. It also ranks the photos with their own labels, without planted ones, and writes them to ``own.csv``.

A line of JSON per seed is appended to the output, and a seed that it has already is left out. An archive has the images
``train/{class}_{name}`` and ``valid/{class}_{name}``, of which the latter are tested on, as in ``few_images.py``.
"""

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import typer
from few_images import PRETRAINED, subset
from inputs import SMALL, clone_with_recipe, set_parameters, with_quick_mode, write_noise_archive
from numpy.typing import NDArray
from PIL import Image

from pipeline.cli import app as pipeline
from pipeline.common.files import write_table
from pipeline.common.yaml_file import read_yaml
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


def frozen_features(
    archive: Path, changes: dict[str, Any], recipe: str
) -> dict[str, tuple[list[str], NDArray[np.int64], NDArray[np.float32]]]:
    """The paths, labels and features of the images to train (``train``) and to test on (``test``)."""
    from sklearn.preprocessing import normalize

    from pipeline.common.dataset import PackedDataset
    from pipeline.network.inference import extract_features
    from pipeline.network.models import ModelSpec, build_model, default_layers, find_layer
    from pipeline.network.pretrained import read_pretrained

    with tempfile.TemporaryDirectory() as name:
        clone, images = Path(name, "clone"), Path(name, "images")
        subset(archive, 0, 0, images)
        clone_with_recipe(clone, recipe, changes | {"data.source": "folder", "data.location": str(images)})
        predictions(clone, {}, ["source", "pretrained", "download", "augment"])
        with chdir(clone):
            dataset, weights = PackedDataset(Path("data/dataset")), read_pretrained()
            manifest, section = dataset.manifest, read_yaml(Path("params.yaml"))["model"]
            keys = ("name", "width", "dropout", "stem", "drop_path_rate", "kwargs")
            spec = ModelSpec(
                **{key: section[key] for key in keys},
                **{key: getattr(manifest, key) for key in ("image_size", "resize", "interpolation", "classes")},
                outputs=len(manifest.classes),
                mean=weights.origin.mean or manifest.mean,
                std=weights.origin.std or manifest.std,
            )
            model = build_model(spec)
            weights.load_into(model, spec.classes)
            layer = default_layers(model)[-1]
            layers = {layer: find_layer(model, layer, "label_errors")}
            found = {}
            for part in ("train", "valid", "test"):
                split = dataset.split(part)
                features, _ = extract_features(model, spec, split, part, layers)
                found[part] = list(split.sources), np.asarray(split.labels), normalize(features[layer])
    (paths, labels, features), (more, others, rest) = found.pop("train"), found.pop("valid")
    return found | {"train": (paths + more, np.append(labels, others), np.append(features, rest, axis=0))}


def ranked_by_folds(features: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The rows, the most suspect label first, by the predictions of ``FOLDS`` logistic regressions."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(last_layer(), features, labels, cv=folds, method="predict_proba")
    rows = np.arange(len(labels))
    loss = -np.log(probabilities[rows, labels])
    columns = {"label": labels, "predicted": probabilities.argmax(1), "confidence": probabilities.max(1), "loss": loss}
    return most_suspect(pd.DataFrame(columns)).index.to_numpy()


def last_layer() -> Any:
    from sklearn.linear_model import LogisticRegression

    from pipeline.evaluate.baseline import C

    return LogisticRegression(C=C, max_iter=1000)


def measured_by_features(
    train: tuple[list[str], NDArray[np.int64], NDArray[np.float32]],
    test: tuple[list[str], NDArray[np.int64], NDArray[np.float32]],
    seed: int,
) -> dict[str, float]:
    """Plant, find and correct wrong labels of images with known features."""
    random, (_, truth, features) = np.random.default_rng([seed, 1]), train
    planted, classes = random.choice(len(truth), round(PLANTED * len(truth)), replace=False), truth.max() + 1
    labels = truth.copy()
    labels[planted] = (labels[planted] + random.integers(1, classes, len(planted))) % classes
    reviewed = ranked_by_folds(features, labels, seed)[: round(REVIEWED * len(labels))]
    corrected = labels.copy()
    corrected[reviewed] = truth[reviewed]
    networks = {"before": labels, "after": corrected, "without": truth}
    found = len(np.intersect1d(planted, reviewed))
    counts = {"images": len(truth), "planted": len(planted), "reviewed": len(reviewed), "found": found}
    accuracies = {name: last_layer().fit(features, of).score(test[2], test[1]) for name, of in networks.items()}
    return {"seed": seed, **counts, "recall": found / len(planted), **accuracies}


def missing_seeds(output: Path, seeds: int, measure: Callable[[int], dict[str, float]]) -> None:
    """Append a line for each seed that the output does not have yet, and print mean and standard deviation of all."""
    lines = output.read_text().splitlines() if output.exists() else []
    for seed in sorted({*range(1, seeds + 1)} - {json.loads(line)["seed"] for line in lines}):
        line = json.dumps(measure(seed))
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


def measured_by_stages(archive: Path, recipe: str, changes: dict[str, Any], seed: int) -> dict[str, float]:
    """Plant, find and correct wrong labels of the images in an archive."""
    with tempfile.TemporaryDirectory() as folder:
        subset(archive, 0, seed, Path(folder))
        return measured(Path(folder), seed, recipe, changes)


@app.command()
def digits(output: Path, seeds: int = 3) -> None:
    """The built-in digits."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "digits.zip")
        digits_archive(archive)
        missing_seeds(output, seeds, partial(measured_by_stages, archive, "digits", {"evaluate.bootstrap": 0}))


@app.command()
def photos(output: Path, archive: Path, weights: Path, own: Path, seeds: int = 3) -> None:
    """Photos, and the weights of timm's tf_efficientnet_lite0."""
    changes = {"model.pretrained": str(weights.resolve()), "augment.image_size": 128}
    parts = frozen_features(archive, PRETRAINED | changes, "finetune")
    paths, labels, features = parts["train"]
    order = ranked_by_folds(features, labels, 0)
    write_table(own, pd.DataFrame({"source": [paths[row] for row in order]}))
    missing_seeds(output, seeds, partial(measured_by_features, parts["train"], parts["test"]))


def quick() -> None:
    """Small networks, trained for one epoch, on a few images of noise, and the features of one of them."""
    random = np.random.default_rng(0)
    small = SMALL | {"augment.views": 0}
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "noise.zip")
        write_noise_archive(archive, 20)
        missing_seeds(Path(folder, "runs.jsonl"), 1, partial(measured_by_stages, archive, "digits", small))
        labels = np.arange(60) % 3
        noise = random.normal(0, 1, (60, 8)).astype(np.float32) + 3 * np.eye(3, 8, dtype=np.float32)[labels]
        print(measured_by_features(([], labels, noise), ([], labels, noise), 1))


with_quick_mode(app, quick)
if __name__ == "__main__":
    app()
