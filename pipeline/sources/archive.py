"""A zip or tar of images, here or at a URL. Its members are read in place, never unpacked into files."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.archives.archive_tree import archive_tree
from pipeline.archives.nested import with_nested
from pipeline.errors import PipelineError
from pipeline.fetching.http import fetch
from pipeline.params.data import DataParams, is_url
from pipeline.paths import user_path
from pipeline.sources.image_set import ImageSet
from pipeline.sources.layout import read_layout
from pipeline.text import printable


@contextmanager
def open_archive(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images in the archive at ``data.location``, whose SHA-256 is checked before anything is read.

    Raises:
        PipelineError: no such file, another checksum, neither a zip nor a tar, damaged, or with a member that is
            refused (``archive_safety`` says which).
    """
    location = params.location or ""
    if is_url(location):
        path = fetch([location, *params.mirrors], params.sha256 or "")
        location = printable(location)  # what is wrong in the archive is told without the URL's password
    else:
        path = user_path(location)
        if not path.is_file():
            found = "is a folder, use data.source folder for it" if path.is_dir() else "does not exist"
            raise PipelineError(f"data.location: the archive {path} {found}; set it to a zip or tar of images")
        _check(path, params.sha256)
    with (
        path.open("rb") as file,
        archive_tree(file, path.stat().st_size, f"data.location: {location}") as outer,
        with_nested(outer) as tree,
    ):
        yield read_layout(location, tree.sizes, tree.read, params.classes)


def _check(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise PipelineError(
            f"data.sha256: {path} has {found}, expected is {sha256}; fetch the archive again, or correct the parameter"
        )
