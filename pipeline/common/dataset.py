"""``data/dataset/``: every split as one ``uint8`` array, with an index table and a manifest.

``{split}.npy`` has the shape ``(images, copies, height, width, 3)``: copy 0 is the plain resized image, the
others are augmented views. ``index.csv`` has one row per image; ``manifest.json`` describes the arrays.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import PipelineError

INDEX_COLUMNS = ["split", "row", "id", "label", "class", "source"]
UNLABELLED = -1


@dataclass(frozen=True)
class Manifest:
    """The description of a packed dataset.

    Attributes:
        classes: the class names in the order of their indices.
        image_size: height and width of the network's input in pixels; the training images may be larger (``shapes``).
        resize: ``stretch``, ``crop`` or ``pad``: how a photo was made square.
        mean, std: of each channel over the plain training images, in 0 to 1.
        shapes: of each split's array.
        digest: of all pixels and the index, which identifies the dataset.
    """

    classes: tuple[str, ...]
    image_size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    shapes: dict[str, tuple[int, ...]]
    digest: str

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        (folder / "manifest.json").write_text(json.dumps(vars(self), indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read ``manifest.json``.

        Raises:
            PipelineError: the folder contains no packed dataset.
        """
        try:
            content = json.loads((folder / "manifest.json").read_text("utf-8"))
        except FileNotFoundError:
            raise PipelineError(f"{folder}: contains no packed dataset; run dvc repro augment") from None
        return cls(
            tuple(content["classes"]),
            content["image_size"],
            content["resize"],
            tuple(content["mean"]),
            tuple(content["std"]),
            {split: tuple(shape) for split, shape in content["shapes"].items()},
            content["digest"],
        )


@dataclass(frozen=True)
class PackedSplit:
    """One split.

    Attributes:
        name: ``train``, ``valid`` or ``test``.
        images: read-only memory map, ``uint8``, ``(images, copies, height, width, 3)``.
        labels: class indices, ``int64``, ``(images,)``; ``UNLABELLED`` if there is none.
        ids: unique in the split.
        sources: the paths in the source.
    """

    name: str
    images: np.memmap[Any, np.dtype[np.uint8]]
    labels: NDArray[np.int64]
    ids: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != UNLABELLED).all())

    def require_views(self, section: str) -> None:
        """Check that there are augmented views for test-time augmentation, the parameter ``{section}.tta``.

        Raises:
            PipelineError: the split has plain copies only.
        """
        if self.images.shape[1] < 2:
            key = "augment.views" if self.name == "train" else "augment.test_views"
            raise PipelineError(
                f"params.yaml: {section}.tta: got true, but the {self.name} split has no augmented views to average "
                f"over; set {key} to 1 or more, or {section}.tta to false"
            )


class PackedDataset:
    """A packed dataset on disk; the arrays are memory-mapped, not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)

    @cached_property
    def _index(self) -> pd.DataFrame:
        # As text: an id such as 0001 must not become a number.
        return pd.read_csv(self.folder / "index.csv", dtype=str, keep_default_na=False)

    def __contains__(self, split: str) -> bool:
        return split in self.manifest.shapes

    def split(self, name: str) -> PackedSplit:
        """Open one split.

        Raises:
            PipelineError: the dataset has no such split.
        """
        if name not in self:
            raise PipelineError(
                f"{self.folder}: has no {name} split, only {', '.join(self.manifest.shapes)}; "
                f"set data.{name}_fraction, or choose another split"
            )
        rows = self._index[self._index["split"] == name]
        labels = pd.to_numeric(rows["label"].replace("", str(UNLABELLED))).to_numpy(np.int64)
        images = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return PackedSplit(name, images, labels, rows["id"].tolist(), rows["source"].tolist())

    def labelled_split(self, choice: str) -> PackedSplit:
        """Open a labelled split by its name; ``auto`` is test if it is labelled, and valid otherwise.

        Raises:
            PipelineError: the dataset has no such split, or it has no labels.
        """
        if choice == "auto":
            test = self.split("test") if "test" in self else None
            return test if test is not None and test.labelled else self.split("valid")
        split = self.split(choice)
        if not split.labelled:
            raise PipelineError(f"{self.folder}: the {choice} split has no labels; choose auto or valid")
        return split


def create_array(path: Path, shape: tuple[int, ...]) -> int:
    """Create a ``uint8`` array file of the given shape and return the offset of its first byte."""
    with path.open("wb") as file:
        offset = _write_header(file, shape)
        # Allocated now, so that a full disk is reported before the work, not after it.
        size = offset + int(np.prod(shape, dtype=np.int64))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    return offset


def keep_rows(path: Path, rows: Sequence[int]) -> None:
    """Remove all rows of an array file except ``rows``, which are in ascending order; the file shrinks in place."""
    array = np.load(path, mmap_mode="r+")
    for place, row in enumerate(rows):
        if place != row:
            array[place] = array[row]
    array.flush()
    with path.open("r+b") as file:
        # NumPy pads the header for any length of the first dimension, so its size does not change.
        offset = _write_header(file, (len(rows), *array.shape[1:]))
        file.truncate(offset + len(rows) * array[0].nbytes)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()
