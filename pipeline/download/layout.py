"""Recognises how people lay out labelled images, from the paths alone.

Two layouts, each with or without folders for the splits, and below any number of enclosing folders:

* the homework's: ``train/3_12.jpg``, the class index before the first underscore;
* a folder a class, as torchvision's ``ImageFolder`` has it: ``train/cat/12.jpg``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.common.file_types import IMAGE_ENDINGS, SPLIT_FOLDERS, decoration, is_image, is_junk
from pipeline.common.raw_archive import CLASSES_FILE, LABELLED
from pipeline.errors import PipelineError, listed
from pipeline.progress import say

Parts = tuple[str, ...]
_BOTH_LAYOUTS = "allowed are {class}_{name}.jpg or a folder a class, with or without train/, valid/ and test/ above"


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        path: its path in the source, to read it by and to name it in messages.
        name: its file name, with ending and without a class; folders below the class are joined by ``__``.
        split: ``train``, ``valid`` or ``test``; None where the source does not say.
        label: the index of its class; None where it is unlabelled.
    """

    path: str
    name: str
    split: str | None
    label: int | None


@dataclass(frozen=True)
class ImageSet:
    """The images of a source, sorted by path, the names of their classes, and how to read the bytes of one."""

    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    read: Callable[[str], bytes]


def read_layout(
    source: str, paths: Iterable[str], read: Callable[[str], bytes], classes: tuple[str, ...] | None
) -> ImageSet:
    """Turn the paths of a source into labelled images.

    Args:
        source: what to call the source in messages.
        paths: every file, relative, with ``/`` between folders.
        read: gives the bytes of a path.
        classes: ``data.classes``: the class names in order; None takes them from the source.

    Raises:
        PipelineError: no images, fewer than two classes, or a layout that is neither of the two.
    """
    files = sorted(path for path in paths if not is_junk(path))
    strange = [path for path in files if not path.isprintable()]
    if strange:
        raise PipelineError(f"{source}: the name {strange[0]!r} is not UTF-8 or cannot be printed; rename the file")
    images = _of_data_set(source, [path for path in files if is_image(path)])
    if not images:
        raise PipelineError(f"{source}: holds no images; allowed endings are {', '.join(sorted(IMAGE_ENDINGS))}")
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
        raise PipelineError(
            f"{source}: holds one class ({names[min(present)]}); allowed are two or more, {_BOTH_LAYOUTS}"
        )
    return ImageSet(names, tuple(labelled), read)


def _of_data_set(source: str, images: list[str]) -> list[str]:
    """Leave out what stands around the one folder that holds both train and valid or test, such as a README's pictures.

    Beside the splits' folders stay other folders with images: one may be a split with a wrong name, which is told.
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
    beside = [path for path in inside if path.split("/")[0].lower() not in SPLIT_FOLDERS]
    pictures = {above + path for path in beside if "/" not in path} | {above + path for path in decoration(beside)}
    pictures |= {path for path in images if not path.startswith(above) and not _names_split(path)}
    if pictures:
        around = above or "the splits' folders"
        say(f"{source}: passed over what lies outside {around}: {listed(sorted(pictures), 1)}")
    return [path for path in images if path not in pictures]


def _names_split(path: str) -> bool:
    return any(part.lower() in SPLIT_FOLDERS for part in PurePosixPath(path).parts[:-1])


def _enclosing_folders(images: list[Parts]) -> int:
    """How many folders enclose all images without saying anything: neither a split nor the only class."""
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
    """Group the paths by split; the split's folder is cut off the parts."""
    is_split = {path: len(parts) > 1 and parts[0].lower() in SPLIT_FOLDERS for path, parts in images.items()}
    if not any(is_split.values()):
        return {None: images}
    strangers = sorted({images[path][0] for path, known in is_split.items() if not known})
    if strangers:
        raise PipelineError(
            f"{source}: {listed(strangers)} stands beside the splits' folders; allowed there are "
            f"{', '.join(SPLIT_FOLDERS)}; move it away"
        )
    grouped: dict[str | None, dict[str, Parts]] = defaultdict(dict)
    for path, parts in images.items():
        grouped[SPLIT_FOLDERS[parts[0].lower()]][path] = parts[1:]
    if "train" not in grouped:
        raise PipelineError(f"{source}: has folders for {listed(grouped)} but none for train; add train/")
    return grouped


