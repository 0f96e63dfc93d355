"""Stage ``source``: list the files of the source and the pretrained weights, so that DVC notices when they change."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pipeline.common.files import write_json
from pipeline.common.label_files import label_file_bytes, read_label_file
from pipeline.common.paths import LABEL_FILES, PRETRAINED_SOURCE, SOURCE
from pipeline.progress import say
from pipeline.source.listing import (
    differences,
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
    pseudo_labels: str | None = None,
) -> None:
    """Write ``data/source.json``, which is the same as long as names and contents of the source's files are, and
    ``data/pretrained.json``, which is as long as the weights of ``model.pretrained`` are.

    If the source is not on this machine, or is empty, as is the folder of a disk that is not mounted, an earlier
    listing stays as it is: then DVC uses the images in its cache. If there is none, ``download`` says what is missing.

    Raises:
        PipelineError: the folder contains this project's own files, or the weights are not on this machine, and never
            were.
    """
    list_label_files({"corrections": corrections, "pseudo_labels": pseudo_labels})
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
        number = "1 file" if len(files) == 1 else f"{len(files):,} files"
        say(f"source: {place.location} has {number}, {content['bytes'] / 1e6:,.1f} MB: {state}")


def list_label_files(files: Mapping[str, str | None]) -> None:
    """Write ``data/label_files.json``: the SHA-256 of the files by the names of their parameters, so that DVC notices
    when one changes.

    Raises:
        PipelineError: one is missing, or no such table.
    """
    given = {name: file for name, file in files.items() if file}
    for name, file in given.items():
        read_label_file(name, file)
    hashes = {name: hashlib.sha256(label_file_bytes(name, file)).hexdigest() for name, file in given.items()}
    write_json(LABEL_FILES, hashes)
