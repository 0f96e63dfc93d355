"""What pseudo-labels bring if most labels are hidden: accuracy with few labels, with pseudo-labels, and with all.

    python benchmarks/pseudo_labels.py run pseudo_labels.jsonl food10.zip tf_efficientnet_lite0.safetensors
    python benchmarks/pseudo_labels.py show pseudo_labels.jsonl

The archive has the images ``train/{class}_{name}`` and ``valid/{class}_{name}``. The seed draws the labels that are
kept, a fifth of which becomes the valid split; the other training images go into ``unlabeled/`` under names that say
nothing. All networks are evaluated on all of the archive's ``valid/``. The networks with few labels, which differ in
their seeds, label the other images with ``python -m pipeline pseudo-label``; one network is trained on both kinds of
labels.

*run* appends one line of JSON per network, and leaves out the seeds that the file already has. *show* prints mean and
range.
"""

import itertools
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from few_images import FROZEN, PRETRAINED, reproduced, subset
from inputs import SMALL, call, clone_with_recipe, set_parameters, with_quick_mode, write_noise_archive

VARIANTS: dict[str, dict[str, Any]] = {"frozen": FROZEN, "fine-tuned": {}}
app = typer.Typer(add_completion=False)


def hide_labels(archive: Path, folder: Path) -> dict[str, str]:
    """Extract the training images that :func:`subset` left out as ``unlabeled/``; return their classes."""
    known = {path.name for part in ("train", "valid") for path in (folder / part).glob("*/*")}
    (folder / "unlabeled").mkdir()
    classes = {}
    with zipfile.ZipFile(archive) as content:
        names = [name for name in sorted(content.namelist()) if Path(name).parent.name == "train" and Path(name).suffix]
        for number, name in enumerate(name for name in names if Path(name).name not in known):
            path = f"unlabeled/{number:05}{Path(name).suffix}"
            (folder / path).write_bytes(content.read(name))
            classes[path] = Path(name).name.partition("_")[0]
    return classes


def runs(
    archive: Path, recipe: str, changes: dict[str, Any], n: int, seed: int, members: int, confidence: float
) -> list[dict[str, Any]]:
    """Measure the three networks of a seed, with ``n`` images per class that keep their labels."""
    found = []
    with tempfile.TemporaryDirectory() as photos, tempfile.TemporaryDirectory() as clone:
        folder, file = Path(clone), "pseudo_labels.csv"
        labels = subset(archive, n, seed, Path(photos))
        hidden = hide_labels(archive, Path(photos))
        source = {"data.source": "folder", "data.location": photos, "evaluate.split": "test"}
        clone_with_recipe(folder, recipe, changes | source)
        options = []
        for member in range(members):
            set_parameters(folder, {"seed": 100 * seed + member})
            result = reproduced(folder)
            shutil.copy(folder / "results/model.safetensors", folder / f"{member}.safetensors")
            options += ["--model", f"{member}.safetensors"]
            if not member:
                found.append({"labels": "few", "images": labels, **result})
        call(folder, "pipeline", "pseudo-label", *options, "--confidence", str(confidence), "--output", file)
        table = pd.read_csv(folder / file, dtype={"label": str})
        facts = {"pseudo": len(table), "precision": float((table["id"].map(hidden) == table["label"]).mean())}
        set_parameters(folder, {"seed": 100 * seed, "data.pseudo_labels": file})
        images = labels + len(table)
        found.append({"labels": "few and pseudo", "images": images, **facts, **reproduced(folder)})
        for path, label in hidden.items():
            Path(photos, path).rename(Path(photos, "train", label, f"hidden_{Path(path).name}"))
        Path(photos, "unlabeled").rmdir()
        set_parameters(folder, {"data.pseudo_labels": None})
        found.append({"labels": "all", "images": labels + len(hidden), **reproduced(folder)})
    return found


def missing_runs(
    output: Path, archive: Path, recipe: str, variants: dict[str, dict[str, Any]], seeds: int, **options: Any
) -> None:
    """Append a line for each network of the variants and seeds that the output does not have yet."""
    lines = output.read_text().splitlines() if output.exists() else []
    done = {(line["variant"], line["seed"]) for line in map(json.loads, lines)}
    for seed, variant in itertools.product(range(1, seeds + 1), variants):
        if (variant, seed) not in done:
            for line in runs(archive, recipe, variants[variant], seed=seed, **options):
                text = json.dumps({"variant": variant, "seed": seed, **options, **line})
                print(text, flush=True)
                with output.open("a") as file:
                    print(text, file=file)


@app.command()
def run(
    output: Path,
    archive: Path,
    weights: Path,
    variant: str = "frozen",
    seeds: int = 3,
    n: int = 75,
    members: int = 3,
    confidence: float = 0.95,
) -> None:
    """Measure a variant: frozen (only the last layer is trained) or fine-tuned."""
    changes = PRETRAINED | {"model.pretrained": str(weights.resolve())}
    variants = {variant: changes | VARIANTS[variant]}
    missing_runs(output, archive, "finetune", variants, seeds, n=n, members=members, confidence=confidence)


@app.command()
def show(lines: Path) -> None:
    """Print the mean and the range of each network over the seeds."""
    table = pd.read_json(lines, lines=True)
    columns = [name for name in ("images", "accuracy", "precision", "seconds") if name in table]
    print(table.groupby(["variant", "labels"], sort=False)[columns].agg(["mean", "min", "max"]).to_string())


def quick() -> None:
    """Networks of one epoch, on a few images of noise."""
    with tempfile.TemporaryDirectory() as folder:
        archive, output = Path(folder, "photos.zip"), Path(folder, "runs.jsonl")
        write_noise_archive(archive, 6)
        missing_runs(output, archive, "imagefolder", {"small": SMALL}, 1, n=4, members=1, confidence=0.0)
        show(output)


with_quick_mode(app, quick)
if __name__ == "__main__":
    app()
