"""What an archive may hold. No member is ever unpacked to a path; what is refused here is no honest data set.

Refused by name, also where nothing would read the member: absolute names, ``..``, backslashes, links (hard ones, too),
devices and pipes, sparse files, encrypted members, unknown compression, a name that is listed twice, zip entries that
overlap, and what is beyond the limits:

* ``MOST_MEMBERS`` members in a source, with all archives inside it;
* ``LARGEST_FILE`` bytes in a member, where it is no archive itself;
* ``MOST_BYTES`` bytes in a source, unpacked;
* ``LARGEST_RATIO`` unpacked bytes for each packed one, once there are more than ``RATIO_COUNTS_FROM`` of them.
"""

import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath

from pipeline.common.file_types import is_archive
from pipeline.errors import PipelineError

MOST_MEMBERS = 10_000_000
LARGEST_FILE = 2**30
MOST_BYTES = 2**40
RATIO_COUNTS_FROM = 2**30
LARGEST_RATIO = 200

_ENCRYPTED, _PATCH = 0x41, 0x20  # bits of a zip entry's flags
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}


@dataclass
class Allowance:
    """What a source's archives have taken so far, of which ``packed`` bytes came from outside."""

    packed: int
    members: int = 0
    bytes: int = 0

    def take(self, archive: str, size: int) -> None:
        """Count ``size`` unpacked bytes.

        Raises:
            PipelineError: they are more than an archive may hold.
        """
        self.bytes += size
        if self.bytes > MOST_BYTES:
            raise PipelineError(f"{archive}: holds more than {_gib(MOST_BYTES)}, the most allowed; split it")
        if self.bytes > RATIO_COUNTS_FROM and self.bytes > LARGEST_RATIO * self.packed:
            raise PipelineError(
                f"{archive}: unpacks to more than {LARGEST_RATIO} times its size and {_gib(RATIO_COUNTS_FROM)}, as "
                "images never do, but archives made to fill disks; pack the images themselves, one by one"
            )


@dataclass
class _Inspection:
    """The members of one archive so far."""

    archive: str
    allowance: Allowance
    seen: set[str] = field(default_factory=set)

    def admit(self, name: str, size: int, fault: str | None) -> str:
        """Return a member's path, or refuse it."""
        path = safe_path(self.archive, name)
        self.allowance.members += 1
        if self.allowance.members > MOST_MEMBERS:
            raise PipelineError(f"{self.archive}: holds more than {MOST_MEMBERS:,} members, the most allowed; split it")
        if path == ".":
            fault = "has no name"
        if path in self.seen:
            fault = "is listed twice"
        if not fault and size > LARGEST_FILE and not is_archive(path):
            fault = f"has {size:,} bytes, more than {_gib(LARGEST_FILE)}"
        if fault:
            raise PipelineError(
                f"{self.archive}: the member {name!r} {fault}; allowed are plain files, each once: pack it again"
            )
        self.seen.add(path)
        return path


def safe_path(source: str, name: str) -> str:
    """Return a relative path with ``/`` between folders and no ``.`` among them.

    Raises:
        PipelineError: the name leads out of the folder that it would be unpacked to, on some system.
    """
    fault = None
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        fault = "has an absolute name"
    elif ".." in re.split(r"[/\\]", name):
        fault = "leads out of its folder by .."
    elif "\\" in name:
        fault = "has a backslash in its name, which only some systems take for a folder"
    if fault:
        raise PipelineError(
            f"{source}: the member {name!r} {fault}; allowed are names such as train/0_1.jpg: rename it"
        )
    return str(PurePosixPath(name))


def zip_members(archive: zipfile.ZipFile, name: str, allowance: Allowance) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield path and entry of each file.

    Raises:
        PipelineError: a member is refused.
    """
    inspection = _Inspection(name, allowance)
    for info in archive.infolist():
        fault = _zip_fault(info)
        if info.filename.endswith("/") and not fault:
            safe_path(name, info.filename)
            continue
        path = inspection.admit(info.filename, info.file_size, fault)
        allowance.take(name, info.file_size)
        yield path, info
    _refuse_overlaps(name, archive.infolist())


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


def _refuse_overlaps(name: str, infos: list[zipfile.ZipInfo]) -> None:
    """Python sees these itself since 3.11.8 and 3.12.2, but only where an entry is read."""
    for one, two in pairwise(sorted(infos, key=lambda info: info.header_offset)):
        header = zipfile.sizeFileHeader  # type: ignore[attr-defined]  # undocumented
        if one.header_offset + header + one.compress_size > two.header_offset:
            raise PipelineError(f"{name}: the members {one.filename!r} and {two.filename!r} overlap; pack them again")


def tar_members(archive: tarfile.TarFile, name: str, allowance: Allowance) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield path and header of each file, in the archive's order; the caller counts the bytes.

    Raises:
        PipelineError: a member is refused.
    """
    inspection = _Inspection(name, allowance)
    for member in archive:
        fault = _tar_fault(member)
        if member.isdir() and not fault:
            safe_path(name, member.name)
            continue
        yield inspection.admit(member.name, member.size, fault), member


def _tar_fault(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return f"is a {'hard ' if member.islnk() else ''}link to {member.linkname!r}"
    if member.issparse():
        return "is a sparse file"
    if not member.isdir() and not member.isreg():
        return "is a device or a pipe"
    return f"has {member.size} bytes" if member.size < 0 else None


def _gib(size: int) -> str:
    return f"{size / 2**30:g} GiB"
