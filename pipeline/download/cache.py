"""The cache of fetched files, which all clones of the project share."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock
import platformdirs

from pipeline.errors import PipelineError
from pipeline.machine import folder_variable
from pipeline.progress import say


class FetchError(Exception):
    """Why something could not be fetched, in one line."""


def cache_folder() -> Path:
    """Return the folder of fetched files: ``PIPELINE_CACHE``, or by default one in the user's cache.

    Raises:
        PipelineError: it is in a home folder that does not exist.
    """
    try:
        return folder_variable("PIPELINE_CACHE") or Path(platformdirs.user_cache_dir("image-classification-pipeline"))
    except RuntimeError as error:
        raise PipelineError("PIPELINE_CACHE: not set, and there is no home folder; set it to a folder") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class CachedFile:
    """A file that should have ``size`` bytes and, if the publisher states one, a SHA-256."""

    path: Path
    size: int
    sha256: str | None

    def is_complete(self) -> bool:
        """Whether the file exists and has its size."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def open(self) -> BinaryIO:
        """Check the content, and open the file.

        Raises:
            PipelineError: it has another SHA-256; it is removed, so that the next run fetches it again.
        """
        if self.sha256 and file_sha256(self.path) != self.sha256:
            self.path.unlink()
            raise PipelineError(
                f"{self.path} was damaged (its SHA-256 is not {self.sha256}) and has been removed; run the command "
                "again to fetch it again; if that does not help, the publisher's file is damaged"
            )
        return self.path.open("rb")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to the same path; the lock ends with its process, even if that is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"download: waits for another process that is writing to {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require_space(folder: Path, size: int, name: str) -> None:
    """Check that the disk of ``folder`` has ``size`` free bytes for ``name``.

    Raises:
        PipelineError: it has fewer.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise PipelineError(
            f"{name}: needs {size / 1e6:,.0f} MB more, but {folder} has {free / 1e6:,.0f} MB free; free some space"
        )
