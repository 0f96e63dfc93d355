"""Fills the packed arrays: decodes, measures, resizes and augments all images, in processes or on a Ray cluster."""

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Lock as LockType
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pipeline.augment.audit import MEASURES, measure
from pipeline.cluster import cluster_map, has_cluster
from pipeline.common.dataset import create_array
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import SPLITS, RawImage, RawReader
from pipeline.common.sharded_array import shard_count, shard_names, shard_of
from pipeline.images.decoding import one_large_image, photo_for_views, plain_photo, smaller_photo
from pipeline.images.transforms import augmented_view, plain_copy, view_seed
from pipeline.machine import worker_count
from pipeline.params.schema import AugmentParams
from pipeline.processes import worker_processes
from pipeline.progress import progress

CHUNK = 64
# On their versions the pixels depend.
DECODERS = ("numpy", "pillow", "pi-heif", "opencv-python-headless", "albumentations")


@dataclass(frozen=True)
class ArrayFiles:
    """The array files of all splits.

    Attributes:
        folder: of the files.
        images: those of the archive, in the order of the rows of their split.
        files: the name of each image's file.
        rows: its row there.
        shapes: of each split's array.
        offsets: of the first byte in each file.
    """

    folder: Path
    images: list[RawImage]
    files: list[str]
    rows: list[int]
    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, int]

    def plain_copies(self) -> Callable[[int], NDArray[np.uint8]]:
        """Map the arrays, and return a function from an image's position in ``images`` to its plain copy."""
        maps = {name: np.load(self.folder / name, mmap_mode="r") for name in self.offsets}
        return lambda place: maps[self.files[place]][self.rows[place], 0]

    @contextmanager
    def writer(self) -> Iterator[Callable[[int, NDArray[np.uint8]], None]]:
        """Yield a function that writes the copies of the image at a position."""
        # By position rather than through a memory map, so memory does not grow with the dataset.
        opened = {name: os.open(self.folder / name, os.O_WRONLY) for name in self.offsets}

        def write(place: int, copies: NDArray[np.uint8]) -> None:
            name = self.files[place]
            os.pwrite(opened[name], copies.data, self.offsets[name] + self.rows[place] * copies.nbytes)

        try:
            yield write
        finally:
            for file in opened.values():
                os.close(file)


def create_arrays(folder: Path, images: list[RawImage], params: AugmentParams) -> ArrayFiles:
    """Create the array files of each split with one row per image, and allocate their disk space."""
    views = dict.fromkeys(SPLITS, params.test_views) | {"train": params.views}
    counts = Counter(image.split for image in images)
    shapes: dict[str, tuple[int, ...]] = {
        split: (counts[split], 1 + views[split], *(stored_size(params, split),) * 2, 3)
        for split in SPLITS
        if counts[split]
    }
    shards = {split: shard_count(math.prod(shape)) for split, shape in shapes.items()}
    names = {split: shard_names(split, count) for split, count in shards.items()}
    placed = [(SPLITS.index(image.split), shard_of(image.path, shards[image.split]), image) for image in images]
    placed.sort(key=lambda place: place[:2])
    files, rows, lengths = [], [], Counter[tuple[str, str]]()
    for _, shard, image in placed:
        file = image.split, names[image.split][shard]
        files.append(file[1])
        rows.append(lengths[file])
        lengths[file] += 1
    offsets = {
        name: create_array(folder / name, (length, *shapes[split][1:])) for (split, name), length in lengths.items()
    }
    return ArrayFiles(folder, [image for *_, image in placed], files, rows, shapes, offsets)


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
    for stored in _by_size(arrays.shapes, params).values():
        augmented_view(stored)  # report an invalid transform once, not from every worker
    result = Packed(np.zeros(len(arrays.images), MEASURES), [], {})
    starts = range(0, len(arrays.images), CHUNK)
    packed = _packed_on_cluster if has_cluster() else _packed_here
    with closing(packed(arrays, params, seed, starts)) as chunks:
        shown = progress(chunks, len(arrays.images), "augment", step=CHUNK)
        for start, chunk in zip(starts, shown, strict=True):
            result.measures[start : start + CHUNK] = chunk.measures
            result.digests += chunk.digests
            result.bad |= {start + number: reason for number, reason in chunk.bad.items()}
    return result


def _packed_here(arrays: ArrayFiles, params: AugmentParams, seed: int, starts: range) -> Generator[Packed]:
    with worker_processes(worker_count(), _start_worker, arrays, params, seed) as parallel_map:
        yield from parallel_map(_pack_chunk, starts)


