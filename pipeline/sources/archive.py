"""A zip or tar of images, here or at a URL. Its members are read in place, never unpacked into files."""

import hashlib
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.params.data import DataParams
from pipeline.paths import RAW_ARCHIVE
from pipeline.sources.image_set import ImageSet
from pipeline.sources.layout import read_layout


@contextmanager
def open_archive(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images in the archive at ``data.location``, whose SHA-256 is checked before anything is read.

    Raises:
        PipelineError: no such file, another checksum, or neither a zip nor a tar.
    """
    location = params.location or ""
    try:
        with _opened(location, params) as source:
            yield source
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        raise PipelineError(f"data.location: {location} is damaged ({error}); fetch or pack it again") from None


@contextmanager
def _opened(location: str, params: DataParams) -> Iterator[ImageSet]:
    if location.startswith(("http://", "https://")):
        path = _fetch(location, params.sha256 or "")
    else:
        path = Path(location)
        if not path.is_file():
            found = "is a folder, use data.source folder for it" if path.is_dir() else "does not exist"
            raise PipelineError(f"data.location: the archive {path} {found}; set it to a zip or tar of images")
        _check(path, params.sha256)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            yield read_layout(location, names, archive.read, params.classes)
    elif tarfile.is_tarfile(path):
        with _tar_members(path) as (names, read):
            yield read_layout(location, names, read, params.classes)
    else:
        raise PipelineError(f"data.location: {location} is neither a zip nor a tar; repack the images as one of them")


def _check(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise PipelineError(
            f"data.sha256: {path} has {found}, expected is {sha256}; fetch the archive again, or correct the parameter"
        )


def _fetch(url: str, sha256: str) -> Path:
    """Download once into the user's cache, where a second clone finds it; the checksum is the file's name."""
    import pooch
    import requests

    cache = Path(os.environ.get("PIPELINE_CACHE") or pooch.os_cache("image-classification-pipeline"))
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=sha256, path=cache, progressbar=os.isatty(2)))
    except requests.RequestException as error:
        raise PipelineError(f"data.location: {url} could not be fetched ({error}); check the address") from None
    except ValueError as error:
        if "hash" not in str(error):
            raise PipelineError(f"data.location: {url!r} is no URL ({error}); correct it") from None
        raise PipelineError(
            f"data.sha256: {url} has another SHA-256 than {sha256}; correct the parameter or take another mirror"
        ) from None


@contextmanager
def _tar_members(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Yield the names and a reader of a tar's files; a compressed tar cannot be read out of order, so one
    pass copies the members' bytes, nameless, into a temporary file."""
    RAW_ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path) as archive, tempfile.TemporaryFile(dir=RAW_ARCHIVE.parent) as spool:
        places: dict[str, tuple[int, int]] = {}
        for member in archive:
            # Hard links are files too: GNU tar writes one for a second name of the same file.
            file = archive.extractfile(member) if member.isfile() or member.islnk() else None
            if file is not None:
                content = file.read()
                places[member.name.removeprefix("./")] = (spool.tell(), len(content))
                spool.write(content)

        def read(name: str) -> bytes:
            offset, size = places[name]
            spool.seek(offset)
            return spool.read(size)

        yield list(places), read
