"""Stage ``source``: list the files of the source and the pretrained weights, so that DVC notices when they change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.corrections import read_corrections
from pipeline.common.files import write_json
from pipeline.common.paths import CORRECTIONS, PRETRAINED_SOURCE, SOURCE
from pipeline.progress import say
from pipeline.source.listing import (
    differences,
    file_sha256,
    find_source,
    has_listing,
    list_source,
    problem_of,
    read_summary,
    recall,
    summary,
)
from pipeline.source.weights import weights_identity


def source(
    kind: str,
    location: str | None,
    labels: str | Mapping[Any, str] | None,
    pretrained: bool | str = False,
    corrections: str | None = None,
) -> None:
    """Write ``data/source.json``, which is the same as long as names and contents of the source's files are, and
    ``data/pretrained.json``, which is as long as the weights of ``model.pretrained`` are.

    If the source is not on this machine, an earlier listing stays as it is: then DVC uses the images in its cache. If
    there is none, ``download`` says what is missing.

    Raises:
        PipelineError: the weights are not on this machine, and never were.
    """
    list_corrections(corrections)
    identity = weights_identity(pretrained)
    if identity != read_summary(PRETRAINED_SOURCE) or not PRETRAINED_SOURCE.exists():
        write_json(PRETRAINED_SOURCE, identity)
    place, before = find_source(kind, location, labels), read_summary()
    if problem := problem_of(place):
        if has_listing(before, place):
            say(f"source: {problem}; {SOURCE} stays as it is, and DVC uses the images in its cache")
        else:
            write_json(SOURCE, {"source": kind})
        return
    known = recall(place)
    files = list_source(place, known)
    content = summary(place, files)
    if content != before:
        write_json(SOURCE, content)
    if place.location is not None:
        state = "unchanged" if content == before else (known and differences(known, files)) or "new"
        say(f"source: {place.location} has {len(files):,} files, {content['bytes'] / 1e6:,.1f} MB: {state}")


def list_corrections(path: str | None) -> None:
    """Write ``data/corrections.json``: the hash of the file ``data.corrections``, so that DVC notices when it changes.

    Raises:
        PipelineError: it is missing, or no such table.
    """
    read_corrections(path)
    write_json(CORRECTIONS, {"sha256": file_sha256(Path(path))} if path else {})
