"""Recognises the layouts in which people keep labelled images, from the paths alone.

There are two layouts, each with or without folders for the splits, and inside any number of enclosing folders:

* that of the homework: ``train/3_12.jpg``, with the class index before the first underscore;
* one folder per class, like torchvision's ``ImageFolder``: ``train/cat/12.jpg``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.common.file_types import IMAGE_ENDINGS, is_image, is_junk
from pipeline.common.raw_archive import CLASSES_FILE, LABELLED
from pipeline.errors import PipelineError, listed
from pipeline.progress import say

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing", "evaluation"), "test"),
}
# Folders with pictures for a README if there is a dataset beside them; with more pictures they are one themselves.
README_FOLDERS = {"assets", "asset", "doc", "docs", "figures", "screenshots"}
MOST_README_PICTURES = 20

Parts = tuple[str, ...]
_ALLOWED = "allowed are {class}_{name}.jpg or one folder per class, with or without train/, valid/ and test/ above"


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        path: its path in the source, for reading it and for messages.
        name: its file name, with extension and without a class index; folders below the class are joined by ``__``.
        split: ``train``, ``valid`` or ``test``; None if the source has no splits.
        label: the index of its class; None if it is unlabelled.
        group: images of one group, such as photos of one person, are in one split; None if it is in no group.
    """

    path: str
    name: str
    split: str | None
    label: int | None
    group: str | None = None


@dataclass(frozen=True)
class ImageSet:
    """The names of the classes of a source, its images, sorted by path, and a function that reads one by its path."""

    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    read: Callable[[str], bytes]


def read_layout(
    source: str, paths: Iterable[str], read: Callable[[str], bytes], classes: tuple[str, ...] | None
) -> ImageSet:
    """Find the images of a source and their labels.

    Args:
        source: what messages call the source.
        paths: all files, relative, with ``/`` between folders.
        read: returns the content of the file at a path.
        classes: ``data.classes``: the class names in order; None takes them from the source.

    Raises:
        PipelineError: no images, fewer than two classes, or neither of the two layouts.
    """
    files = sorted(path for path in paths if not is_junk(path))
    unprintable = [path for path in files if not path.isprintable()]
    if unprintable:
        raise PipelineError(f"{source}: the name {unprintable[0]!r} is not printable UTF-8; rename the file")
    images = _without_surroundings(source, [path for path in files if is_image(path)])
    if not images:
        raise PipelineError(f"{source}: contains no images; allowed endings are {', '.join(sorted(IMAGE_ENDINGS))}")
    depth = _enclosing_folders([PurePosixPath(path).parts for path in images])
    by_split = _by_split(source, {path: PurePosixPath(path).parts[depth:] for path in images})
    names = classes or _named_classes(files, read)
    if any(len(parts) == 1 for split in ("train", None) for parts in by_split.get(split, {}).values()):
        labelled = _by_prefix(source, by_split, len(names) if names else None)
        names = names or tuple(str(index) for index in range(1 + max(image.label or 0 for image in labelled)))
    else:
        names, labelled = _by_folder(source, by_split, names)
    present = {image.label for image in labelled if image.label is not None}
    if len(present) < 2:
        raise PipelineError(f"{source}: contains one class ({names[min(present)]}), needs two or more; {_ALLOWED}")
    return ImageSet(names, tuple(labelled), read)


def readme_pictures(images: Iterable[str]) -> set[str]:
    """Return those images that illustrate a README if there is a dataset beside them: few, in folders named so."""
    found = {path for path in images if any(part.lower() in README_FOLDERS for part in path.split("/")[:-1])}
    return found if len(found) <= MOST_README_PICTURES else set()


def _without_surroundings(source: str, images: list[str]) -> list[str]:
    """If one folder contains train and valid or test, leave out pictures outside it, such as those of a README.

    Other folders of images next to the splits stay: one may be a split with a misspelt name, which is an error.
    """
    splits = defaultdict(set)
    for path in images:
        parts = PurePosixPath(path).parts
        for depth, part in enumerate(parts[:-1]):
            if part.lower() in SPLIT_FOLDERS:
                splits[parts[:depth]].add(SPLIT_FOLDERS[part.lower()])
    folders = [folder for folder, found in splits.items() if "train" in found and len(found) > 1]
    if len(folders) != 1:
        return images
    above = "".join(f"{part}/" for part in folders[0])
    inside = [path.removeprefix(above) for path in images if path.startswith(above)]
    others = [path for path in inside if path.split("/")[0].lower() not in SPLIT_FOLDERS]
    pictures = {above + path for path in others if "/" not in path} | {above + path for path in readme_pictures(others)}
    pictures |= {path for path in images if not path.startswith(above) and not _in_split(path)}
    if pictures:
        say(f"{source}: ignored images outside {above or 'the folders of the splits'}: {listed(sorted(pictures), 1)}")
    return [path for path in images if path not in pictures]


def _in_split(path: str) -> bool:
    return any(part.lower() in SPLIT_FOLDERS for part in PurePosixPath(path).parts[:-1])


def _enclosing_folders(images: list[Parts]) -> int:
    """How many folders contain all images without a meaning: neither a split nor the only class."""
    depth = 0
    while all(len(parts) > depth + 1 for parts in images):
        folders = {parts[depth] for parts in images}
        deeper = all(len(parts) > depth + 2 for parts in images)
        flat_labels = all(len(parts) == depth + 2 and LABELLED.fullmatch(parts[-1]) for parts in images)
        if len(folders) > 1 or folders.pop().lower() in SPLIT_FOLDERS or not (deeper or flat_labels):
            break
        depth += 1
    return depth


