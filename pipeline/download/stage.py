"""Stage ``download``: bring the images of any source into ``data/raw.zip``."""

from collections import Counter
from collections.abc import Iterable

from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import SPLITS, entry_name, write_raw_archive
from pipeline.download.layout import SourceImage, reasons
from pipeline.download.sources import SOURCES
from pipeline.download.splits import assign_splits
from pipeline.errors import PipelineError, listed
from pipeline.params.schema import DataParams
from pipeline.progress import say


def download(params: DataParams) -> None:
    """Write ``data/raw.zip`` from ``data.source``; images are never re-encoded.

    Raises:
        PipelineError: the source is missing or empty, or has another checksum or an unknown layout.
    """
    with SOURCES[params.source](params) as source:
        images = assign_splits(source.images, params.valid_fraction, params.test_fraction, params.split_seed)
        write_raw_archive(RAW_ARCHIVE, source.classes, _entries(images), source.read, source.left_out)
    counts = Counter(image.split for image in images)
    splits = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split])
    say(f"download: {RAW_ARCHIVE} contains {len(images):,} images of {len(source.classes)} classes: {splits}")
    say(f"download: classes: {listed(source.classes, 10)}")
    if source.left_out:
        say(f"download: left out {len(source.left_out):,} other files: {reasons(source.left_out)}")


def _entries(images: Iterable[SourceImage]) -> dict[str, str]:
    """Map each entry of the archive to the path of its image in the source."""
    entries: dict[str, str] = {}
    for image in images:
        entry = entry_name(image.split or "train", image.label, image.name)
        other = entries.setdefault(entry, image.path)
        if other != image.path:
            raise PipelineError(f"{other} and {image.path} would both become {entry}; rename one of them")
    return entries
