"""A zip or a tar as a tree of files. Its members are read in place, and never unpacked to files with names."""

import bz2
import gzip
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BufferedIOBase, BufferedReader
from typing import IO, Self

from pipeline.common.file_types import HEAD, Kind, is_part, kind_of, what_it_is
from pipeline.download.file_tree import FileTree, Unpacking, damage_told
from pipeline.download.safety import Allowance, tar_members, zip_members
from pipeline.download.spool import CHUNK, Slice, Spool
from pipeline.errors import PipelineError

LARGEST_HEADERS = 16 * 2**20  # bytes between two members of a tar: names, times and the like
_DECOMPRESSORS: dict[Kind | None, Callable[[IO[bytes]], BufferedIOBase]] = {
    Kind.GZIP: gzip.open,
    Kind.BZIP2: bz2.open,
    Kind.XZ: lzma.open,
}


@contextmanager
def archive_tree(file: IO[bytes], size: int, name: str, unpacking: Unpacking | None = None) -> Iterator[FileTree]:
    """Yield the files in an archive, which is known by its content and not by its name.

    Args:
        file: the archive; the caller closes it, after the tree. One that comes from a zip is copied first.
        size: its bytes.
        name: what to call it in messages.
        unpacking: that of the archive which this one lies in.

    Raises:
        PipelineError: neither a zip nor a tar, damaged, or with a member that is refused.
    """
    if unpacking is None:
        with closing(Spool()) as spool:
            yield _tree(file, name, Unpacking(Allowance(size), spool))
        return
    if isinstance(file, zipfile.ZipExtFile):
        with damage_told(name):
            file = unpacking.spool.open(unpacking.spool.add(file, size, name))
    yield _tree(file, name, unpacking)


def _tree(file: IO[bytes], name: str, unpacking: Unpacking) -> FileTree:
    with damage_told(name):
        head = file.read(HEAD)
        file.seek(0)
        kind = kind_of(head)
        if kind is Kind.ZIP:
            return _zip_tree(file, name, unpacking)
        if kind in _DECOMPRESSORS:
            return _compressed_tar_tree(file, name, unpacking, _DECOMPRESSORS[kind])
        if _is_tar(head):
            return _tar_tree(file, name, unpacking)
        # Asked last: a tar that ends with a zip has the marks of one. A zip may begin with a program that unpacks it.
        if zipfile.is_zipfile(file):
            return _zip_tree(file, name, unpacking)
    found = what_it_is(head)
    is_found = f"is {found}, and neither" if found else "is neither"
    raise PipelineError(f"{name} {is_found} a zip nor a tar; fetch it again, or repack the images as one of them")


def _zip_tree(file: IO[bytes], name: str, unpacking: Unpacking) -> FileTree:
    archive = zipfile.ZipFile(file)
    members = {path: info for path, info in zip_members(archive, name, unpacking.allowance) if is_part(path)}
    sizes = {path: info.file_size for path, info in members.items()}
    return FileTree(name, sizes, lambda path: archive.open(members[path]), unpacking)


def _tar_tree(file: IO[bytes], name: str, unpacking: Unpacking) -> FileTree:
    places: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictTarInfo) as archive:
        for path, member in tar_members(archive, name, unpacking.allowance):
            unpacking.allowance.take(name, member.size)
            if is_part(path):
                places[path] = (member.offset_data, member.size)
    sizes = {path: size for path, (_, size) in places.items()}
    lock = threading.RLock()
    return FileTree(name, sizes, lambda path: BufferedReader(Slice(file, lock, *places[path])), unpacking)


def _compressed_tar_tree(
    file: IO[bytes], name: str, unpacking: Unpacking, decompress: Callable[[IO[bytes]], BufferedIOBase]
) -> FileTree:
    """A compressed tar cannot be read out of order: one pass copies the members that matter to the spool."""
    if not _is_tar(decompress(file).read(tarfile.BLOCKSIZE)):
        raise PipelineError(f"{name} is compressed, but no tar; repack the images as a zip or a tar")
    file.seek(0)
    meter = _Meter(decompress(file), name, unpacking.allowance)
    places: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=meter, mode="r:", tarinfo=_StrictTarInfo) as archive:  # type: ignore[call-overload]
        for path, member in tar_members(archive, name, unpacking.allowance):
            meter.expect(member.size)
            if is_part(path):
                places[path] = unpacking.spool.add(archive.extractfile(member), member.size, name)
    sizes = {path: size for path, (_, size) in places.items()}
    return FileTree(name, sizes, lambda path: unpacking.spool.open(places[path]), unpacking)


def _is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a member, or with the zeros that are an empty tar."""
    block = head[: tarfile.BLOCKSIZE]
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return block == bytes(tarfile.BLOCKSIZE)
    return True


class _StrictTarInfo(tarfile.TarInfo):
    """A header that cannot be read is damage; tarfile takes it, after the first one, for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


class _Meter:
    """The tar in a compressed file, read from its begin to its end: what it gives is counted as it comes.

    So no bomb goes off first. It moves forward only, and more quickly than tarfile's own stream, which copies more.
    """

    def __init__(self, stream: BufferedIOBase, name: str, allowance: Allowance):
        self._stream, self._name, self._allowance = stream, name, allowance
        self._position, self._left = 0, LARGEST_HEADERS

    def expect(self, size: int) -> None:
        """Allow for a member of ``size`` bytes, and what stands before the next one."""
        self._left = size + LARGEST_HEADERS

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._position += len(content)
        self._left -= len(content)
        self._allowance.take(self._name, len(content))
        if self._left < 0:
            most = f"{LARGEST_HEADERS / 2**20:g} MiB"
            raise PipelineError(f"{self._name}: a member's name and rights take more than {most}; pack it again")
        return content

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        while self._position < position and self.read(min(position - self._position, CHUNK)):
            pass
