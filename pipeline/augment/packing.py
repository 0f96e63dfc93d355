"""Fills the packed arrays: decodes, measures, resizes and augments all images in parallel processes."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Lock as LockType
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.audit import MEASURES, measure
from pipeline.common.dataset import create_array
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import SPLITS, RawImage, RawReader
from pipeline.images.decoding import one_large_image, photo_for_views, plain_photo
from pipeline.images.transforms import augmented_view, plain_copy, view_seed
from pipeline.machine import worker_count
from pipeline.params.schema import AugmentParams
from pipeline.processes import worker_processes
from pipeline.progress import progress

CHUNK = 64


@dataclass(frozen=True)
class ArrayFiles:
    """The array files that the workers write to.

    Attributes:
        folder: of the files.
        images: those of the archive, split by split.
        rows: the row of each image in its split's array.
        shapes, offsets: of each split's array, and of its first byte in the file.
    """

    folder: Path
    images: list[RawImage]
    rows: list[int]
    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, int]

    def path(self, split: str) -> Path:
        return self.folder / f"{split}.npy"

    def plain_copies(self) -> Callable[[int], NDArray[np.uint8]]:
        """Map the arrays, and return a function from an image's position in ``images`` to its plain copy."""
        maps = {split: np.load(self.path(split), mmap_mode="r") for split in self.shapes}
        return lambda place: maps[self.images[place].split][self.rows[place], 0]


def create_arrays(folder: Path, images: list[RawImage], params: AugmentParams) -> ArrayFiles:
    """Create an array for each split with one row per image, and allocate its disk space."""
    counts: Counter[str] = Counter()
    rows = []
    for image in images:
        rows.append(counts[image.split])
        counts[image.split] += 1
    views = dict.fromkeys(SPLITS, params.test_views) | {"train": params.views}
    sizes = {split: stored_size(params, split) for split in SPLITS}
    shapes: dict[str, tuple[int, ...]] = {
        split: (counts[split], 1 + views[split], sizes[split], sizes[split], 3) for split in SPLITS if counts[split]
    }
    offsets = {split: create_array(folder / f"{split}.npy", shape) for split, shape in shapes.items()}
    return ArrayFiles(folder, images, rows, shapes, offsets)


@dataclass
class Packed:
    """The workers' results.

    Attributes:
        measures: one element of type ``MEASURES`` per image, zeros for a bad file.
        digests: of each image's copies, empty for a bad file.
        bad: the reason for each image that cannot be decoded, by its position.
    """

    measures: NDArray[np.void]
    digests: list[bytes]
    bad: dict[int, str]


def pack(arrays: ArrayFiles, params: AugmentParams, seed: int) -> Packed:
    """Fill the arrays; the bytes do not depend on the number of workers.

    Raises:
        PipelineError: a transform is invalid.
    """
    for stored in _by_size(arrays, params).values():
        augmented_view(stored)  # report an invalid transform once, not from every worker
    result = Packed(np.zeros(len(arrays.images), MEASURES), [], {})
    with worker_processes(worker_count(), _start_worker, arrays, params, seed) as parallel_map:
        starts = range(0, len(arrays.images), CHUNK)
        chunks = progress(parallel_map(_pack_chunk, starts), len(arrays.images), "augment", step=CHUNK)
        for start, chunk in zip(starts, chunks, strict=True):
            result.measures[start : start + CHUNK] = chunk.measures
            result.digests += chunk.digests
            result.bad |= chunk.bad
    return result


def stored_size(params: AugmentParams, split: str) -> int:
    """Height and width in pixels of the stored images of a split."""
    return params.store_size or params.image_size if split == "train" else params.image_size


def _by_size(arrays: ArrayFiles, params: AugmentParams) -> dict[int, AugmentParams]:
    """The parameters for each size of the stored images."""
    sizes = {stored_size(params, split) for split in arrays.shapes}
    return {size: params.model_copy(update={"image_size": size}) for size in sizes}


def _start_worker(arrays: ArrayFiles, params: AugmentParams, seed: int, lock: LockType) -> None:
    global _worker
    _worker = _Worker(arrays, params, seed, lock)


def _pack_chunk(start: int) -> Packed:
    return _worker.pack(range(start, min(start + CHUNK, len(_worker.arrays.images))))


class _Worker:
    """A process's open files and transforms."""

    def __init__(self, arrays: ArrayFiles, params: AugmentParams, seed: int, lock: LockType) -> None:
        self.arrays, self.seed, self.image_size, self.lock = arrays, seed, params.image_size, lock
        self.archive = RawReader(RAW_ARCHIVE)
        # Written by position rather than through a memory map, so memory does not grow with the dataset.
        self.files = {split: os.open(arrays.path(split), os.O_WRONLY) for split in arrays.shapes}
        stored = _by_size(arrays, params)
        self.resize = {size: plain_copy(params) for size, params in stored.items()}
        self.draw = {size: augmented_view(params) for size, params in stored.items()}
        # Grey borders would hide dark and bright images, and make different images similar.
        self.bordered = params.resize == "pad"
        self.whole = plain_copy(params.model_copy(update={"resize": "stretch"} if self.bordered else {}))

    def pack(self, places: range) -> Packed:
        result = Packed(np.zeros(len(places), MEASURES), [], {})
        for number, place in enumerate(places):
            with one_large_image(self.lock):
                self._pack_image(number, place, result)
        return result

    def _pack_image(self, number: int, place: int, result: Packed) -> None:
        image = self.arrays.images[place]
        content, size = self.archive.read(image), self.arrays.shapes[image.split][2]
        try:
            photo = plain_photo(content, size)
            copies = np.stack([self.resize[size](photo), *self._views(content, photo, image)])
        except ValueError as error:
            result.bad[place] = str(error)
            result.digests.append(b"")
            return
        # What is measured has the same size in all splits.
        as_measured = size == self.image_size and not self.bordered
        result.measures[number] = measure(content, photo, copies[0] if as_measured else self.whole(photo))
        result.digests.append(hashlib.blake2b(copies.data, digest_size=16).digest())
        position = self.arrays.offsets[image.split] + self.arrays.rows[place] * copies.nbytes
        os.pwrite(self.files[image.split], copies.data, position)

    def _views(self, content: bytes, photo: NDArray[np.uint8], image: RawImage) -> Iterator[NDArray[np.uint8]]:
        _, count, size, *_ = self.arrays.shapes[image.split]
        if count > 1:
            photo = photo_for_views(content, size, photo)
        for view in range(1, count):
            yield self.draw[size](photo, view_seed(self.seed, image.entry, view))


_worker: _Worker
