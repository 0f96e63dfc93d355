"""Archives inside a folder or inside an archive: which of them belong to the data set, and where their files stand."""

import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipeline.common.file_types import SPLIT_FOLDERS, archive_stem, decoration, is_archive, is_image
from pipeline.download.archive_tree import archive_tree
from pipeline.download.file_tree import FileTree, damage_told
from pipeline.errors import PipelineError, listed
from pipeline.progress import say

DEPTH = 3  # archives in archives in archives, below the outermost one


@contextmanager
def with_nested(tree: FileTree, depth: int = DEPTH) -> Iterator[FileTree]:
    """Yield a tree with the files of the archives in it, each archive a folder: ``hw3/train.zip`` is ``hw3/train/``.

    Archives are opened where the tree has no images of its own, but for a README's; beside images, and beside an
    archive that is named train, only those that are named like a split and have no folder of that name beside them.
    So a backup that someone left there adds nothing. A file that stands there twice, with one size, counts once.

    Raises:
        PipelineError: an archive cannot be read, lies too deep, or gives a file that is there with another size.
    """
    archives = sorted(path for path in tree.sizes if is_archive(path))
    images = {path for path in tree.sizes if is_image(path)}
    pictures = _pictures(images)
    chosen = _belonging(archives, images - pictures)
    if len(chosen) < len(archives):
        passed_over = listed(sorted(set(archives) - set(chosen)))
        say(f"{tree.name}: passed over {passed_over}, no part of the data set beside it")
    if not chosen:
        yield tree
        return
    if depth == 0:
        raise PipelineError(f"{tree.name}: {chosen[0]} lies more than {DEPTH} archives deep; unpack the outer ones")
    if pictures:
        say(f"{tree.name}: passed over {listed(sorted(pictures))}, no part of the data set in {listed(chosen)}")
    places = {path: (tree, path) for path in tree.sizes if path not in pictures and not is_archive(path)}
    with ExitStack() as stack:
        for path in chosen:
            name = f"{tree.name}/{path}"
            with damage_told(name):
                file = stack.enter_context(tree.open(path))
            inner = stack.enter_context(archive_tree(file, tree.sizes[path], name, tree.unpacking))
            _add(places, tree, path, stack.enter_context(with_nested(inner, depth - 1)))
        sizes = {path: origin.sizes[inner] for path, (origin, inner) in places.items()}
        yield FileTree(tree.name, sizes, lambda path: places[path][0].open(places[path][1]), tree.unpacking)


def _pictures(images: set[str]) -> set[str]:
    """Those images that are a README's, should archives hold the data set: also a single one, the cover."""
    found = decoration(images)
    rest = images - found
    return images if len(rest) == 1 and not any(_split(folder) for path in rest for folder in _folders(path)) else found


def _belonging(archives: list[str], images: set[str]) -> list[str]:
    """Choose the archives that belong to a data set with these loose images."""
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


def _add(places: dict[str, tuple[FileTree, str]], outer: FileTree, archive: str, inner: FileTree) -> None:
    """Give the files of an archive their places in the tree that it lies in."""
    stem = archive_stem(archive)
    prefix = _own_folder(posixpath.basename(stem), [path for path in inner.sizes if is_image(path)])
    for path, size in inner.sizes.items():
        if is_archive(path):
            continue
        place = f"{stem}/{path.removeprefix(prefix)}"
        other, name = places.setdefault(place, (inner, path))
        if other.sizes[name] != size:
            raise PipelineError(
                f"{outer.name}: {place} has {other.sizes[name]:,} bytes in {other.name} and {size:,} bytes in "
                f"{inner.name}; remove the wrong one"
            )


def _own_folder(stem: str, images: list[str]) -> str:
    """Return the folder, with those above, that holds all images and says the same as the archive's own name."""
    parts = posixpath.commonpath([posixpath.dirname(path) for path in images]).split("/") if images else []
    for depth, part in enumerate(parts, start=1):
        if part.lower() == stem.lower() or (_split(part) and _split(part) == _split(stem)):
            return "/".join(parts[:depth]) + "/"
    return ""
