"""``data/raw.zip``: the original images in one deterministic archive.

Labelled images are ``{split}/{class index}_{name}``, unlabelled ones ``{split}/{name}``; ``classes.txt`` contains one
class name per line. The folder ``unlabelled/`` has images for pseudo-labels. An unlabelled name that looks like a
labelled one gets a leading underscore. ``files.csv`` has one row per file of the source: its path there, and its entry
or the reason why it was left out.
"""

import csv
import io
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.common.files import replacing
from pipeline.common.reading import reading, restore_commands
from pipeline.errors import PipelineError
from pipeline.progress import progress

SPLITS = ("train", "valid", "test")
# Images that are in no split, and are used only if ``data.pseudo_labels`` has a label for them.
UNLABELLED = "unlabelled"
CLASSES_FILE = "classes.txt"
FILES_TABLE = "files.csv"
_FILES_COLUMNS = ("path", "entry", "reason")
LABELLED = re.compile(r"(\d+)_(.+)", re.DOTALL)
_LOOKS_LABELLED = re.compile(r"_*\d+_.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image of the archive.

    Attributes:
        entry, split: its name in the archive, and the first folder of that.
        label: the class index; None if it is unlabelled.
        id: unique in its split; the name of its file without the extension if that is.
        path: in the source.
        confidence: of a pseudo-label; None for any other label.
        offset, size, crc: the position of its header, and the size and checksum of its content.
    """

    entry: str
    split: str
    label: int | None
    id: str
    path: str
    confidence: float | None = None
    offset: int = field(default=0, compare=False)
    size: int = field(default=0, compare=False)
    crc: int = field(default=0, compare=False)


def entry_name(split: str, label: int | None, name: str) -> str:
    """Return the entry of an image with this split, class index (None: unlabelled) and file name."""
    if label is not None:
        return f"{split}/{label}_{name}"
    return f"{split}/{'_' if _LOOKS_LABELLED.fullmatch(name) else ''}{name}"


def write_raw_archive(
    path: Path,
    classes: Iterable[str],
    entries: dict[str, str],
    read: Callable[[str], bytes],
    left_out: dict[str, str] | None = None,
) -> None:
    """Write the archive with sorted entries, fixed times and permissions, uncompressed, so that it is deterministic.

    Args:
        path: the archive.
        classes: the class names in the order of their indices.
        entries: the path in the source of the image of each entry.
        read: returns the content of the image at a path.
        left_out: the reason for each other file of the source by its path.
    """
    files = [(path, entry, "") for entry, path in entries.items()]
    files += [(path, "", reason) for path, reason in (left_out or {}).items()]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(CLASSES_FILE), "".join(f"{name}\n" for name in classes))
        archive.writestr(_entry(FILES_TABLE), _as_csv([_FILES_COLUMNS, *sorted(files)]))
        for entry in progress(sorted(entries), len(entries), "download"):
            archive.writestr(_entry(entry), read(entries[entry]))


def _as_csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def read_raw_archive(path: Path) -> tuple[tuple[str, ...], list[RawImage], dict[str, str]]:
    """Read all but the images, whose content is checked when it is read.

    Returns:
        The class names; the images in the order train, valid, test, unlabelled, sorted by entry within each; and the
        reason for each file of the source that is not in the archive, by its path in the source. Bytes of such a path
        that are not UTF-8 are shown as escapes.

    Raises:
        PipelineError: the archive is missing or damaged.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        classes = tuple(archive.read(CLASSES_FILE).decode().split("\n")[:-1])
        text = archive.read(FILES_TABLE).decode("utf-8", "backslashreplace")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        paths = {row["entry"]: row["path"] for row in rows if row["entry"]}
        members = sorted(archive.infolist(), key=lambda info: info.filename)
        if [info.filename for info in members] != sorted([CLASSES_FILE, FILES_TABLE, *paths]):
            raise ValueError(f"its entries are not those of {FILES_TABLE}")
        end = path.stat().st_size
        if any(info.compress_type or info.header_offset + info.file_size > end for info in members):
            raise ValueError("an entry is not within the file")
        images = [image for split in (*SPLITS, UNLABELLED) for image in _of_split(split, members, paths)]
        return classes, images, {row["path"]: row["reason"] for row in rows if not row["entry"]}


def _of_split(split: str, members: Iterable[zipfile.ZipInfo], paths: dict[str, str]) -> list[RawImage]:
    infos = [info for info in members if info.filename.startswith(f"{split}/")]
    names = [info.filename.removeprefix(f"{split}/") for info in infos]
    ids = _ids([_stem(paths[info.filename]) for info in infos], names)
    images = []
    for info, name, id in zip(infos, names, ids, strict=True):
        match = LABELLED.fullmatch(name)
        label = int(match[1]) if match else None
        place = info.header_offset, info.file_size, info.CRC
        images.append(RawImage(info.filename, split, label, id, paths[info.filename], None, *place))
    return images


def _ids(stems: list[str], names: list[str]) -> list[str]:
    """The names of the files without their extensions; where these are not unique, those of the entries."""
    if len(set(stems)) == len(stems):
        return stems
    names = [name[1:] if name[:1] == "_" and _LOOKS_LABELLED.fullmatch(name) else name for name in names]
    stems = [_stem(name) for name in names]
    counts = Counter(stems)
    short = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
    # A name with its extension can be the stem of another one: a.jpg, a.png, a.jpg.png.
    return short if len(set(short)) == len(short) else names


def _stem(path: str) -> str:
    return PurePosixPath(path.rpartition("/")[2]).stem


class RawReader:
    """Reads images by their offsets, without the archive's table of contents, which takes a kilobyte per image."""

    _HEADER, _LENGTHS = 30, struct.Struct("<HH")  # bytes of a local header; lengths of name and extra at its end

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, os.open(path, os.O_RDONLY)

    def read(self, image: RawImage) -> bytes:
        """Return the content of an image.

        Raises:
            PipelineError: the archive is damaged at this image.
        """
        header = os.pread(self._file, self._HEADER, image.offset)
        if len(header) == self._HEADER:
            start = image.offset + self._HEADER + sum(self._LENGTHS.unpack(header[-4:]))
            content = self._content(start, image.size)
            if len(content) == image.size and zlib.crc32(content) == image.crc:
                return content
        raise PipelineError(f"{self._path}: is damaged at {image.entry}; {restore_commands(self._path)}")

    def _content(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes; one call of the system returns 2 GiB at most."""
        if start + size > os.fstat(self._file).st_size:
            return b""
        parts = []
        while size and (part := os.pread(self._file, size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)
