"""Stage ``augment``: decode, resize and augment once, in parallel, into packed arrays that every run shares."""

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.decoding import decode
from pipeline.errors import PipelineError, listed
from pipeline.files import replacing, write_json
from pipeline.machine import worker_count
from pipeline.packed import INDEX_COLUMNS, Manifest, PackedDataset, create_array
from pipeline.params.augment import AugmentParams
from pipeline.paths import DATASET, METRICS, PLOTS, RAW_ARCHIVE
from pipeline.plots.preview import plot_preview
from pipeline.progress import progress, say
from pipeline.raw_archive import SPLITS, RawImage, read_raw_archive
from pipeline.transforms import augmented_view, plain_copy

CHUNK = 64
PREVIEW_IMAGES = 6


def augment(params: AugmentParams, seed: int) -> None:
    """Write ``data/dataset/``, ``results/metrics/audit.json`` and a preview of the views.

    Raises:
        PipelineError: there is no ``data/raw.zip``, an image cannot be decoded, or a transform is wrong.
    """
    if not RAW_ARCHIVE.is_file():
        raise PipelineError(f"{RAW_ARCHIVE}: no such file; run dvc repro download")
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        classes, images = read_raw_archive(archive)
    with replacing(DATASET) as folder:
        folder.mkdir()
        _write_index(folder / "index.csv", images, classes)
        _pack(folder, images, classes, params, seed)
    write_json(METRICS / "audit.json", _audit(images, classes))
    _preview()
    say(f"augment: {DATASET} holds {len(images):,} images of {params.image_size}×{params.image_size} pixels")


def _write_index(path: Path, images: list[RawImage], classes: tuple[str, ...]) -> None:
    rows: Counter[str] = Counter()
    table = []
    for image in images:
        label, name = ("", "") if image.label is None else (image.label, classes[image.label])
        table.append([image.split, rows[image.split], image.id, label, name, image.entry])
        rows[image.split] += 1
    pd.DataFrame(table, columns=INDEX_COLUMNS).to_csv(path, index=False)


def _pack(folder: Path, images: list[RawImage], classes: tuple[str, ...], params: AugmentParams, seed: int) -> None:
    """Write the arrays and the manifest; the bytes do not depend on the number of workers."""
    shapes, offsets, jobs = {}, {}, []
    for split in SPLITS:
        members = [image for image in images if image.split == split]
        if not members:
            continue
        copies = 1 + params.views if split == "train" else 1
        shapes[split] = (len(members), copies, params.image_size, params.image_size, 3)
        offsets[split] = create_array(folder / f"{split}.npy", shapes[split])
        jobs += list(enumerate(members))
    bad: list[str] = []
    moments = np.zeros((2, 3), np.int64)
    digest = hashlib.blake2b((folder / "index.csv").read_bytes(), digest_size=16)
    augmented_view(params)  # a wrong transform is told here, not by every worker
    with ProcessPoolExecutor(
        worker_count(), initializer=_start_worker, initargs=(folder, params, seed, shapes, offsets)
    ) as workers:
        chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
        for result in progress(workers.map(_pack_chunk, chunks), len(jobs), "augment", step=CHUNK):
            moments += result.moments
            bad += result.bad
            digest.update(result.digest)
    if bad:
        raise PipelineError(
            f"{RAW_ARCHIVE}: {len(bad)} images cannot be decoded: {listed(bad)}; replace or remove them"
        )
    pixels = shapes["train"][0] * params.image_size**2
    mean = moments[0] / pixels
    std = np.sqrt(np.maximum(moments[1] / pixels - mean**2, 1e-12))
    Manifest(classes, params.image_size, tuple(mean / 255), tuple(std / 255), shapes, digest.hexdigest()).write(folder)


@dataclass
class _Chunk:
    """What a worker reports of its images: the channels' sums and sums of squares, the bad files, and a digest
    of all copies."""

    moments: np.ndarray
    bad: list[str]
    digest: bytes


def _start_worker(
    folder: Path, params: AugmentParams, seed: int, shapes: dict[str, tuple[int, ...]], offsets: dict[str, int]
) -> None:
    global _worker
    _worker = _Worker(folder, params, seed, shapes, offsets)


def _pack_chunk(jobs: list[tuple[int, RawImage]]) -> _Chunk:
    return _worker.pack(jobs)


class _Worker:
    """What one process keeps open: the archive, the arrays' files and the transforms."""

    def __init__(
        self,
        folder: Path,
        params: AugmentParams,
        seed: int,
        shapes: dict[str, tuple[int, ...]],
        offsets: dict[str, int],
    ) -> None:
        self.archive = zipfile.ZipFile(RAW_ARCHIVE)
        # Written by position and not mapped: memory does not grow with the dataset.
        self.files = {split: os.open(folder / f"{split}.npy", os.O_WRONLY) for split in shapes}
        self.shapes, self.offsets, self.seed = shapes, offsets, seed
        self.resize, self.draw = plain_copy(params), augmented_view(params)

    def pack(self, jobs: list[tuple[int, RawImage]]) -> _Chunk:
        result = _Chunk(np.zeros((2, 3), np.int64), [], b"")
        digest = hashlib.blake2b()
        for row, image in jobs:
            try:
                photo = decode(self.archive.read(image.entry))
            except ValueError as error:
                result.bad.append(f"{image.entry} ({error})")
                continue
            copies = np.stack(list(self._copies(photo, image)))
            digest.update(copies.data)
            position = self.offsets[image.split] + row * copies.nbytes
            os.pwrite(self.files[image.split], copies.data, position)
            if image.split == "train":
                plain = copies[0].reshape(-1, 3).astype(np.int64)
                result.moments += np.stack([plain.sum(0), (plain**2).sum(0)])
        result.digest = digest.digest()
        return result

    def _copies(self, photo: np.ndarray, image: RawImage) -> Iterator[np.ndarray]:
        yield self.resize(photo)
        for view in range(1, self.shapes[image.split][1]):
            yield self.draw(photo, view_seed(self.seed, image.entry, view))


_worker: _Worker


def view_seed(seed: int, entry: str, view: int) -> int:
    """The seed of one view, from the run's seed, the image and the view's number: independent of all others."""
    digest = hashlib.blake2b(f"{seed}/{view}/{entry}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def _audit(images: list[RawImage], classes: tuple[str, ...]) -> dict:
    """Count the images by split, and each class by split."""
    splits = Counter(image.split for image in images)
    labelled = Counter((image.split, image.label) for image in images)
    return {
        "images": dict(splits),
        # A list: `dvc metrics show` would give each class of a mapping a column of its own.
        "classes": [
            {"class": name, **{split: labelled[split, index] for split in splits}} for index, name in enumerate(classes)
        ],
    }


def _preview() -> None:
    """Draw the first training images of as many classes as fit."""
    dataset = PackedDataset(DATASET)
    train = dataset.split("train")
    _, first = np.unique(train.labels, return_index=True)
    rows = first[:PREVIEW_IMAGES]
    titles = [dataset.manifest.classes[train.labels[row]] for row in rows]
    plot_preview(PLOTS / "augment_preview.png", train.images[rows, :9], titles)
