"""Stage ``download``: bring the images of any source into ``data/raw.zip``."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pipeline.common.file_types import reasons
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import SPLITS, UNLABELLED, entry_name, write_raw_archive
from pipeline.common.text import listed
from pipeline.download.groups import content_keys, grouped_by_path, separated_groups
from pipeline.download.layout import ImageSet, SourceImage
from pipeline.download.sources import SOURCES
from pipeline.download.splits import assign_splits
from pipeline.errors import PipelineError
from pipeline.params.schema import NEAR_DUPLICATES, DataParams
from pipeline.progress import say


def download(
    params: DataParams, check: Callable[[int, dict[str, bool]], None] = lambda classes, labelled: None
) -> None:
    """Write ``data/raw.zip`` from ``data.source``; images are never re-encoded.

    Args:
        params: the section ``data``.
        check: called before anything is written with the number of classes, and with each split that has images and
            whether they have labels; raises PipelineError if other parameters do not allow that.

    Raises:
        PipelineError: the source is missing or empty, or has another checksum or an unknown layout.
    """
    with SOURCES[params.source](params) as source:
        images, separated = _with_splits(source, params)
        labelled = {image.split or "train": image.label is not None for image in images if image.split != UNLABELLED}
        check(len(source.classes), labelled)
        left_out = source.left_out | separated
        write_raw_archive(RAW_ARCHIVE, source.classes, _entries(images), source.read, left_out)
    counts = Counter(image.split for image in images)
    splits = ", ".join(f"{counts[split]:,} {split}" for split in (*SPLITS, UNLABELLED) if counts[split])
    say(f"download: {RAW_ARCHIVE} contains {len(images):,} images of {len(source.classes)} classes: {splits}")
    say(f"download: classes: {listed(source.classes, 10)}")
    if left_out:
        say(f"download: left out {len(left_out):,} other files: {reasons(left_out)}")


def _with_splits(source: ImageSet, params: DataParams) -> tuple[list[SourceImage], dict[str, str]]:
    """The images of the source, each with its split; and the reason for each image that is left out, by its path."""
    images: Sequence[SourceImage] = source.images
    if params.groups not in (None, NEAR_DUPLICATES):
        images = grouped_by_path(images, params.groups)
    separated = separated_groups(images, params)
    own = sorted({image.split for image in images if image.split in ("train", "valid")})
    if params.folds and len(own) > 1:
        say(f"download: the {' and '.join(own)} images of the source together are cut into {params.folds} folds")
    assigned = assign_splits(
        [image for image in images if image.path not in separated],
        params.valid_fraction,
        params.test_fraction,
        params.split_seed,
        params.folds,
        params.fold,
        lambda pool: content_keys(pool, source.read, params.groups),
        source.classes,
    )
    # Those of a person in valid would show the network that person.
    held: dict[str | None, str] = {
        image.group: image.split for image in assigned if image.group and image.split in ("valid", "test")
    }
    separated |= {
        image.path: f"unlabelled, and its group is also in {held[image.group]}"
        for image in assigned
        if image.split == UNLABELLED and image.group in held
    }
    kept = [image for image in assigned if image.path not in separated]
    # With folds, those of valid are trained on, too.
    trained = (None, "train", "valid") if params.folds else (None, "train")
    before, after = (
        {image.label for image in some if image.label is not None and image.split in trained}
        for some in (images, [image for image in images if image.path not in separated])
    )
    if lost := before - after:
        names = listed(source.classes[label] for label in sorted(lost))
        raise PipelineError(
            f"data.on_leak: drop leaves no training image of {names}, whose groups are also in valid or test; move "
            "images, or set it to warn"
        )
    return kept, separated


def _entries(images: Iterable[SourceImage]) -> dict[str, str]:
    """Map each entry of the archive to the path of its image in the source."""
    entries: dict[str, str] = {}
    for image in images:
        entry = entry_name(image.split or "train", image.label, image.name)
        other = entries.setdefault(entry, image.path)
        if other != image.path:
            raise PipelineError(f"{other} and {image.path} would both become {entry}; rename one of them")
    return entries
