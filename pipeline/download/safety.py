"""Checks that an archive is safe to read. No member is ever unpacked to a path of its own.

Refused, even if the member would not be read: absolute names, ``..``, backslashes, links (including hard links),
devices and pipes, sparse files, encrypted members, unknown compression, names that are listed twice, zip entries that
overlap, and whatever exceeds these limits:

* ``MOST_MEMBERS`` members per source, including those of archives inside archives;
* ``LARGEST_FILE`` bytes per member, unless it is itself an archive;
* ``MOST_BYTES`` unpacked bytes per source;
* ``LARGEST_RATIO`` unpacked bytes per packed byte, once more than ``RATIO_COUNTS_FROM`` bytes are unpacked;
* ``LARGEST_HEADERS`` bytes of headers per tar member: its name, times and so on.

The first three apply to the files of a folder, a repository or a hub, too.
"""

import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import IO, Self, TypeVar

from pipeline.common.file_types import LARGEST_FILE, is_archive
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.progress import say

MOST_MEMBERS = 10_000_000
MOST_BYTES = 2**40
RATIO_COUNTS_FROM = 2**30
LARGEST_RATIO = 200
LARGEST_HEADERS = 16 * 2**20

_ENCRYPTED, _PATCH, _UTF8 = 0x41, 0x20, 0x800  # bits of a zip entry's flags
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_Member = TypeVar("_Member")


@dataclass
class Quota:
    """How much of the limits the archives of one source have used; ``packed`` is their size in bytes as they came."""

    packed: int
    members: int = 0
    bytes: int = 0

    def add(self, archive: str, size: int) -> None:
        """Count a member of ``size`` bytes.

        Raises:
            PipelineError: a limit is exceeded.
        """
        self.members += 1
        if self.members > MOST_MEMBERS:
            raise PipelineError(f"{archive}: contains more than {MOST_MEMBERS:,} members, the limit; split it")
        self.check(archive, size)
        self.bytes += size

    def check(self, archive: str, size: int) -> None:
        """Refuse ``size`` more bytes if they would exceed a limit, without counting them."""
        total = self.bytes + size
        if total > MOST_BYTES:
            raise PipelineError(f"{archive}: contains more than {_gib(MOST_BYTES)}, the limit; split it")
        if total > RATIO_COUNTS_FROM and total > LARGEST_RATIO * self.packed:
            raise PipelineError(
                f"{archive}: unpacks to more than {LARGEST_RATIO} times its size and {_gib(RATIO_COUNTS_FROM)}, which "
                "images never do, but archives made to fill disks do; pack the images themselves"
            )


def safe_path(source: str, name: str) -> str:
    """Return a relative path with ``/`` between folders and no ``.`` among them.

    Raises:
        PipelineError: on some system the name leads out of the folder that it would be unpacked to.
    """
    fault = None
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        fault = "has an absolute name"
    elif ".." in re.split(r"[/\\]", name):
        fault = "leads out of its folder by .."
    elif "\\" in name:
        fault = "has a backslash in its name, which separates folders on some systems only"
    if fault:
        raise PipelineError(
            f"{source}: the member {name!r} {fault}; allowed are names such as train/0_1.jpg: rename it"
        )
    return str(PurePosixPath(name))


