"""Stage ``augment``: decode, audit, resize and augment once, into packed arrays that all runs share."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.augment.audit import Audit, audit, findings_table, summarize
from pipeline.augment.audit_page import audit_page
from pipeline.augment.packing import ArrayFiles, create_arrays, pack
from pipeline.augment.relabelling import add_pseudo_labels, correct
from pipeline.common.dataset import INDEX_COLUMNS, Manifest, PackedDataset, keep_rows
from pipeline.common.files import replacing, write_table, write_text
from pipeline.common.paths import AUDIT_PAGE, AUDIT_TABLE, DATASET, PLOTS, RAW_ARCHIVE
from pipeline.common.raw_archive import SPLITS, UNLABELLED, RawImage, read_raw_archive
from pipeline.common.results import write_results
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.images.transforms import without_borders
from pipeline.params.schema import AugmentParams
from pipeline.plots.style import saved_figure
from pipeline.progress import say

PREVIEW_IMAGES, PREVIEW_COPIES = 6, 9
MOST_LISTED = 20  # bad images in an error


def augment(
    params: AugmentParams,
    seed: int,
    on_bad_image: str,
    on_leak: str,
    corrections: str | None = None,
    pseudo_labels: str | None = None,
) -> None:
    """Write ``data/dataset/``, the audit and a preview of the views.

    Args:
        params, seed: of the copies and views.
        on_bad_image: ``data.on_bad_image``.
        on_leak: ``data.on_leak``.
        corrections, pseudo_labels: ``data.corrections`` and ``data.pseudo_labels``.

    Raises:
        PipelineError: ``data/raw.zip`` is missing or damaged, a transform or a file of labels is invalid, the
            parameters forbid bad images or leaks that were found, or fewer than two classes remain.
    """
    classes, images, left_out = read_raw_archive(RAW_ARCHIVE)
    images, unused = _with_pseudo_labels(pseudo_labels, images, classes, left_out)
    images, corrected = correct(corrections, images, classes, left_out)
    left_out |= dict.fromkeys(unused, "unlabelled")
    if corrections:
        dropped = sum(new is None for _, new in corrected.values())
        say(f"augment: {corrections} corrects {len(corrected) - dropped:,} labels and drops {dropped:,} images")
    with replacing(DATASET) as folder:
        folder.mkdir()
        arrays = create_arrays(folder, images, params)
        images = arrays.images
        packed = pack(arrays, params, seed)
        _check_bad_images(packed.bad, images, on_bad_image)
        plain = arrays.plain_copies()
        compared = (lambda place: without_borders(plain(place))) if params.resize == "pad" else plain
        found = audit(
            images, classes, packed.bad, packed.measures, params.image_size, compared, on_leak == "drop", left_out
        )
        found = replace(found, corrected=corrected)
        _check_leaks(found, on_leak)
        _check_splits(found)
        page = audit_page(found, plain)
        _finish(arrays, found, packed.digests, params)
    write_table(AUDIT_TABLE, findings_table(found))
    write_results("audit", *summarize(found), AUDIT_TABLE)
    write_text(AUDIT_PAGE, page)
    _plot_preview(PackedDataset(DATASET))
    say(f"augment: {DATASET} contains {len(found.kept):,} images of {params.image_size}×{params.image_size} pixels")


def _with_pseudo_labels(
    file: str | None, images: list[RawImage], classes: tuple[str, ...], left_out: dict[str, str]
) -> tuple[list[RawImage], list[str]]:
    """The images with those that the file adds to train, and the paths of the unlabelled images that are not used."""
    found = add_pseudo_labels(file, images, classes, left_out)
    added = {image.path: image.entry for image in found if image.confidence is not None}
    unused = [image.path for image in images if image.split == UNLABELLED and image.path not in added]
    tested = sum(entry.startswith("test/") for entry in added.values())
    if file:
        say(f"augment: {file} adds {len(added):,} images with pseudo-labels to train")
    if tested:
        say(f"augment: {tested:,} of them are images of the test split, and stay in it, too (transductive)")
    if unused:
        say(f"augment: {len(unused):,} unlabelled images are left out{'' if file else '; see data.pseudo_labels'}")
    return found, unused


def _check_bad_images(bad: dict[int, str], images: list[RawImage], on_bad_image: str) -> None:
    if bad and (on_bad_image == "error" or len(bad) == len(images)):
        count = f"{len(bad):,} of {len(images):,} images cannot be decoded or augmented"
        lines = [f"{RAW_ARCHIVE}: {count}; replace them in the source, or set data.on_bad_image to skip"]
        lines += [f"{images[row].path}: {reason}" for row, reason in list(bad.items())[:MOST_LISTED]]
        if others := Counter(list(bad.values())[MOST_LISTED:]).most_common():
            reasons = listed(f"{reason}: {number:,}" for reason, number in others)
            lines.append(f"and {len(bad) - MOST_LISTED:,} more: {reasons}")
        raise PipelineError("\n".join(lines))
    if bad:
        say(f"augment: {len(bad):,} images cannot be decoded or augmented and are left out; {AUDIT_PAGE} lists them")


def _check_leaks(found: Audit, on_leak: str) -> None:
    if found.dropped:
        say(f"augment: {len(found.dropped):,} images that are also in a later split were dropped; see {AUDIT_PAGE}")
    certain, near = map(len, found.leaked)
    if not certain + near:
        return
    kinds = [kind for kind, count in (("leak", certain), ("near-duplicate in two splits", near)) if count]
    groups = [group for kind in kinds for group in found.groups[kind]]
    pairs = [(" = ", " ≈ ")[group.correlation is not None].join(_paths(found, group.rows)) for group in groups]
    leaks = (
        f"{certain + near:,} images of valid and test are in an earlier split, too, {certain:,} as the same picture "
        f"and {near:,} as near-duplicates ({listed(pairs, 3)})"
    )
    if on_leak == "error":
        raise PipelineError(f"{RAW_ARCHIVE}: {leaks}; remove them, or set data.on_leak to drop or warn")
    advice = "set data.on_leak to drop to leave out the same pictures" if certain else "near-duplicates are not dropped"
    say(f"augment: warning: {leaks}; the accuracy may be too high; {AUDIT_PAGE} shows them, {advice}")


def _paths(found: Audit, rows: tuple[int, ...]) -> list[str]:
    """The paths of three images at most, of different splits if there are."""
    first = {found.images[row].split: row for row in reversed(rows)}
    return [found.images[row].path for row in sorted(first.values())]


def _check_splits(found: Audit) -> None:
    """Check that what is left is enough for a training, and warn of classes without images in a labelled split."""
    there = Counter(image.split for image in found.images)
    kept = Counter(found.images[row].split for row in found.kept)
    labels: dict[str, set[int]] = {split: set() for split in SPLITS}
    for row in found.kept:
        image = found.images[row]
        if image.label is not None:
            labels[image.split].add(image.label)
    why = "after bad and leaking images are left out"
    trained = labels["train"]
    lost = {image.label for image in found.images if image.split == "train" and image.label is not None} - trained
    if lost:
        names = listed([found.classes[label] for label in sorted(lost)], 10)
        raise PipelineError(
            f"{RAW_ARCHIVE}: train has no image of {names} {why}; replace the images, or remove the class"
        )
    if len(trained) < 2:
        raise PipelineError(
            f"{RAW_ARCHIVE}: train has images of {len(trained)} classes {why}, allowed are two or more; "
            "replace the images"
        )
    if there["valid"] and not kept["valid"]:
        raise PipelineError(
            f"{RAW_ARCHIVE}: none of the {there['valid']:,} images of valid remains {why}; replace them, or, if the "
            "source has a folder for them, remove it, so that data.valid_fraction of the training images is used"
        )
    if there["test"] and not kept["test"]:
        say(f"augment: warning: none of the {there['test']:,} images of test remains {why}")
    for split in ("valid", "test"):
        missing = trained - labels[split] if labels[split] else set()
        if missing:
            names = listed([found.classes[label] for label in sorted(missing)], 10)
            say(f"augment: warning: {split} has no image of {names}, so nothing is known about its accuracy")


def _finish(arrays: ArrayFiles, found: Audit, digests: list[bytes], params: AugmentParams) -> None:
    """Remove all rows from the arrays that are not kept, and write the index and the manifest."""
    rows: dict[str, list[int]] = {name: [] for name in arrays.offsets}
    for place in found.kept:
        rows[arrays.files[place]].append(arrays.rows[place])
    for name, kept_rows in rows.items():
        keep_rows(arrays.folder / name, kept_rows)
    counts = Counter(found.images[place].split for place in found.kept)
    shapes = {split: (counts[split], *shape[1:]) for split, shape in arrays.shapes.items() if counts[split]}
    kept = [(found.images[place], found.class_name(place)) for place in found.kept]
    index = pd.DataFrame(
        [(image.split, image.id, image.label, name, image.path, image.confidence) for image, name in kept],
        columns=[name for name in INDEX_COLUMNS if name != "row"],
    ).astype({"label": "Int64"})
    index["row"] = index.groupby("split").cumcount()
    index.to_csv(arrays.folder / "index.csv", columns=INDEX_COLUMNS, index=False)
    digest = hashlib.blake2b((arrays.folder / "index.csv").read_bytes(), digest_size=16)
    for place in found.kept:
        digest.update(digests[place])
    mean, std = found.moments()
    manifest = Manifest(
        classes=found.classes,
        image_size=params.image_size,
        resize=params.resize,
        interpolation=params.interpolation,
        mean=tuple(mean),
        std=tuple(std),
        shapes=shapes,
        digest=digest.hexdigest(),
    )
    manifest.write(arrays.folder)


def _plot_preview(dataset: PackedDataset) -> None:
    """Draw the first training image of some classes, one row per image: its plain copy and its views."""
    train = dataset.split("train")
    rows = np.unique(train.labels, return_index=True)[1][:PREVIEW_IMAGES]
    copies = train.images[rows, :PREVIEW_COPIES]
    titles = [dataset.manifest.classes[label] for label in train.labels[rows]]
    height, width = copies.shape[:2]
    path = PLOTS / "augment_preview.png"
    with saved_figure(path, 1.1 * width + 0.6, 1.1 * height + 0.5, texts=titles) as figure:
        axes = figure.subplots(height, width, squeeze=False)
        for (row, column), axis in np.ndenumerate(axes):
            axis.imshow(copies[row, column])
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title("plain" if column == 0 else f"view {column}", fontsize=9)
            if column == 0:
                axis.set_ylabel(titles[row], fontsize=9)
