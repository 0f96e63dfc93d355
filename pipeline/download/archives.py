"""Zips and tars as trees of files, and trees in which the archives have become folders; nothing is unpacked to disk
under a name that an archive chose."""

import bz2
import gzip
import lzma
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BufferedIOBase
from typing import IO

from pipeline.common.file_types import HEAD, Kind, archive_stem, describe, is_archive, kind_of
from pipeline.download.layout import SPLIT_FOLDERS, readme_pictures
from pipeline.download.safety import Quota, tar_members, zip_members
from pipeline.download.trees import FileTree, Sorter, Unpacking, empty_folders, reporting_damage
from pipeline.errors import PipelineError

CHUNK = 2**20  # bytes
DEPTH = 3  # archives in archives in archives, inside the outermost one
_DECOMPRESSORS: dict[Kind | None, Callable[[IO[bytes]], BufferedIOBase]] = {
    Kind.GZIP: gzip.open,
    Kind.BZIP2: bz2.open,
    Kind.XZ: lzma.open,
}


@contextmanager
def archive_tree(file: IO[bytes], size: int, name: str) -> Iterator[FileTree]:
    """Yield the files in an archive of ``size`` bytes, which messages call ``name``.

    Its format is recognised by its content, not by its name. The caller closes ``file``.

    Raises:
        PipelineError: it is neither a zip nor a tar, is damaged, or has a member that is refused (see ``safety``).
    """
    with Unpacking(Quota(size)) as unpacking:
        yield _tree(file, name, unpacking)


def _tree(file: IO[bytes], name: str, unpacking: Unpacking) -> FileTree:
    with reporting_damage(name):
        if isinstance(file, zipfile.ZipExtFile):  # seeking backwards in it would start from the beginning
            file = unpacking.copy(iter(partial(file.read, CHUNK), b""), name)
        head = file.read(HEAD)
        file.seek(0)
        kind = kind_of(head)
        if kind is Kind.ZIP:
            return _zip_tree(file, name, unpacking)
        if kind in _DECOMPRESSORS:
            return _tar_tree(_decompressed(file, name, unpacking, _DECOMPRESSORS[kind]), name, unpacking)
        if _is_tar(head):
            return _tar_tree(file, name, unpacking)
        # A zip may begin with a program that unpacks it. Checked last, since a tar that ends with a zip looks like one.
        if zipfile.is_zipfile(file):
            return _zip_tree(file, name, unpacking)
    found = describe(head)
    is_found = f"is {found}, and neither" if found else "is neither"
    raise PipelineError(f"{name} {is_found} a zip nor a tar; fetch it again, or repack the images as one of them")


def _zip_tree(file: IO[bytes], name: str, unpacking: Unpacking) -> FileTree:
    archive, sorter, members = zipfile.ZipFile(file), Sorter(), {}
    for path, info in zip_members(archive, name, unpacking.quota):
        if sorter.takes(path, lambda info=info: archive.open(info).read(HEAD)):  # type: ignore[misc]
            members[path] = info
    sizes = {path: info.file_size for path, info in members.items()}
    empty = empty_folders(info.filename for info in archive.infolist())
    return FileTree(
        name,
        sizes,
        lambda path: archive.open(members[path]),
        frozenset(sorter.recognised),
        sorter.left_out,
        empty,
        unpacking,
    )


def _tar_tree(file: IO[bytes], name: str, unpacking: Unpacking) -> FileTree:
    # The headers themselves take about a kilobyte per member.
    places = {path: (member.offset_data, member.size) for path, member in tar_members(file, name, unpacking.quota)}
    archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the members are read later

    def open_member(path: str) -> IO[bytes]:
        member = tarfile.TarInfo(path)
        member.offset_data, member.size = places[path]
        content = archive.extractfile(member)
        assert content is not None
        return content

    sorter, sizes = Sorter(), {}
    for path, (_, size) in places.items():
        if sorter.takes(path, lambda path=path: open_member(path).read(HEAD)):  # type: ignore[misc]
            sizes[path] = size
    return FileTree(name, sizes, open_member, frozenset(sorter.recognised), sorter.left_out, unpacking=unpacking)


def _decompressed(
    file: IO[bytes], name: str, unpacking: Unpacking, decompress: Callable[[IO[bytes]], BufferedIOBase]
) -> IO[bytes]:
    """Return a copy of a compressed tar that can be read in any order."""
    if not _is_tar(decompress(file).read(tarfile.BLOCKSIZE)):
        raise PipelineError(f"{name} is compressed, but not a tar; repack the images as a zip or a tar")
    file.seek(0)
    stream, size = decompress(file), 0

    def chunks() -> Iterator[bytes]:
        nonlocal size
        while chunk := stream.read(CHUNK):
            size += len(chunk)
            unpacking.quota.check(
                name, size
            )  # so that a bomb stops early; the members are counted when they are listed
            yield chunk

    return unpacking.copy(chunks(), name)