def zip_members(archive: zipfile.ZipFile, name: str, quota: Quota) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield path and entry of each file.

    Raises:
        PipelineError: a member is refused.
    """
    infos = archive.infolist()
    names = _decoded_names(infos, name)
    members = (
        (decoded, info.file_size, decoded.endswith("/"), _zip_fault(info), info)
        for decoded, info in zip(names, infos, strict=True)
    )
    yield from _checked(name, quota, members)
    # Python checks this itself since 3.11.8 and 3.12.2, but only when an entry is read.
    for one, two in pairwise(sorted(infos, key=lambda info: info.header_offset)):
        header = zipfile.sizeFileHeader  # type: ignore[attr-defined]  # undocumented
        if one.header_offset + header + one.compress_size > two.header_offset:
            raise PipelineError(f"{name}: the members {one.filename!r} and {two.filename!r} overlap; pack them again")


def _decoded_names(infos: list[zipfile.ZipInfo], archive: str) -> list[str]:
    """The names, with those decoded that have no mark of UTF-8 and that Python takes for the characters of MS-DOS.

    Most programs write UTF-8 anyway. Chinese Windows writes GBK; its common characters have two bytes from 0xA1 on,
    unlike letters with accents in MS-DOS's character sets.

    Raises:
        PipelineError: the encoding is another one, so that names would be wrong.
    """
    names = [info.filename if info.flag_bits & _UTF8 else _unicode_path(info) for info in infos]
    unmarked = [info.orig_filename.encode("cp437") for info, name in zip(infos, names, strict=True) if name is None]
    for encoding in ("utf-8", "gb2312"):
        try:
            decoded = [content.decode(encoding).partition("\0")[0] for content in unmarked]
        except UnicodeDecodeError:
            continue
        if encoding == "gb2312":
            read = [name for name in decoded if not name.isascii()]
            say(f"{archive}: names are not marked as UTF-8 and were read as GBK: {listed(read, 3)}")
        following = iter(decoded)
        return [next(following) if name is None else name for name in names]
    wrong = next(name for name in unmarked if not name.isascii()).decode("cp437")
    raise PipelineError(
        f"{archive}: the encoding of names such as {wrong!r} is unknown; pack the files again with names in UTF-8, or "
        "unpack the archive and use data.source folder"
    )


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The name in Info-ZIP's Unicode Path Extra Field (0x7075 in PKWARE's APPNOTE 4.6.9); None if there is none."""
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        raw = info.orig_filename.encode("cp437", "replace")
        if kind == 0x7075 and field[:1] == b"\1" and field[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            return field[5:].decode("utf-8", "surrogateescape")
    return None


def tar_members(file: IO[bytes], name: str, quota: Quota) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield path and header of each file of an uncompressed tar, in its order.

    Raises:
        PipelineError: a member is refused.
        tarfile.TarError: the tar is damaged.
    """
    headers = _HeaderReader(file, name)

    def members() -> Iterator[tuple[str, int, bool, str | None, tarfile.TarInfo]]:
        for info in archive:
            headers.left = LARGEST_HEADERS
            yield info.name, info.size, info.isdir(), _tar_fault(info), info

    with tarfile.open(fileobj=headers, mode="r:", tarinfo=_StrictTarInfo) as archive:  # type: ignore[call-overload]
        yield from _checked(name, quota, members())


def _checked(
    archive: str, quota: Quota, members: Iterable[tuple[str, int, bool, str | None, _Member]]
) -> Iterator[tuple[str, _Member]]:
    """Yield path and member of each file; the members come as name, size, whether it is a folder, fault and member."""
    seen = set()
    for name, size, is_folder, fault, member in members:
        path = safe_path(archive, name)
        if is_folder and not fault:
            continue
        if path == ".":
            fault = "has no name"
        elif path in seen:
            fault = "is listed twice"
        else:
            fault = fault or _size_fault(path, size)
        if fault:
            raise PipelineError(
                f"{archive}: the member {name!r} {fault}; allowed are plain files, each once: pack it again"
            )
        seen.add(path)
        quota.add(archive, size)
        yield path, member


def _size_fault(path: str, size: int) -> str | None:
    too_large = size > LARGEST_FILE and not is_archive(path)
    return f"has {size:,} bytes, more than {_gib(LARGEST_FILE)}" if too_large else None


def check_files(source: str, sizes: Mapping[str, int]) -> None:
    """Apply the limits to files that are in no archive, by their paths.

    Raises:
        PipelineError: a limit is exceeded.
    """
    for path, size in sizes.items():
        if fault := _size_fault(path, size):
            raise PipelineError(f"{source}: {path} {fault}, the limit for one file; make it smaller, or move it away")
    if len(sizes) > MOST_MEMBERS:
        raise PipelineError(f"{source}: contains {len(sizes):,} files, more than {MOST_MEMBERS:,}, the limit; split it")
    if (total := sum(sizes.values())) > MOST_BYTES:
        raise PipelineError(f"{source}: contains {total:,} bytes, more than {_gib(MOST_BYTES)}, the limit; split it")


def _zip_fault(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device or a pipe"
    if "\0" in info.orig_filename:  # Python cuts the name there
        return "has a zero byte in its name"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS or info.flag_bits & _PATCH:
        return f"is compressed by a method (number {info.compress_type}) that Python cannot read"
    return None


def _tar_fault(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return f"is a {'hard ' if info.islnk() else ''}link to {info.linkname!r}"
    if info.issparse():
        return "is a sparse file"
    if not info.isdir() and not info.isreg():
        return "is a device or a pipe"
    return f"has {info.size} bytes" if info.size < 0 else None


class _HeaderReader:
    """A tar from which tarfile reads only headers: at most ``LARGEST_HEADERS`` bytes between two members."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name, self.left = file, name, LARGEST_HEADERS
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        content = self._file.read(min(size, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            limit = f"{LARGEST_HEADERS / 2**20:g} MiB"
            raise PipelineError(f"{self._name}: a member's headers take more than {limit}, the limit; pack it again")
        return content


class _StrictTarInfo(tarfile.TarInfo):
    """Reports an unreadable header as damage; after the first member, tarfile takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


def _gib(size: int) -> str:
    return f"{size / 2**30:g} GiB"
