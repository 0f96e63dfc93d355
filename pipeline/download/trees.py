"""The files of a source, wherever they are: in a folder, in an archive, in nested archives, or in git's objects."""

import gzip
import lzma
import os
import resource
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from pipeline.common.file_types import HEAD, is_image, is_of_system, is_part, junk_reason, other_reason
from pipeline.common.paths import RAW_ARCHIVE
from pipeline.download.cache import require_space
from pipeline.download.safety import Quota, check_files
from pipeline.errors import PipelineError

MOST_OPEN_FILES = 65_536
# Their files change with each commit, and are no part of the data.
VERSION_CONTROL = {".git", ".hg", ".svn", ".dvc"}
# zipfile and tarfile raise the second four for damaged headers.
_DAMAGE = (
    *(EOFError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(ValueError, NotImplementedError, OverflowError, RecursionError, struct.error),
)


@dataclass(frozen=True)
class FileTree:
    """The files of a source.

    Attributes:
        name: what messages call the source.
        sizes: the size in bytes of each file that can belong to a dataset, by its path, which is relative, with ``/``
            between folders.
        open: opens the file at a path; the file is seekable.
        recognised: those of them that only their first bytes show to be images.
        left_out: the reason for each other file, by its path.
        empty: the folders without files.
        unpacking: if the files come from an archive, what the archives of the source share.
    """

    name: str
    sizes: dict[str, int]
    open: Callable[[str], IO[bytes]]
    recognised: frozenset[str] = frozenset()
    left_out: dict[str, str] = field(default_factory=dict)
    empty: frozenset[str] = frozenset()
    unpacking: "Unpacking | None" = None

    def read(self, path: str, most: int | None = None) -> bytes:
        """Return the content of a file.

        Raises:
            PipelineError: its archive is damaged, or it has more than ``most`` bytes.
        """
        if most is not None and self.sizes[path] > most:
            raise PipelineError(f"{self.name}: {path}: {self.sizes[path]:,} bytes, allowed are {most:,}; shorten it")
        with reporting_damage(f"{self.name}: {path}"), self.open(path) as file:
            return file.read()

    def is_image(self, path: str) -> bool:
        """Whether a file is an image by its ending or by its first bytes."""
        return is_image(path) or path in self.recognised


def composed(tree: FileTree) -> FileTree:
    """A tree with all paths in Unicode's composed form, NFC: macOS writes others, which look the same.

    Raises:
        PipelineError: two paths become the same.
    """
    paths: dict[str, str] = {}
    for path in tree.sizes:
        other = paths.setdefault(unicodedata.normalize("NFC", path), path)
        if other != path:
            raise PipelineError(f"{tree.name}: has two files {path!r}, in two forms of Unicode; rename one of them")

    def changed(names: Iterable[str]) -> Iterator[str]:
        return (unicodedata.normalize("NFC", name) for name in names)

    return replace(
        tree,
        sizes={path: tree.sizes[given] for path, given in paths.items()},
        open=lambda path: tree.open(paths[path]),
        recognised=frozenset(changed(tree.recognised)),
        left_out=dict(zip(changed(tree.left_out), tree.left_out.values(), strict=True)),
        empty=frozenset(changed(tree.empty)),
    )


class Sorter:
    """Sorts the files of a source into those that can belong to a dataset and those that cannot."""

    def __init__(self) -> None:
        self.recognised: set[str] = set()
        self.left_out: dict[str, str] = {}

    def takes(self, path: str, head: Callable[[], bytes]) -> bool:
        """Whether a file can belong to a dataset; ``head`` returns its first bytes, and is called if needed."""
        reason = junk_reason(path)
        if reason is None and not is_part(path):
            reason = other_reason(path, head())
            if reason is None:
                self.recognised.add(path)
        if reason is not None:
            self.left_out[path] = reason
        return reason is None


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
    """Return the files in a folder; links to files and to folders are followed.

    Raises:
        PipelineError: something with the name of an image or an archive is not a regular file, or one is too large.
        OSError: a folder that cannot be read, or a broken link with the name of an image or an archive.
    """
    sizes, empty, sorter = {}, set(), Sorter()
    for folder, folders, names in _walk(root, sorter.left_out):
        above = "/".join(folder.relative_to(root).parts)
        prefix = f"{above}/" if above else ""
        if above and not folders and not names:
            empty.add(above)
        for name in names:
            path, file = prefix + name, folder / name
            try:
                state = file.stat()
            except OSError:
                if is_part(path):
                    raise
                sorter.left_out[path] = junk_reason(path) or "a broken link"
                continue
            if not stat.S_ISREG(state.st_mode):
                if is_part(path):
                    raise PipelineError(f"{file}: is not a regular file; move it away")
                sorter.left_out[path] = "not a regular file"
            elif sorter.takes(path, lambda file=file: _head(file)):  # type: ignore[misc]
                sizes[path] = state.st_size
    check_files(str(root), sizes)
    return FileTree(
        *(str(root), sizes, lambda path: (root / path).open("rb")),
        *(frozenset(sorter.recognised), sorter.left_out, frozenset(empty)),
    )


def empty_folders(names: Iterable[str]) -> frozenset[str]:
    """The folders of an archive without members; folders are the names that end with a slash."""
    names = set(names)
    parents = {parent for name in names for parent in _parents(name)}
    return frozenset(name.rstrip("/") for name in names if name.endswith("/") and name not in parents)


def _parents(name: str) -> Iterator[str]:
    """``a/b/`` and ``a/`` for ``a/b/c``."""
    while name := name.rstrip("/").rpartition("/")[0]:
        yield f"{name}/"


def _walk(root: Path, left_out: dict[str, str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """``os.walk`` through links to folders, except those to a folder that contains the link.

    What operating systems and version control create is skipped without a word, as by ``source``: it differs between
    machines that have the same images.
    """
    chains = {root: {_identity(root)}}  # each folder to come with those that contain it
    for name, folders, names in os.walk(root, onerror=_raise, followlinks=True):
        folder = Path(name)
        chain = chains.pop(folder)
        for inner in list(folders):
            path = folder / inner
            if inner in VERSION_CONTROL or is_of_system(inner):
                folders.remove(inner)
            elif (identity := _identity(path)) in chain:
                left_out[path.relative_to(root).as_posix()] = "a link to a folder that contains it"
                folders.remove(inner)
            else:
                chains[path] = chain | {identity}
        yield folder, folders, [name for name in names if not is_of_system(name)]


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEAD)


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
