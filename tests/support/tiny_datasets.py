"""Small packed datasets of coloured noise, written without running the stages ``download`` and ``augment``."""

from pathlib import Path

import numpy as np

from pipeline.common.dataset import INDEX_COLUMNS, Manifest, PackedDataset, PackedSplit
from pipeline.params.schema import TrainParams
from tests.support.sections import TRAIN

CLASSES = ("blue", "green", "red", "white", "black")
COLOURS = np.array([(60, 80, 180), (60, 170, 80), (190, 70, 60), (200, 200, 200), (40, 40, 40)])
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def write_split(
    folder: Path,
    images: int = 24,
    copies: int = 2,
    size: int = 32,
    classes: int = 3,
    seed: int = 0,
    name: str = "train",
) -> PackedSplit:
    """Write a split of noise around one colour per class, and open it as ``PackedDataset`` does."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    noise = random.normal(0, 40, (images, copies, size, size, 3))
    pixels = np.clip(COLOURS[labels][:, None, None, None] + noise, 0, 255).astype(np.uint8)
    np.save(folder / f"{name}.npy", pixels)
    names = [f"{number:04}" for number in range(images)]
    return PackedSplit(name, np.load(folder / f"{name}.npy", mmap_mode="r"), labels, names, names)


def write_dataset(folder: Path, classes: int = 3, size: int = 32, **images: int) -> PackedDataset:
    """Write a dataset with the given number of images per split; the test split has no labels."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes, lines = {}, [",".join(INDEX_COLUMNS)]
    for seed, (name, count) in enumerate(images.items()):
        split = write_split(folder, count, 2 if name == "train" else 1, size, classes, seed, name)
        shapes[name] = split.images.shape
        for row, (label, number) in enumerate(zip(split.labels, split.ids, strict=True)):
            known = f"{label},{CLASSES[label]}" if name != "test" else ","
            lines.append(f"{name},{row},{number},{known},{name}/{number}.png,")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    Manifest(CLASSES[:classes], size, "stretch", "area", MEAN, STD, shapes, "digest").write(folder)
    return PackedDataset(folder)


def train_params(**changes) -> TrainParams:
    """Build a section ``train`` from the values that matter to the test."""
    return TrainParams(**{**TRAIN, **changes})