def _is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a member, or with the zeros of an empty tar."""
    block = head[: tarfile.BLOCKSIZE]
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return block == bytes(tarfile.BLOCKSIZE)
    return True


@contextmanager
def with_archives(tree: FileTree) -> Iterator[FileTree]:
    """Yield a tree in which the dataset's archives are folders: ``hw3/train.zip`` becomes ``hw3/train/``.

    All archives are opened if there are no images beside them except a README's. Otherwise, or if one of the archives
    is named train, only those are opened that are named like a split and have no folder of that split beside them, so
    that a forgotten backup adds nothing. A file that is found twice with the same size counts once.

    Raises:
        PipelineError: an archive cannot be read or is nested too deeply, or a file is found with two sizes.
    """
    packed = sum(size for path, size in tree.sizes.items() if is_archive(path))
    with tree.unpacking or Unpacking(Quota(packed)) as unpacking:
        yield _expanded(tree, DEPTH, unpacking)


def _expanded(tree: FileTree, depth: int, unpacking: Unpacking) -> FileTree:
    archives = sorted(path for path in tree.sizes if is_archive(path))
    images = {path for path in tree.sizes if tree.is_image(path)}
    pictures = _readme_pictures(images)
    chosen = _chosen(archives, images - pictures)
    left_out = tree.left_out | dict.fromkeys(set(archives) - set(chosen), "an archive outside the dataset")
    if not chosen:
        sizes = {path: size for path, size in tree.sizes.items() if path not in left_out}
        return replace(tree, sizes=sizes, left_out=left_out)
    if depth == 0:
        raise PipelineError(f"{tree.name}: {chosen[0]} is more than {DEPTH} archives deep; unpack the outer ones")
    left_out |= dict.fromkeys(pictures, "a picture outside the dataset")
    places = {path: (tree, path) for path in tree.sizes if path not in pictures and not is_archive(path)}
    recognised, empty = set(tree.recognised), set(tree.empty)
    for path in chosen:
        name = f"{tree.name}/{path}"
        with reporting_damage(name):
            file = unpacking.enter_context(tree.open(path))
        inner = _expanded(_tree(file, name, unpacking), depth - 1, unpacking)
        place = _add(places, tree, path, inner)
        recognised |= {place(path) for path in inner.recognised}
        empty |= {place(path) for path in inner.empty}
        left_out |= {place(path): reason for path, reason in inner.left_out.items()}
    sizes = {path: origin.sizes[inner] for path, (origin, inner) in places.items()}
    return FileTree(
        tree.name,
        sizes,
        lambda path: places[path][0].open(places[path][1]),
        frozenset(recognised),
        left_out,
        frozenset(empty),
        unpacking,
    )


def _readme_pictures(images: set[str]) -> set[str]:
    """Those of the loose images that illustrate a README if archives contain the dataset; also a single cover image."""
    found = readme_pictures(images)
    rest = images - found
    return images if len(rest) == 1 and not any(_split(folder) for path in rest for folder in _folders(path)) else found


def _chosen(archives: list[str], images: set[str]) -> list[str]:
    """The archives that belong to a dataset with these loose images."""
    folders = {folder for path in images for folder in _folders(path)}
    splits = {(posixpath.dirname(folder), _split(folder)) for folder in folders}
    stems = {path: archive_stem(path) for path in archives}
    named = [
        path for path, stem in stems.items() if _split(stem) and (posixpath.dirname(stem), _split(stem)) not in splits
    ]
    return named if images or any(_split(stems[path]) == "train" for path in named) else archives


def _split(folder: str) -> str | None:
    return SPLIT_FOLDERS.get(posixpath.basename(folder).lower())


def _folders(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _add(
    places: dict[str, tuple[FileTree, str]], outer: FileTree, archive: str, inner: FileTree
) -> Callable[[str], str]:
    """Add the files of an archive to the places of the tree that contains it; return a function from path to place."""
    stem = archive_stem(archive)
    prefix = _repeated_folder(posixpath.basename(stem), [path for path in inner.sizes if inner.is_image(path)])

    def place(path: str) -> str:
        return f"{stem}/{path.removeprefix(prefix)}"

    for path, size in inner.sizes.items():
        other, name = places.setdefault(place(path), (inner, path))
        if other.sizes[name] != size:
            raise PipelineError(
                f"{outer.name}: {place(path)} has {other.sizes[name]:,} bytes in {other.name} and {size:,} bytes in "
                f"{inner.name}; remove the wrong one"
            )
    return place


def _repeated_folder(stem: str, images: list[str]) -> str:
    """The folder around all images that repeats the name of the archive, with those above it; "" if there is none."""
    parts = posixpath.commonpath([posixpath.dirname(path) for path in images]).split("/") if images else []
    for depth, part in enumerate(parts, start=1):
        if part.lower() == stem.lower() or (_split(part) and _split(part) == _split(stem)):
            return "/".join(parts[:depth]) + "/"
    return ""
