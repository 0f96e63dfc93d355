"""The files of a source, wherever they lie: in a folder, in an archive, in archives within either, in git's objects."""

import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.common.file_types import is_part
from pipeline.download.safety import Allowance
from pipeline.download.spool import Spool
from pipeline.errors import PipelineError

# Damaged headers come out of zipfile and tarfile as the four in the last line.
_DAMAGE = (
    *(EOFError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(ValueError, NotImplementedError, OverflowError, struct.error),
)


@dataclass(frozen=True)
class Unpacking:
    """What the archives of one source share: the limits on what they hold, and the file for what must be copied."""

    allowance: Allowance
    spool: Spool


@dataclass(frozen=True)
class FileTree:
    """Those files of a source that can belong to a data set.

    Attributes:
        name: what to call the source in messages.
        sizes: the bytes of each file, by its path, relative, with ``/`` between folders.
        open: opens the file of a path; it can be moved about in, unless it comes from a zip.
        unpacking: where the files come from an archive, what was taken so far.
    """

    name: str
    sizes: dict[str, int]
    open: Callable[[str], IO[bytes]]
    unpacking: Unpacking | None = None

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            PipelineError: its archive is damaged.
        """
        with damage_told(f"{self.name}: {path}"), self.open(path) as file:
            return file.read()


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    """Turn what the standard library raises for a damaged archive into a PipelineError."""
    try:
        yield
    except _DAMAGE as error:
        raise PipelineError(f"{name} is damaged ({error}); fetch or pack it again") from None
    except OSError as error:
        # A damaged bz2 file is told by an OSError without a number.
        if error.errno is not None:
            raise
        raise PipelineError(f"{name} is damaged ({error}); fetch or pack it again") from None


def folder_tree(root: Path) -> FileTree:
    """Return the files below a folder; links to folders are not followed, links to files are.

    Raises:
        PipelineError: what is named like an image or an archive is no plain file.
        OSError: a folder that cannot be read, or a link that leads nowhere.
    """
    sizes = {}
    for folder, _, names in os.walk(root, onerror=_refuse):
        for name in names:
            file = Path(folder) / name
            path = file.relative_to(root).as_posix()
            if is_part(path):
                state = file.stat()
                if not stat.S_ISREG(state.st_mode):
                    raise PipelineError(f"{file}: is no plain file; move it away")
                sizes[path] = state.st_size
    return FileTree(str(root), sizes, lambda path: (root / path).open("rb"))


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is told, not passed over."""
    raise error
