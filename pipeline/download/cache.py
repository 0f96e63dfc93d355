"""The cache of fetched files, which all clones of the project share, and several users can.

Other users may be able to write there. So its files are verified by their hashes each time they are read, and other
programs do not work in it: git, git-lfs and the hub's client write to a folder of the repository, ``work_folder``.
"""

import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

import filelock
import platformdirs

from pipeline.common.paths import RAW_ARCHIVE, repository_root
from pipeline.errors import PipelineError
from pipeline.machine import folder_variable
from pipeline.progress import say

CHUNK = 2**20  # bytes
IN_MEMORY = 2**24  # bytes; larger copies are on the disk
# A link is not followed, and opening a pipe does not wait for its other end.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FetchError(Exception):
    """Why something could not be fetched, in one line."""


class UnusableError(Exception):
    """Why a file in the cache is not used; follows its path in messages."""


def cache_folder() -> Path:
    """Return the folder of fetched files: ``PIPELINE_CACHE``, or by default one in the user's cache.

    Raises:
        PipelineError: it is in a home folder that does not exist.
    """
    try:
        return folder_variable("PIPELINE_CACHE") or Path(platformdirs.user_cache_dir("image-classification-pipeline"))
    except RuntimeError as error:
        raise PipelineError("PIPELINE_CACHE: not set, and there is no home folder; set it to a folder") from error


def work_folder(name: str) -> Path:
    """Return a folder in which other programs fetch: in the repository that the user works in, ignored by git."""
    return repository_root() / ".dvc" / "tmp" / "fetch" / name


def open_regular(path: Path) -> FileIO:
    """Open a file in the cache.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableError: it is a link, a folder, a pipe or a device, or cannot be read.
    """
    try:
        file = FileIO(os.open(path, os.O_RDONLY | _FLAGS))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableError("is a link" if path.is_symlink() else f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnusableError("is not a regular file")
    return file


def verified(path: Path, sha256: str) -> IO[bytes]:
    """Open a file that should have this SHA-256; of one that another user could change later, a copy is returned.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableError: it has another SHA-256, or is not a regular file.
    """
    file = open_regular(path)
    copy: IO[bytes] | None = None
    if not is_ours(file):
        RAW_ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        copy = tempfile.SpooledTemporaryFile(IN_MEMORY, "w+b", dir=str(RAW_ARCHIVE.parent))  # noqa: SIM115
    if content_sha256(file, copy) != sha256:
        file.close()
        raise UnusableError(f"is damaged (its SHA-256 is not {sha256})")
    opened = copy or io.BufferedReader(file)
    opened.seek(0)
    return opened


def content_sha256(file: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """Return the SHA-256 of an open file from its beginning, 64 lower-case hexadecimal digits, and copy it."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        if copy:
            copy.write(chunk)
    return digest.hexdigest()


def is_ours(file: FileIO) -> bool:
    """Whether only this user, and root, can have written an open file."""
    state = os.fstat(file.fileno())
    return state.st_uid in (0, os.geteuid()) and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def partial_file(path: Path) -> FileIO:
    """Open a partial download to continue it, or create it.

    A link is replaced, since its target would be overwritten, and so is a file that another user can have written.
    """
    with suppress(OSError):
        file = FileIO(os.open(path, os.O_RDWR | _FLAGS), "r+")
        state = os.fstat(file.fileno())
        if stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and is_ours(file):
            return file
        file.close()
    if os.path.lexists(path):
        say(f"download: {path} is a link, or another user can have written it: it is replaced")
        path.unlink()
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o644), "r+")


def add_file(source: Path, place: Path) -> None:
    """Move a file into the cache.

    Raises:
        PipelineError: a folder there is a link, which another user can have created.
    """
    folder, cache = place.parent, cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != cache.resolve() / folder.relative_to(cache):
        raise PipelineError(f"{folder}: is a link, or in one; remove it, or set PIPELINE_CACHE to another folder")
    with tempfile.TemporaryDirectory(dir=folder) as own:  # on another disk, it is copied first
        moved = Path(shutil.move(source, own))
        moved.chmod(0o644)
        moved.replace(place)


@dataclass(frozen=True)
class CachedFile:
    """A file of ``size`` bytes in the cache, in which its SHA-256 is its name; one copy for all data sets."""

    size: int
    sha256: str

    @property
    def path(self) -> Path:
        return cache_folder() / "objects" / self.sha256[:2] / self.sha256

    def is_complete(self) -> bool:
        """Whether a file of this size is there; its content is checked when it is opened."""
        with suppress(OSError):
            state = self.path.lstat()
            return stat.S_ISREG(state.st_mode) and state.st_size == self.size
        return False

    def open(self) -> IO[bytes]:
        """Check the content, and open the file.

        Raises:
            PipelineError: it has another SHA-256; it is removed, so that the next run fetches it again.
        """
        try:
            return verified(self.path, self.sha256)
        except (FileNotFoundError, UnusableError) as error:
            self.path.unlink(missing_ok=True)
            reason = str(error) if isinstance(error, UnusableError) else "is missing"
            raise PipelineError(
                f"{self.path} {reason} and has been removed; run the command again to fetch it again; if that does not "
                "help, the publisher's file is damaged"
            ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to the same path; the lock ends with its process, even if that is killed.

    Raises:
        PipelineError: the lock cannot be opened, since it is a link, for example.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"), mode=0o666)  # it stays, for other users too
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"download: waits for another process that is writing to {path}")
        lock.acquire()
    except OSError as error:
        raise PipelineError(
            f"{lock.lock_file}: cannot be locked ({error.strerror}); remove it, or set the environment variable "
            "PIPELINE_CACHE to a folder of your own"
        ) from None
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
