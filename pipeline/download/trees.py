"""The files of a source, wherever they are: in a folder, in an archive, in nested archives, or in git's objects."""

import gzip
import io
import lzma
import os
import posixpath
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.common.file_types import is_archive, is_image, is_junk
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import CLASSES_FILE
from pipeline.download.cache import require_space
from pipeline.download.safety import Quota
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# zipfile and tarfile raise the second four for damaged headers.
_DAMAGE = (
    *(EOFError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(ValueError, NotImplementedError, OverflowError, RecursionError, struct.error),
)


@dataclass(frozen=True)
class FileTree:
    """Those files of a source that can belong to a dataset.

    Attributes:
        name: what messages call the source.
        sizes: the size in bytes of each file by its path, which is relative, with ``/`` between folders.
        open: opens the file at a path; the file is seekable.
        spool: if the files come from an archive, what the archives of the source share.
    """

    name: str
    sizes: dict[str, int]
    open: Callable[[str], IO[bytes]]
    spool: "Spool | None" = None

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            PipelineError: its archive is damaged.
        """
        with reporting_damage(f"{self.name}: {path}"), self.open(path) as file:
            return file.read()


def is_part(path: str) -> bool:
    """Whether a file can belong to a dataset; others are never opened or copied."""
    return not is_junk(path) and (is_image(path) or is_archive(path) or posixpath.basename(path) == CLASSES_FILE)


@contextmanager
def reporting_damage(name: str) -> Iterator[None]:
    """Turn what the standard library raises for a damaged archive into a PipelineError."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        # For a damaged bz2 file, that is an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PipelineError(f"{name} is damaged ({error}); fetch or pack it again") from None


def folder_tree(root: Path) -> FileTree:
    """Return the files in a folder; links to files are followed, links to folders are not.

    Raises:
        PipelineError: something with the name of an image or an archive is not a regular file.
        OSError: a folder that cannot be read, or a broken link.
    """
    sizes = {}
    for folder, _, names in os.walk(root, onerror=_raise):
        for name in names:
            file = Path(folder) / name
            path = file.relative_to(root).as_posix()
            if is_part(path):
                state = file.stat()
                if not stat.S_ISREG(state.st_mode):
                    raise PipelineError(f"{file}: is not a regular file; move it away")
                sizes[path] = state.st_size
    return FileTree(str(root), sizes, lambda path: (root / path).open("rb"))


def _raise(error: OSError) -> None:
    raise error


class Slice(io.RawIOBase):
    """A range of bytes of a larger file, as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(f"cannot seek to {position}")  # as files do; zipfile relies on it
        self._position = position
        return position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        content = self._read(len(view))
        view[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        # The inherited one reads 8 KiB at a time.
        return self._read(self._size)

    def _read(self, size: int) -> bytes:
        self._file.seek(self._start + self._position)
        content = self._file.read(max(0, min(size, self._size - self._position)))
        self._position += len(content)
        return content


class Spool:
    """What the archives of one source share: their quota, and a temporary file for what cannot be read in place.

    The file has no name, and is created in ``data/`` when it is first needed.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._file: IO[bytes] | None = None
        self._end = 0

    def add(self, chunks: Iterable[bytes], name: str) -> IO[bytes]:
        """Copy a file, and open the copy.

        Raises:
            PipelineError: the disk has not enough free space.
        """
        if self._file is None:
            RAW_ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=RAW_ARCHIVE.parent)  # noqa: SIM115
        start = self._end
        for chunk in chunks:
            require_space(RAW_ARCHIVE.parent, len(chunk), name)
            self._file.seek(self._end)  # the chunks may be read from this same file
            self._file.write(chunk)
            self._end += len(chunk)
        return io.BufferedReader(Slice(self._file, start, self._end - start))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
