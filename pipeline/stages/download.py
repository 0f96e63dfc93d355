"""Stage ``download``: bring the images of any source into ``data/raw.zip``."""

from collections import Counter
from dataclasses import replace

from pipeline.params.data import DataParams
from pipeline.paths import RAW_ARCHIVE
from pipeline.progress import say
from pipeline.raw_archive import SPLITS, write_raw_archive
from pipeline.sources.registry import SOURCES
from pipeline.splits import assign_splits


def download(params: DataParams) -> None:
    """Write ``data/raw.zip`` from ``data.source``; the bytes of an image are never re-encoded.

    Raises:
        PipelineError: the source is missing, empty, of another checksum, or laid out in no known way.
    """
    with SOURCES[params.source](params) as source:
        images = assign_splits(source.images, params.valid_fraction, params.test_fraction, params.split_seed)
        write_raw_archive(RAW_ARCHIVE, replace(source, images=tuple(images)))
    counts = Counter(image.split for image in images)
    splits = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split])
    say(f"download: {RAW_ARCHIVE} holds {len(images):,} images of {len(source.classes)} classes: {splits}")