def _by_split(source: str, images: dict[str, Parts]) -> dict[str | None, dict[str, Parts]]:
    """Group the paths by split, and remove the split's folder from their parts."""
    others = sorted({parts[0] for parts in images.values() if len(parts) == 1 or parts[0].lower() not in SPLIT_FOLDERS})
    grouped: dict[str | None, dict[str, Parts]] = defaultdict(dict)
    for path, parts in images.items():
        if len(parts) > 1 and parts[0].lower() in SPLIT_FOLDERS:
            grouped[SPLIT_FOLDERS[parts[0].lower()]][path] = parts[1:]
    if not grouped:
        return {None: images}
    if others:
        raise PipelineError(
            f"{source}: {listed(others)} is next to the folders of the splits; allowed there are "
            f"{', '.join(SPLIT_FOLDERS)}; move it away"
        )
    if "train" not in grouped:
        raise PipelineError(f"{source}: has folders for {listed(grouped)} but none for train; add train/")
    return grouped


def _named_classes(files: list[str], read: Callable[[str], bytes]) -> tuple[str, ...] | None:
    """The names in the outermost ``classes.txt``, one per line; None if there is no such file."""
    found = [path for path in files if PurePosixPath(path).name == CLASSES_FILE]
    if not found:
        return None
    path = min(found, key=lambda path: (path.count("/"), path))
    try:
        lines = read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not UTF-8 text; save it as UTF-8, with one class name per line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PipelineError(f"{path}: contains the class {twice[0]!r} twice; make the names unique")
    return names


def _by_prefix(source: str, by_split: dict[str | None, dict[str, Parts]], count: int | None) -> list[SourceImage]:
    """Label ``3_12.jpg`` as class 3; a test split with names of another form is unlabelled."""
    images = []
    for split, members in by_split.items():
        nested = [path for path, parts in members.items() if len(parts) > 1]
        matches = {path: LABELLED.fullmatch(parts[0]) for path, parts in members.items() if len(parts) == 1}
        unmatched = [path for path, match in matches.items() if not match]
        if split == "test" and (len(nested) == len(members) or (unmatched and not nested)):
            images += [SourceImage(path, "__".join(parts), split, None) for path, parts in members.items()]
            continue
        if nested:
            raise PipelineError(f"{source}: {nested[0]} is in a folder and others next to it are not; {_ALLOWED}")
        if unmatched:
            raise PipelineError(f"{source}: {unmatched[0]} has no class index before an underscore; {_ALLOWED}")
        images += [SourceImage(path, match[2], split, int(match[1])) for path, match in matches.items() if match]
    labelled = [(image.label, image) for image in images if image.label is not None]
    label, highest = max(labelled, key=lambda pair: pair[0])
    # Dates, as in 20230101_1.jpg, are not class indices.
    if count is None and label >= len(labelled) and len({label for label, _ in labelled}) > 1:
        raise PipelineError(
            f"{source}: {highest.path} would be of class {label}, but there are only {len(labelled)} images; {_ALLOWED}"
        )
    beyond = next((image for label, image in labelled if count is not None and label >= count), None)
    if beyond:
        raise PipelineError(
            f"{source}: {beyond.path} is of class {beyond.label}, but {count} classes are named "
            f"(0 to {(count or 0) - 1}); name them all in {CLASSES_FILE} or data.classes"
        )
    return images


def _by_folder(
    source: str, by_split: dict[str | None, dict[str, Parts]], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[SourceImage]]:
    """Label ``cat/12.jpg`` as class ``cat``; a test split without the folders of the classes is unlabelled."""
    flat = [path for split in by_split if split != "test" for path, parts in by_split[split].items() if len(parts) == 1]
    if flat:
        raise PipelineError(f"{source}: {flat[0]} is in no folder of a class; {_ALLOWED}")
    folders = {parts[0] for split, members in by_split.items() if split != "test" for parts in members.values()}
    index = _folder_indices(source, folders, names)
    images = []
    for split, members in by_split.items():
        unlabelled = split == "test" and not any(len(parts) > 1 and parts[0] in index for parts in members.values())
        for path, parts in members.items():
            if unlabelled:
                images.append(SourceImage(path, "__".join(parts), split, None))
            elif len(parts) == 1 or parts[0] not in index:
                raise PipelineError(f"{source}: {path} is in no folder of a training class ({listed(sorted(index))})")
            else:
                images.append(SourceImage(path, "__".join(parts[1:]), split, index[parts[0]]))
    return names or tuple(sorted(index, key=lambda folder: index[folder])), images


def _folder_indices(source: str, folders: set[str], names: tuple[str, ...] | None) -> dict[str, int]:
    """The class index of each folder: by its name, or by its number if all folders are numbers."""
    numbers = all(folder.isascii() and folder.isdigit() for folder in folders)
    if not names:
        ordered = sorted(folders, key=(lambda folder: (int(folder), folder)) if numbers else None)
        return {folder: index for index, folder in enumerate(ordered)}
    if folders <= set(names):
        return {name: index for index, name in enumerate(names)}
    if numbers and max(int(folder) for folder in folders) < len(names):
        return {folder: int(folder) for folder in folders}
    # Of numbers the highest, which is beyond the names.
    unknown = max(folders - set(names), key=lambda folder: (int(folder) if folder.isdigit() else 0, folder))
    raise PipelineError(
        f"{source}: the folder {unknown} is none of the named classes ({listed(names)}); "
        f"name every folder in {CLASSES_FILE} or data.classes"
    )
