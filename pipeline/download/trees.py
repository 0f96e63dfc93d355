"""The files of a source, wherever they are: in a folder, in an archive, in nested archives, or in git's objects."""

import gzip
import lzma
import os
import posixpath
import resource
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.common.file_types import is_archive, is_image, is_junk
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import CLASSES_FILE
from pipeline.download.cache import require_space
from pipeline.download.safety import Quota
from pipeline.errors import PipelineError

MOST_OPEN_FILES = 65_536
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
        unpacking: if the files come from an archive, what the archives of the source share.
    """

    name: str
    sizes: dict[str, int]
    open: Callable[[str], IO[bytes]]
    unpacking: "Unpacking | None" = None

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


class Unpacking(ExitStack):
    """What the archives of one source share: their quota, and the files that stay open until the end of the block."""

    def __init__(self, quota: Quota) -> None:
        super().__init__()
        self.quota = quota
        # All archives of a source stay open, and there can be one per class.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError):  # macOS states a higher limit than it allows
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_OPEN_FILES)), hard))

    def copy(self, chunks: Iterable[bytes], name: str) -> IO[bytes]:
        """Return a seekable copy of a file that is not seekable: a temporary file without a name in ``data/``.

        Raises:
            PipelineError: the disk has not enough free space.
        """
        RAW_ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        file = self.enter_context(tempfile.TemporaryFile(dir=RAW_ARCHIVE.parent))  # noqa: SIM115
        for chunk in chunks:
            require_space(RAW_ARCHIVE.parent, len(chunk), name)
            file.write(chunk)
        file.seek(0)
        return file
