"""Fine-tuning compared with timm's own ``train.py``: the same network, weights, photos, size, batches and epochs.

Both are run as a user would, one after the other for each seed: ours with the recipe *finetune* in a clone of this
repository, timm's with the same values where it has the option, in bf16 and channels_last on two worker processes. A
time is that of the whole command, with its start; ours includes packing the photos, which later runs do not repeat. The
photos are a zip with ``train/`` and ``valid/``, in which the class is before the first ``_`` of a name:

    git clone --depth 1 https://github.com/huggingface/pytorch-image-models timm
    OMP_NUM_THREADS=2 python benchmarks/fine_tune.py --photos food10.zip --weights tf_efficientnet_lite0.safetensors \
        --timm-script timm/train.py

Measured (2 CPU cores, torch 2.15.0, timm 1.0.31, EfficientNet-Lite0, 3,750 food photos of 10 classes, 620 for
validation, 128 px, 3 epochs): valid accuracy 0.825 ± 0.005 of ours (3 seeds) and 0.717 ± 0.022 of timm's (2 seeds, one
epoch of warm-up from a learning rate near 0). On a quiet machine 61.8 images per second of ours (one run, without
packing) and 42.5 of timm's (one run); the other runs were disturbed, and their speed does not count.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from inputs import clone_with_recipe, noise_photo, set_parameters

from pipeline.common.yaml_file import read_yaml

DROPOUT = 0.2
STAGES = ("source", "download", "pretrained", "augment", "train")


@dataclass(frozen=True)
class Run:
    """The seconds of a command, and the best accuracy on the validation images."""

    seconds: float
    accuracy: float


def lay_out(photos: Path, folder: Path) -> dict[str, int]:
    """Write the photos into one folder per split and class; return their number in each split."""
    counts = {"train": 0, "valid": 0}
    with zipfile.ZipFile(photos) as archive:
        for name in archive.namelist():
            *_, split, file = Path(name).parts if "/" in name else ("", name)
            if split in counts and (label := file.partition("_")[0]) != file:
                path = folder / split / f"class{label}" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
                counts[split] += 1
    return counts


def run(command: list[str], folder: Path) -> float:
    """Run a command and return its seconds; its output is shown if it fails."""
    start = time.perf_counter()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


def ours(clone: Path, seed: int, done: set[str]) -> Run:
    """Run the stages of one seed; those before ``train`` only once."""
    set_parameters(clone, {"seed": seed})
    stages = [stage for stage in STAGES if stage not in done]
    seconds = sum(run([sys.executable, "-m", "pipeline", stage], clone) for stage in stages)
    done.update(STAGES[:-1])
    metrics = json.loads((clone / "results" / "metrics" / "train.json").read_text())
    return Run(seconds, metrics["valid_accuracy"])


def timms(script: Path, photos: Path, weights: Path, network: str, size: int, train: dict[str, Any], seed: int) -> Run:
    """Run timm's script with the values of the section ``train``."""
    with tempfile.TemporaryDirectory() as output:
        options = {
            "data-dir": photos, "val-split": "valid", "model": network, "pretrained-path": weights, "img-size": size,
            "num-classes": len(list((photos / "train").iterdir())), "device": "cpu", "amp-dtype": "bfloat16",
            "epochs": train["epochs"], "batch-size": train["batch_size"], "opt": train["optimizer"],
            "lr": train["lr"], "weight-decay": train["weight_decay"], "layer-decay": train["layer_decay"],
            "clip-grad": train["clip_norm"], "drop": DROPOUT, "smoothing": train["label_smoothing"],
            "sched": train["schedule"], "warmup-epochs": round(train["warmup_epochs"]), "hflip": train["hflip"],
            "color-jitter": train["color_jitter"], "workers": 2, "seed": seed, "output": output, "experiment": "run",
        }  # fmt: skip
        flags = ["--pretrained", "--amp", "--channels-last", "--scale", str(train["random_resized_crop"]), "1"]
        command = [sys.executable, str(script), *flags]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        seconds = run(command, photos.parent)
        with Path(output, "run", "summary.csv").open() as file:
            return Run(seconds, max(float(row["eval_top1"]) for row in csv.DictReader(file)) / 100)


def print_table(runs: dict[str, list[Run]], images: int) -> None:
    """Print the accuracy of each contender with its spread, and its images per second."""
    print(f"{'':8}{'valid accuracy':>22}{'images/s':>10}{'min':>8}{'max':>8}")
    for name, of_seeds in runs.items():
        accuracies = [one.accuracy for one in of_seeds]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        speeds = [images / one.seconds for one in of_seeds]
        accuracy = f"{statistics.mean(accuracies):.4f} ± {spread:.4f}"
        print(f"{name:8}{accuracy:>22}{statistics.median(speeds):10.1f}{min(speeds):8.1f}{max(speeds):8.1f}")


def quick_input(folder: Path) -> tuple[Path, Path]:
    """A zip of noise photos, and random weights of a tiny network."""
    import numpy as np
    import timm
    from safetensors.torch import save_file

    random = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number in range(24):
            with archive.open(f"{'valid' if number % 4 == 0 else 'train'}/{number % 3}_{number}.jpg", "w") as file:
                noise_photo(random, 64).save(file, "JPEG")
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "weights.safetensors")
    return folder / "photos.zip", folder / "weights.safetensors"


def main(
    photos: Path | None = None,
    weights: Path | None = None,
    network: str = "tf_efficientnet_lite0",
    timm_script: Annotated[Path | None, typer.Option(help="timm's train.py; without it only ours is run")] = None,
    image_size: int = 160,
    epochs: int = 5,
    seeds: int = 3,
    quick: Annotated[bool, typer.Option(help="run ours in seconds, as a test; sets all sizes")] = False,
) -> None:
    """Compare accuracy and speed; medians over the seeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if quick:
            (photos, weights), network, image_size, epochs, seeds = quick_input(folder), "test_efficientnet", 64, 2, 1
        if photos is None or weights is None:
            sys.exit("--photos and --weights are required, unless --quick is given")
        weights, counts = weights.resolve(), lay_out(photos, folder / "photos")
        print(f"{network}, {counts['train']} training and {counts['valid']} validation photos, {image_size} px")
        data = {"data.source": "folder", "data.location": str(folder / "photos"), "data.test_fraction": 0.0}
        model = {"model.name": f"timm/{network}", "model.dropout": DROPOUT, "model.pretrained": str(weights)}
        changes = {"augment.image_size": image_size, "augment.store_size": None, "train.epochs": epochs}
        clone_with_recipe(folder / "clone", "finetune", data | model | changes)
        train = read_yaml(folder / "clone/params.yaml")["train"]
        done: set[str] = set()
        runs: dict[str, list[Run]] = {"ours": [], **({"timm": []} if timm_script else {})}
        for seed in range(seeds):
            runs["ours"].append(ours(folder / "clone", seed, done))
            if timm_script:
                script = timm_script.resolve()
                runs["timm"].append(timms(script, folder / "photos", weights, network, image_size, train, seed))
            print_table(runs, counts["train"] * epochs)


if __name__ == "__main__":
    typer.run(main)
