"""Parts of a file as files of their own, and the one temporary file that holds what cannot be read in place."""

import io
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.common.paths import RAW_ARCHIVE
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1024 * 1024  # bytes


class Slice(io.RawIOBase):
    """Some bytes of a larger file, as a file; ``lock`` is shared by all that move the larger file's position."""

    def __init__(self, file: IO[bytes], lock: threading.RLock, start: int, size: int):
        self._file, self._lock, self._start, self._size, self._position = file, lock, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"cannot seek to {base + offset}")  # as files do; zipfile counts on it
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        content = self._read(len(view))
        view[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        # The one that is inherited asks for 8 KiB at a time.
        return self._read(self._size)

    def _read(self, size: int) -> bytes:
        with self._lock:
            self._file.seek(self._start + self._position)
            content = self._file.read(max(0, min(size, self._size - self._position)))
        self._position += len(content)
        return content


class Spool:
    """A temporary file without a name in ``data/``, made when it is first needed, which keeps files end to end."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 0
        self._lock = threading.RLock()

    def add(self, file: IO[bytes], size: int, name: str) -> tuple[int, int]:
        """Copy a file of ``size`` bytes, and return its place: where it starts and how long it is.

        Raises:
            PipelineError: the disk has no room for it.
            EOFError: the file is shorter.
        """
        with self._lock:
            if self._file is None:
                RAW_ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=RAW_ARCHIVE.parent)  # noqa: SIM115
            need_room(RAW_ARCHIVE.parent, size, name)
            start = self._end
            while left := start + size - self._end:
                content = file.read(min(CHUNK, left))
                if not content:
                    raise EOFError(f"it ends {left:,} bytes early")
                # What is read may be a part of the same temporary file: each write goes to its end anew.
                self._file.seek(self._end)
                self._file.write(content)
                self._end += len(content)
            return start, size

    def open(self, place: tuple[int, int]) -> IO[bytes]:
        """Open what was kept at a place."""
        assert self._file is not None
        return io.BufferedReader(Slice(self._file, self._lock, *place))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def need_room(folder: Path, size: int, name: str) -> None:
    """Refuse to begin what cannot end: ``size`` bytes of ``name`` for the disk of ``folder``.

    Raises:
        PipelineError: there is less room.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise PipelineError(
            f"{name}: needs {size / 1e6:,.0f} MB, but {folder} has {free / 1e6:,.0f} MB free; make room there"
        )
