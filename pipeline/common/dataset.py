"""``data/dataset/``: every split as one ``uint8`` array in one or more files, with an index table and a manifest.

``{split}.npy`` has the shape ``(images, copies, height, width, 3)``: copy 0 is the plain resized image, the others are
augmented views. An array above ``SHARD_BYTES`` is in several files, ``{split}-00000-of-00002.npy`` and so on.
``index.csv`` has one row per image, with the confidence of its label if that is a pseudo-label; ``manifest.json``
describes the arrays, and has the checksums of all files.

They are checked when a file is opened. Of an array above ``CHECKED_BYTES``, which would be read once more for that,
only type, shape and size are: DVC has compared its hash when it was checked out.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.common.reading import checked, checked_bytes, file_checksum, reading, require_checksum, with_checksum
from pipeline.common.sharded_array import Part, ShardedArray
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd

# Eight seconds from the memory.
CHECKED_BYTES = 16 * 2**30
INDEX_COLUMNS = ["split", "row", "id", "label", "class", "source", "confidence"]
UNLABELLED = -1


@dataclass(frozen=True)
class Manifest:
    """The description of a packed dataset.

    Attributes:
        classes: the class names in the order of their indices.
        image_size: height and width of the network's input in pixels; the training images may be larger (``shapes``).
        resize: ``stretch``, ``crop`` or ``pad``: how a photo was made square.
        interpolation: ``area``, ``bilinear`` or ``bicubic``: how it was resized.
        mean, std: of each channel over the plain training images, in 0 to 1.
        shapes: of each split's array.
        digest: of all pixels and the index, which identifies the dataset.
        files: the checksums of the other files of the dataset.
    """

    classes: tuple[str, ...]
    image_size: int
    resize: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    shapes: dict[str, tuple[int, ...]]
    digest: str
    files: dict[str, str] = field(default_factory=dict, compare=False)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, after the other files of the folder."""
        arrays = [path for split in self.shapes for path in sorted(folder.glob(f"{split}*.npy"))]
        paths = [folder / "index.csv", *arrays]
        files = {path.name: file_checksum(path) for path in paths if path.exists()}
        content = with_checksum({**vars(self), "files": files})
        (folder / "manifest.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read ``manifest.json``.

        Raises:
            PipelineError: the folder contains no packed dataset, or the file is damaged.
        """
        path = folder / "manifest.json"
        with reading(path):
            content = checked(path.read_text("utf-8"))
            content |= {name: tuple(content[name]) for name in ("classes", "mean", "std")}
            return cls(**content | {"shapes": {split: tuple(shape) for split, shape in content["shapes"].items()}})


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``count`` rows, evenly spaced, so that a split sorted by class keeps every class."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


@dataclass(frozen=True)
class PackedSplit:
    """One split.

    Attributes:
        name: ``train``, ``valid`` or ``test``.
        images: read-only, mapped, ``uint8``, ``(images, copies, height, width, 3)``.
        labels: class indices, ``int64``, ``(images,)``; ``UNLABELLED`` if there is none.
        ids: unique in the split.
        sources: the paths in the source.
    """

    name: str
    images: Part | ShardedArray
    labels: NDArray[np.int64]
    ids: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != UNLABELLED).all())

    def sample(self, most: int) -> NDArray[np.uint8]:
        """At most ``most`` evenly spaced plain images, ``uint8``, ``(n, height, width, 3)``."""
        return np.array(self.images[evenly_spaced(len(self), most), 0])

    def require_views(self, section: str) -> None:
        """Check that there are augmented views for test-time augmentation, the parameter ``{section}.tta``.

        Raises:
            PipelineError: the split has plain copies only.
        """
        if self.images.shape[1] < 2:
            key = "augment.views" if self.name == "train" else "augment.test_views"
            raise PipelineError(
                f"params.yaml: {section}.tta: got views, but the {self.name} split has no augmented views to average "
                f"over; set {key} to 1 or more, or {section}.tta to auto or none"
            )


class PackedDataset:
    """A packed dataset on disk; the arrays are memory-mapped, not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)

    @cached_property
    def _index(self) -> "pd.DataFrame":
        import pandas as pd

        path = self.folder / "index.csv"
        with reading(path):
            content = checked_bytes(path, self.manifest.files[path.name])
            # As text: an id such as 0001 must not become a number.
            return pd.read_csv(BytesIO(content), dtype=str, keep_default_na=False)

    def __contains__(self, split: str) -> bool:
        return split in self.manifest.shapes

    def split(self, name: str) -> PackedSplit:
        """Open one split.

        Raises:
            PipelineError: the dataset has no such split, or a file is missing or damaged.
        """
        if name not in self:
            raise PipelineError(
                f"{self.folder}: has no {name} split, only {', '.join(self.manifest.shapes)}; "
                f"set data.{name}_fraction, or choose another split"
            )
        rows = self._rows(name)
        labels = rows["label"].replace("", str(UNLABELLED)).to_numpy(np.int64)
        return PackedSplit(name, self._images(name), labels, rows["id"].tolist(), rows["source"].tolist())

    def is_labelled(self, name: str) -> bool:
        """Whether every image of a split has a label; its array is not opened."""
        return bool((self._rows(name)["label"] != "").all())

    def _rows(self, name: str) -> "pd.DataFrame":
        return self._index[self._index["split"] == name]

    def _images(self, name: str) -> Part | ShardedArray:
        shape, files = self.manifest.shapes[name], self.manifest.files
        paths = [self.folder / file for file in files if re.fullmatch(rf"{name}(-\d+-of-\d+)?\.npy", file)]
        parts = [self._part(path, shape[1:], math.prod(shape) <= CHECKED_BYTES) for path in paths]
        with reading(self.folder / f"{name}.npy" if len(parts) == 1 else self.folder / "manifest.json"):
            images = parts[0] if len(parts) == 1 else ShardedArray(parts)
            if images.shape != shape:
                raise ValueError(f"contains an array of the shape {images.shape}, not {shape}")
        return images

    def _part(self, path: Path, row: tuple[int, ...], check: bool) -> Part:
        with reading(path):
            if check:
                require_checksum(file_checksum(path), self.manifest.files[path.name])
            part: Part = np.load(path, mmap_mode="r")
            if part.dtype != np.uint8 or part.shape[1:] != row:
                raise ValueError(f"contains {part.dtype} of the shape {part.shape}, not uint8 with rows of {row}")
        return part

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
    """Remove all rows of an array file except ``rows``, which are in ascending order; the file shrinks in place, and is
    removed if none is left."""
    if not rows:
        path.unlink()
        return
    array = np.load(path, mmap_mode="r+")
    if len(rows) == len(array):
        return
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
