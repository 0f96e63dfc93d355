"""Throughput of ``python -m pipeline predict FOLDER`` compared with the loops that a user would write, side by side.

    OMP_NUM_THREADS=1 python benchmarks/predict.py photos.zip --width 16
    OMP_NUM_THREADS=1 python benchmarks/predict.py photos.zip --width 64 --images 200

The folder contains 1,000 photos: those of the zip, repeated; without a zip, of noise. All methods run the network
``classifier`` at 128 pixels with random weights on the same device. (a) opens a photo with PIL, resizes it with
torchvision and runs the network, one photo at a time; (b) uses a ``DataLoader`` with 2 workers and batches of 64; ours
is the command from listing the folder to the probabilities in memory, the time that it reports. Starting Python,
importing torch and reading the weights do not count.

Measured:

    2 CPU cores (x86-64, shared machine: load 4 to 5 throughout), torch 2.15.0 with 1 thread, photos of 512 px;
    medians, minimum and maximum in brackets.
    Width 16, 1,000 photos, 5 rounds: (a) 118 images per second (88 to 160), (b) 120 (81 to 137), ours 312 (180 to
    325): 2.6 times as many. With batches of 64 instead of 16, ours had 203 (3 rounds).
    Width 64, 200 photos, 3 rounds: (a) 21 (20 to 31), (b) 24 (19 to 26), ours 21 (21 to 30): the network takes all
    the time, and no method is faster than another.

    GPU: not measured.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from inputs import CLASSES, MEAN, NAMES, STD, Photos, photo_files
from torch.utils.data import DataLoader

from pipeline.network.device import choose_device, describe_device
from pipeline.network.models import ModelSpec, build_model
from pipeline.network.weights import save_model
from pipeline.predict.files import find_images, load_models, predict_files

WORKERS = 2
BATCH_SIZE = 64


def copies(photos: list[Path], folder: Path, count: int) -> list[Path]:
    """Write ``count`` photos into a folder, those given repeated."""
    folder.mkdir()
    files = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(photos[number % len(photos)].read_bytes())
    return files


def save_network(path: Path, width: int, size: int) -> None:
    """Write a weights file of an untrained network ``classifier``."""
    torch.manual_seed(0)
    spec = ModelSpec("classifier", width, 0.0, "default", CLASSES, size, "stretch", "area", NAMES, MEAN, STD)
    save_model(path, build_model(spec).state_dict(), spec)


@torch.inference_mode()
def one_by_one(network: torch.nn.Module, photos: Photos, device: torch.device) -> None:
    """(a)."""
    for row in range(len(photos)):
        network(photos[row][0][None].to(device)).softmax(1).cpu()


@torch.inference_mode()
def in_batches(network: torch.nn.Module, photos: Photos, device: torch.device) -> None:
    """(b)."""
    for images, _ in DataLoader(photos, BATCH_SIZE, num_workers=WORKERS):
        network(images.to(device)).softmax(1).cpu()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(
    photos: Annotated[Path | None, typer.Argument(help="a zip; without one, noise")] = None,
    images: int = 1000,
    rounds: int = 5,
    width: int = 16,
    size: int = 128,
    quick: Annotated[bool, typer.Option(help="run everything in seconds, as a test; sets all sizes")] = False,
) -> None:
    """Print the images per second of each method, the median, minimum and maximum over the rounds, and the ratios."""
    if quick:
        images, rounds, width, size = 8, 1, 4, 32
    os.environ["PIPELINE_WORKERS"] = str(WORKERS)
    device = choose_device()
    print(
        f"{describe_device(device)}, torch {torch.__version__}, width {width}, {size} px, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        files = copies(photo_files(photos, Path(name), min(images, 100)), folder, images)
        save_network(Path(name) / "model.safetensors", width, size)
        models = load_models([Path(name) / "model.safetensors"])
        network = models[0][0].model
        usual = Photos(files, images, size, normalised=True)
        methods: dict[str, Callable[[], object]] = {
            "(a) one by one": lambda: one_by_one(network, usual, device),
            "(b) DataLoader": lambda: in_batches(network, usual, device),
            "ours": lambda: predict_files(find_images([folder])[0], models, quiet=True),
        }
        rates: dict[str, list[float]] = {method: [] for method in methods}
        for number in range(rounds + 1):
            for method, work in methods.items():
                rate = images / seconds(work)
                # The first round only warms up the caches.
                if number:
                    rates[method].append(rate)
    medians = {method: statistics.median(found) for method, found in rates.items()}
    for method, found in rates.items():
        print(f"{method:16}{medians[method]:8.0f} images per second ({min(found):.0f} to {max(found):.0f})")
    for method in list(methods)[:2]:
        print(f"ours / {method}: {medians['ours'] / medians[method]:.2f}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    typer.run(main)
