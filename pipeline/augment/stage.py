"""Stage ``augment``: decode, audit, resize and augment once, into packed arrays that every run shares."""

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.augment.audit import Audit, audit, findings_table, summary
from pipeline.augment.audit_page import audit_page
from pipeline.augment.packing import ArrayFiles, create_arrays, pack
from pipeline.augment.preview import plot_preview
from pipeline.common.dataset import INDEX_COLUMNS, Manifest, PackedDataset, keep_rows
from pipeline.common.files import replacing, write_json, write_text
from pipeline.common.paths import AUDIT_PAGE, AUDIT_TABLE, DATASET, METRICS, PLOTS, RAW_ARCHIVE
from pipeline.common.raw_archive import RawImage, read_raw_archive
from pipeline.errors import PipelineError, listed
from pipeline.params.schema import AugmentParams
from pipeline.progress import say

PREVIEW_IMAGES = 6


def augment(params: AugmentParams, seed: int, on_bad_image: str, on_leak: str) -> None:
    """Write ``data/dataset/``, the audit and a preview of the views.

    Args:
        params, seed: of the copies and views.
        on_bad_image: ``data.on_bad_image``.
        on_leak: ``data.on_leak``.

    Raises:
        PipelineError: there is no ``data/raw.zip``, a transform is wrong, or the data is, where it may not be.
    """
    if not RAW_ARCHIVE.is_file():
        raise PipelineError(f"{RAW_ARCHIVE}: no such file; run dvc repro download")
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        classes, images = read_raw_archive(archive)
    with replacing(DATASET) as folder:
        folder.mkdir()
        arrays = create_arrays(folder, images, params)
        packed = pack(arrays, params, seed)
        _refuse_bad(packed.bad, images, on_bad_image)
        plain = arrays.plain_copies()
        found = audit(images, classes, packed.bad, packed.measures, plain, on_leak == "drop")
        _tell_leaks(found, on_leak)
        page = audit_page(found, plain)
        _finish(arrays, found, packed.digests, params.resize)
    write_json(METRICS / "audit.json", summary(found))
    write_text(AUDIT_TABLE, findings_table(found).to_csv(index=False))
    write_text(AUDIT_PAGE, page)
    _preview()
    say(f"augment: {DATASET} holds {len(found.kept):,} images of {params.image_size}×{params.image_size} pixels")


def _refuse_bad(bad: dict[int, str], images: list[RawImage], on_bad_image: str) -> None:
    if bad and (on_bad_image == "error" or len(bad) == len(images)):
        count = f"{len(bad):,} of {len(images):,} images cannot be decoded"
        lines = [f"{RAW_ARCHIVE}: {count}; replace them in the source, or set data.on_bad_image to skip"]
        raise PipelineError("\n".join(lines + [f"{images[row].entry}: {reason}" for row, reason in bad.items()]))
    if bad:
        say(f"augment: {len(bad):,} images cannot be decoded and are left out; {AUDIT_PAGE} lists them")


def _tell_leaks(found: Audit, on_leak: str) -> None:
    if not found.leaks:
        return
    first = listed([" = ".join(found.images[row].entry for row in group.rows[:3]) for group in found.leaks], 3)
    what = f"{len(found.leaks):,} leaks, the same picture in more than one split ({first})"
    if on_leak == "error":
        raise PipelineError(f"{RAW_ARCHIVE}: {what}; remove them, or set data.on_leak to drop or warn")
    if on_leak == "drop":
        say(f"augment: {what}; {len(found.dropped):,} images were dropped; {AUDIT_PAGE} shows them")
    else:
        say(f"augment: warning: {what}, so the accuracy flatters; {AUDIT_PAGE} shows them, data.on_leak drops them")


def _finish(arrays: ArrayFiles, found: Audit, digests: list[bytes], resize: str) -> None:
    """Leave the kept rows alone in the arrays, and write the index and the manifest."""
    shapes = {}
    for split, shape in arrays.shapes.items():
        rows = [arrays.rows[place] for place in found.kept if found.images[place].split == split]
        if len(rows) < shape[0] and rows:
            keep_rows(arrays.path(split), rows)
        if rows:
            shapes[split] = (len(rows), *shape[1:])
        else:
            arrays.path(split).unlink()
    labels = {found.images[place].label for place in found.kept if found.images[place].split == "train"}
    if len(labels) < 2:
        raise PipelineError(
            f"{RAW_ARCHIVE}: train has images of {len(labels)} classes once bad and leaking ones are left out, "
            "allowed are two or more; replace the images"
        )
    index = arrays.folder / "index.csv"
    _write_index(index, [found.images[place] for place in found.kept], found.classes)
    digest = hashlib.blake2b(index.read_bytes(), digest_size=16)
    for place in found.kept:
        digest.update(digests[place])
    mean, std = found.moments()
    manifest = Manifest(found.classes, found.image_size, resize, tuple(mean), tuple(std), shapes, digest.hexdigest())
    manifest.write(arrays.folder)


def _write_index(path: Path, images: list[RawImage], classes: tuple[str, ...]) -> None:
    rows: Counter[str] = Counter()
    table = []
    for image in images:
        label, name = ("", "") if image.label is None else (image.label, classes[image.label])
        table.append([image.split, rows[image.split], image.id, label, name, image.entry])
        rows[image.split] += 1
    pd.DataFrame(table, columns=INDEX_COLUMNS).to_csv(path, index=False)


def _preview() -> None:
    """Draw the first training images of as many classes as fit."""
    dataset = PackedDataset(DATASET)
    train = dataset.split("train")
    _, first = np.unique(train.labels, return_index=True)
    rows = first[:PREVIEW_IMAGES]
    titles = [dataset.manifest.classes[train.labels[row]] for row in rows]
    plot_preview(PLOTS / "augment_preview.png", train.images[rows, :9], titles)
