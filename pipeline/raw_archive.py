"""``data/raw.zip``: the images as they came, in one deterministic archive.

Labelled images are ``{split}/{class index}_{name}``, unlabelled ones ``{split}/{name}``; ``classes.txt`` holds
one class name a line. An unlabelled name that would read as labelled gets an underscore in front.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.files import replacing
from pipeline.progress import progress

SPLITS = ("train", "valid", "test")
CLASSES_FILE = "classes.txt"
LABELLED = re.compile(r"(\d+)_(.+)", re.DOTALL)
_LOOKS_LABELLED = re.compile(r"_*\d+_.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image of the archive: its entry, split, class index (None: unlabelled) and id (unique in its split)."""

    entry: str
    split: str
    label: int | None
    id: str


def entry_name(split: str, label: int | None, name: str) -> str:
    """The entry of an image: its split, class index (None: unlabelled) and file name."""
    if label is not None:
        return f"{split}/{label}_{name}"
    return f"{split}/{'_' if _LOOKS_LABELLED.fullmatch(name) else ''}{name}"


def write_raw_archive(
    path: Path, classes: Iterable[str], entries: dict[str, str], read: Callable[[str], bytes]
) -> None:
    """Write the archive: sorted entries, fixed times and rights, stored; the same images give the same bytes.

    Args:
        path: of the archive.
        classes: the class names in the order of their indices.
        entries: for each entry, what ``read`` takes to give its bytes.
        read: gives the bytes of an image.
    """
    with replacing(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(CLASSES_FILE), "".join(f"{name}\n" for name in classes))
        for entry in progress(sorted(entries), len(entries), "download"):
            archive.writestr(_entry(entry), read(entries[entry]))


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def read_raw_archive(archive: zipfile.ZipFile) -> tuple[tuple[str, ...], list[RawImage]]:
    """List the class names and the images, splits in the order train, valid, test and sorted by entry within."""
    classes = tuple(archive.read(CLASSES_FILE).decode().split("\n")[:-1])
    entries = [name for name in archive.namelist() if name != CLASSES_FILE]
    images = [image for split in SPLITS for image in _of_split(split, entries)]
    return classes, images


def _of_split(split: str, entries: Iterable[str]) -> list[RawImage]:
    """The images of one split; an id is the file's name without its ending, or with it where two would be equal."""
    found = []
    for entry in sorted(entry for entry in entries if entry.startswith(f"{split}/")):
        name = entry.removeprefix(f"{split}/")
        match = LABELLED.fullmatch(name)
        label = int(match[1]) if match else None
        found.append((entry, label, name[1:] if match is None and _LOOKS_LABELLED.fullmatch(name) else name))
    ids = _ids([name for _, _, name in found])
    return [RawImage(entry, split, label, id) for (entry, label, _), id in zip(found, ids, strict=True)]


def _ids(names: list[str]) -> list[str]:
    stems = [PurePosixPath(name).stem for name in names]
    counts = Counter(stems)
    short = [stem if counts[stem] == 1 else name for name, stem in zip(names, stems, strict=True)]
    # A name kept whole can be another one's stem: a.jpg, a.png, a.jpg.png.
    return short if len(set(short)) == len(short) else names
