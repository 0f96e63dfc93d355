"""Files in the shared cache that were fetched in parts: each is checked when it is opened, and mended by a next run."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock

from pipeline.errors import PipelineError
from pipeline.progress import say


@dataclass(frozen=True)
class StoredFile:
    """A file that should have a size in bytes and, where the publisher states one, a SHA-256."""

    path: Path
    size: int
    sha256: str | None

    def is_whole(self) -> bool:
        """Whether it is there with its size."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def open(self) -> BinaryIO:
        """Open the file, once its content is checked.

        Raises:
            PipelineError: it has another content; it is removed, so that the next run fetches it again.
        """
        file = self.path.open("rb")
        if self.sha256 and hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
            file.close()
            self.path.unlink()
            raise PipelineError(
                f"{self.path} was damaged (its SHA-256 is not {self.sha256}) and is removed; run the command again, "
                "which fetches it anew; if that does not help, what the publisher gives is damaged"
            )
        file.seek(0)
        return file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from filling the same place; a lock ends with its process, however that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"download: waits for another process, which fills {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