def _named_classes(files: list[str], read: Callable[[str], bytes]) -> tuple[str, ...] | None:
    """The names in the shallowest ``classes.txt``, one a line, None where there is no such file."""
    found = [path for path in files if PurePosixPath(path).name == CLASSES_FILE]
    if not found:
        return None
    path = min(found, key=lambda path: (path.count("/"), path))
    try:
        lines = read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not UTF-8 text; save it as UTF-8, one class name a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PipelineError(f"{path}: names the class {twice[0]!r} twice; make the names differ")
    return names


def _by_prefix(source: str, by_split: dict[str | None, dict[str, Parts]], count: int | None) -> list[SourceImage]:
    """Label ``3_12.jpg`` as class 3; a test split whose names are not of that form is unlabelled."""
    images = []
    for split, members in by_split.items():
        if split == "test" and all(len(parts) > 1 for parts in members.values()):
            images += [SourceImage(path, "__".join(parts), split, None) for path, parts in members.items()]
            continue
        nested = [path for path, parts in members.items() if len(parts) > 1]
        if nested:
            raise PipelineError(f"{source}: {nested[0]} lies in a folder and others beside it do not; {_BOTH_LAYOUTS}")
        matches = {path: LABELLED.fullmatch(parts[0]) for path, parts in members.items()}
        plain = [path for path, match in matches.items() if not match]
        if plain and split == "test":
            images += [SourceImage(path, parts[0], split, None) for path, parts in members.items()]
            continue
        if plain:
            raise PipelineError(f"{source}: {plain[0]} has no class index before an underscore; {_BOTH_LAYOUTS}")
        for path, match in matches.items():
            assert match is not None
            images.append(SourceImage(path, match[2], split, int(match[1])))
    labelled = [image for image in images if image.label is not None]
    highest = max(labelled, key=lambda image: image.label or 0)
    several = len({image.label for image in labelled}) > 1
    # Dates such as 20230101_1.jpg are no class indices.
    if several and count is None and (highest.label or 0) >= len(labelled):
        raise PipelineError(
            f"{source}: {highest.path} would be of class {highest.label}, but there are only {len(labelled)} images; "
            f"{_BOTH_LAYOUTS}"
        )
    over = [image for image in images if image.label is not None and count is not None and image.label >= count]
    if over:
        raise PipelineError(
            f"{source}: {over[0].path} is of class {over[0].label}, but {count} classes are named "
            f"(0 to {(count or 0) - 1}); name them all in {CLASSES_FILE} or data.classes"
        )
    return images


def _by_folder(
    source: str, by_split: dict[str | None, dict[str, Parts]], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[SourceImage]]:
    """Label ``cat/12.jpg`` as class ``cat``; a test split without the classes' folders is unlabelled."""
    flat = [path for split in by_split if split != "test" for path, parts in by_split[split].items() if len(parts) == 1]
    if flat:
        raise PipelineError(f"{source}: {flat[0]} lies in no class's folder; {_BOTH_LAYOUTS}")
    folders = {parts[0] for split, members in by_split.items() if split != "test" for parts in members.values()}
    index = _folder_indices(source, folders, names)
    images = []
    for split, members in by_split.items():
        unlabelled = split == "test" and not any(len(parts) > 1 and parts[0] in index for parts in members.values())
        for path, parts in members.items():
            if unlabelled:
                images.append(SourceImage(path, "__".join(parts), split, None))
            elif len(parts) == 1 or parts[0] not in index:
                raise PipelineError(f"{source}: {path} lies in no folder of a training class ({listed(sorted(index))})")
            else:
                images.append(SourceImage(path, "__".join(parts[1:]), split, index[parts[0]]))
    return names or tuple(sorted(index, key=lambda folder: index[folder])), images


def _stranger(folders: set[str], names: tuple[str, ...]) -> str:
    """A folder that is none of the named classes: of numbers the highest, which is beyond the names."""
    return max(folders - set(names), key=lambda folder: (int(folder) if folder.isdigit() else 0, folder))


def _folder_indices(source: str, folders: set[str], names: tuple[str, ...] | None) -> dict[str, int]:
    """The class index of each folder: by its name, or by its number where all folders are numbers."""
    numbers = all(folder.isascii() and folder.isdigit() for folder in folders)
    if names and folders <= set(names):
        return {name: index for index, name in enumerate(names)}
    if names and numbers and max(int(folder) for folder in folders) < len(names):
        return {folder: int(folder) for folder in folders}
    if names:
        raise PipelineError(
            f"{source}: the folder {_stranger(folders, names)} is none of the named classes ({listed(names)}); "
            f"name every folder in {CLASSES_FILE} or data.classes"
        )
    ordered = sorted(folders, key=(lambda folder: (int(folder), folder)) if numbers else None)
    return {folder: index for index, folder in enumerate(ordered)}