def _packed_on_cluster(arrays: ArrayFiles, params: AugmentParams, seed: int, starts: range) -> Generator[Packed]:
    """Send the files of each chunk to the cluster, and write what it returns."""
    archive = RawReader(RAW_ARCHIVE)
    images = (arrays.images[start : start + CHUNK] for start in starts)
    chunks = ([(image, archive.read(image)) for image in chunk] for chunk in images)
    function = partial(pack_chunk, params, seed, arrays.shapes)
    with cluster_map(*DECODERS) as run, arrays.writer() as write:
        for start, (packed, copies) in zip(starts, run(function, chunks), strict=True):
            for number, pixels in copies.items():
                write(start + number, pixels)
            yield packed


def stored_size(params: AugmentParams, split: str) -> int:
    """Height and width in pixels of the stored images of a split."""
    return params.store_size or params.image_size if split == "train" else params.image_size


def _by_size(shapes: dict[str, tuple[int, ...]], params: AugmentParams) -> dict[int, AugmentParams]:
    """The parameters for each size of the stored images."""
    return {size: params.model_copy(update={"image_size": size}) for size in {shape[2] for shape in shapes.values()}}


def _start_worker(arrays: ArrayFiles, params: AugmentParams, seed: int, lock: LockType) -> None:
    global _worker
    _worker = _Worker(arrays, params, seed, lock)


def _pack_chunk(start: int) -> Packed:
    return _worker.pack(range(start, min(start + CHUNK, len(_worker.arrays.images))))


class _Worker:
    """A process's open files and transforms."""

    def __init__(self, arrays: ArrayFiles, params: AugmentParams, seed: int, lock: LockType) -> None:
        self.arrays, self.lock, self.archive = arrays, lock, RawReader(RAW_ARCHIVE)
        self.packer, self.opened = _Packer(params, seed, arrays.shapes), ExitStack()
        self.write = self.opened.enter_context(arrays.writer())

    def pack(self, places: range) -> Packed:
        images = (self.arrays.images[place] for place in places)
        return self.packer.pack(
            ((image, self.archive.read(image)) for image in images),
            self.lock,
            lambda number, copies: self.write(places[number], copies),
        )


def pack_chunk(
    params: AugmentParams, seed: int, shapes: dict[str, tuple[int, ...]], chunk: list[tuple[RawImage, bytes]]
) -> tuple[Packed, dict[int, NDArray[np.uint8]]]:
    """Make the copies of some images, given with the contents of their files.

    Returns:
        What was measured, and the copies of each image that can be decoded, ``uint8``, ``(copies, height, width, 3)``.
    """
    copies: dict[int, NDArray[np.uint8]] = {}
    # Of all workers of a machine, as among the processes of one.
    lock = FileLock(Path(tempfile.gettempdir()) / f"pipeline-{os.getuid()}-large-image.lock")
    return _Packer(params, seed, shapes).pack(chunk, lock, copies.__setitem__), copies


class _Packer:
    """Makes the copies of images, and measures them."""

    def __init__(self, params: AugmentParams, seed: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.seed, self.shapes, self.image_size = seed, shapes, params.image_size
        stored = _by_size(shapes, params)
        self.resize = {size: plain_copy(params) for size, params in stored.items()}
        self.draw = {size: augmented_view(params) for size, params in stored.items()}
        # Grey borders would hide dark and bright images, and make different images similar.
        self.bordered = params.resize == "pad"
        self.whole = plain_copy(params.model_copy(update={"resize": "stretch"} if self.bordered else {}))

    def pack(
        self,
        chunk: Iterable[tuple[RawImage, bytes]],
        lock: AbstractContextManager[Any],
        write: Callable[[int, NDArray[np.uint8]], None],
    ) -> Packed:
        """Pack images and the contents of their files; ``write`` gets the copies by their number in the chunk."""
        measures, digests, bad = [], [], {}
        for number, (image, content) in enumerate(chunk):
            measures.append(np.zeros((), MEASURES))
            digests.append(b"")
            size = self.shapes[image.split][2]
            with one_large_image(lock):
                try:
                    photo = plain_photo(content, size)
                    copies = np.stack([self.resize[size](photo), *self._views(content, photo, image)])
                except ValueError as error:
                    bad[number] = str(error)
                    continue
                # What is measured is decoded at the same scale, and has the same size, in all splits.
                if size != self.image_size:
                    photo = smaller_photo(content, self.image_size, photo)
                as_measured = size == self.image_size and not self.bordered
                measures[-1] = measure(content, photo, copies[0] if as_measured else self.whole(photo))
            digests[-1] = hashlib.blake2b(copies.data, digest_size=16).digest()
            write(number, copies)
        return Packed(np.array(measures, MEASURES), digests, bad)

    def _views(self, content: bytes, photo: NDArray[np.uint8], image: RawImage) -> Iterator[NDArray[np.uint8]]:
        _, count, size, *_ = self.shapes[image.split]
        if count > 1:
            photo = photo_for_views(content, size, photo)
        for view in range(1, count):
            yield self.draw[size](photo, view_seed(self.seed, image.entry, view))


_worker: _Worker
