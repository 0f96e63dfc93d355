"""Recognises the layouts in which people keep labelled images, from the paths alone.

There are two layouts, each with or without folders for the splits, and inside any number of enclosing folders:

* that of the homework: ``train/3_12.jpg``, with the class index before the first underscore;
* one folder per class, like torchvision's ``ImageFolder``: ``train/cat/12.jpg``.
"""

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.common.file_types import IMAGE_ENDINGS, is_text, junk_reason, reasons
from pipeline.common.raw_archive import CLASSES_FILE, LABELLED, UNLABELLED
from pipeline.common.text import is_printable, listed
from pipeline.download.trees import FileTree
from pipeline.errors import PipelineError
from pipeline.progress import say

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing", "evaluation"), "test"),
}
# 20,000 names of 50 bytes are a megabyte.
MAX_CLASSES_BYTES = 16 * 1024**2
# Folders with pictures for a README if there is a dataset beside them; with more pictures they are one themselves.
README_FOLDERS = {"assets", "asset", "doc", "docs", "figures", "screenshots"}
MOST_README_PICTURES = 20
# What programs write for a missing label; "none" and "null" may be classes.
MISSING = {"nan", "<na>"}

# As in homework 3 of 2021: training/labeled/00/..., training/unlabeled/00/...; the latter may also be next to train/.
LABELLED_FOLDERS, UNLABELLED_FOLDERS = {"labeled", "labelled"}, {"unlabeled", "unlabelled"}

Parts = tuple[str, ...]
BySplit = dict[str | None, dict[str, Parts]]
_ALLOWED = (
    "allowed are {class}_{name}.jpg or one folder per class, with or without train/, valid/ and test/ above, or a "
    "table, data.labels"
)


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        path: its path in the source, for reading it and for messages.
        name: its file name, with extension and without a class index; folders below the class are joined by ``__``.
        split: ``train``, ``valid``, ``test`` or ``unlabelled``; None if the source has no splits.
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
    """The images of a source.

    Attributes:
        classes: the class names in the order of their indices.
        images: sorted by path.
        read: returns the content of the image at a path.
        left_out: the reason for each other file of the source, by its path.
    """

    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    read: Callable[[str], bytes]
    left_out: dict[str, str] = field(default_factory=dict)


def read_layout(
    source: str, tree: FileTree, classes: tuple[str, ...] | None = None, class_depth: int | None = None
) -> ImageSet:
    """Find the images of a source and their labels.

    Args:
        source: what messages call the source.
        tree: its files.
        classes: ``data.classes``: the class names in order; None takes them from the source.
        class_depth: ``data.class_depth``: how many folders deep the classes are; None finds it out.

    Raises:
        PipelineError: no images, fewer than two classes, neither of the two layouts, or an image whose class is not
            one of the training images.
    """
    paths = image_paths(source, tree)
    outside = _outside_splits(paths)
    paths = [path for path in paths if path not in outside]
    depth = _enclosing_folders([PurePosixPath(path).parts for path in paths])
    above = PurePosixPath(paths[0]).parts[:depth]
    by_split = _by_split(source, {path: PurePosixPath(path).parts[depth:] for path in paths})
    empty = _folders_without_images(tree, above)
    _check_split_folders(source, tree, above, by_split, empty)
    unlabelled = _take_unlabelled(by_split)
    has_indices = class_depth is None and any(len(parts) == 1 for parts in _training(by_split).values())
    named = class_names(source, tree, classes)
    if has_indices:
        names, images = _by_prefix(source, by_split, named.in_order())
    else:
        class_depth = _class_depth(source, _training(by_split), class_depth, "/".join(above))
        names, images = _by_folder(source, by_split, class_depth, named)
        _warn_of_empty_folders(source, by_split, class_depth, empty)
    _check_classes(source, names, images)
    warn_of_untrained(source, names, images)
    left_out = tree.left_out | dict.fromkeys(outside, "a picture outside the folders of the splits")
    left_out |= texts_left_out(tree, named.file)
    images += unlabelled_images(unlabelled, UNLABELLED)
    return ImageSet(names, tuple(sorted(images, key=lambda image: image.path)), tree.read, left_out)


def image_paths(source: str, tree: FileTree) -> list[str]:
    """The paths of all images, sorted.

    Raises:
        PipelineError: there are none, or a name is not printable; see ``is_printable``.
    """
    unprintable = sorted(path for path in tree.sizes if not is_printable(path))
    if unprintable:
        rest = len(unprintable) - 1
        more = (
            f" and those of {rest:,} more files are" if rest > 1 else " and that of 1 more file are" if rest else " is"
        )
        raise PipelineError(
            f"{source}: the name {unprintable[0]!r}{more} not printable UTF-8; allowed are letters, signs and spaces, "
            "not control characters, line breaks or marks that change the direction of text: rename the files"
        )
    paths = sorted(path for path in tree.sizes if tree.is_image(path))
    if not paths:
        found = f"; other files are {reasons(tree.left_out)}" if tree.left_out else ""
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise PipelineError(f"{source}: contains no images; allowed endings are {endings}{found}")
    return paths


def texts_left_out(tree: FileTree, *used: str | None) -> dict[str, str]:
    """The reason for each text file that was not used."""
    return {path: "text" for path in tree.sizes if is_text(path) and path not in used}


def readme_pictures(images: Iterable[str]) -> set[str]:
    """Return those images that illustrate a README if there is a dataset beside them: few, in folders named so."""
    found = {path for path in images if any(part.lower() in README_FOLDERS for part in path.split("/")[:-1])}
    return found if len(found) <= MOST_README_PICTURES else set()


def _outside_splits(images: list[str]) -> set[str]:
    """If one folder contains train and valid or test, the pictures outside it, such as those of a README.

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
        return set()
    above = "".join(f"{part}/" for part in folders[0])
    inside = [path.removeprefix(above) for path in images if path.startswith(above)]
    others = [path for path in inside if path.split("/")[0].lower() not in SPLIT_FOLDERS]
    pictures = {above + path for path in others if "/" not in path} | {above + path for path in readme_pictures(others)}
    return pictures | {path for path in images if not path.startswith(above) and not split_of(path)}


def split_of(path: str) -> str | None:
    """The split that the outermost folder with the name of a split stands for; None if there is no such folder."""
    return next((SPLIT_FOLDERS[part.lower()] for part in path.split("/")[:-1] if part.lower() in SPLIT_FOLDERS), None)


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


def _by_split(source: str, images: dict[str, Parts]) -> BySplit:
    """Group the paths by split, and remove the split's folder from their parts."""
    others = sorted({parts[0] for parts in images.values() if len(parts) == 1 or parts[0].lower() not in SPLIT_FOLDERS})
    grouped: BySplit = defaultdict(dict)
    for path, parts in images.items():
        if len(parts) > 1 and parts[0].lower() in SPLIT_FOLDERS:
            grouped[SPLIT_FOLDERS[parts[0].lower()]][path] = parts[1:]
    if not grouped and all(len(parts) > 2 and parts[1].lower() in SPLIT_FOLDERS for parts in images.values()):
        return _by_split(source, {path: (parts[1], parts[0], *parts[2:]) for path, parts in images.items()})
    if not grouped or _are_classes(images, others):
        return {None: images}
    beside = {path: parts[1:] for path, parts in images.items() if parts[0].lower() in UNLABELLED_FOLDERS and parts[1:]}
    if beside:
        grouped[UNLABELLED] = beside
        others = [other for other in others if other.lower() not in UNLABELLED_FOLDERS]
    if others:
        raise PipelineError(
            f"{source}: {listed(others)} is next to the folders of the splits; allowed there are "
            f"{', '.join(SPLIT_FOLDERS)}; move it away, or if these are classes, put all of them into a folder train/"
        )
    if "train" not in grouped:
        raise PipelineError(f"{source}: has folders for {listed(grouped)} but none for train; add train/")
    return grouped


def _are_classes(images: dict[str, Parts], others: list[str]) -> bool:
    """Whether ``train`` is a class such as bus and car: all images are one folder deep, and none has a class index.

    A single other folder, or one such as ``test1``, can as well contain images without labels.
    """
    return (
        len(others) > 1
        and len({parts[0] for parts in images.values()} - set(others)) == 1
        and not any(re.match("train|val|test|eval", other, re.IGNORECASE) for other in others)
        and all(len(parts) == 2 and not LABELLED.fullmatch(parts[1]) for parts in images.values())
    )


def _training(by_split: BySplit) -> dict[str, Parts]:
    return by_split["train"] if "train" in by_split else by_split[None]


def _take_unlabelled(by_split: BySplit) -> dict[str, Parts]:
    """Remove the images in a folder unlabeled next to train, or next to a folder labeled in it, and return them."""
    beside, training = by_split.pop(UNLABELLED, {}), _training(by_split)
    folders = {parts[0].lower() if len(parts) > 1 else "" for parts in training.values()}
    labelled, unlabelled = folders & LABELLED_FOLDERS, folders & UNLABELLED_FOLDERS
    if not (labelled and unlabelled and folders == labelled | unlabelled):
        return beside
    by_split["train" if "train" in by_split else None] = {
        path: parts[1:] for path, parts in training.items() if parts[0].lower() in labelled
    }
    return beside | {path: parts[1:] for path, parts in training.items() if parts[0].lower() in unlabelled}


def _folders_without_images(tree: FileTree, above: Parts) -> set[Parts]:
    """The folders, without those above all images, that contain only files that were left out, or none."""
    texts = {path: "text" for path in tree.sizes if is_text(path)}
    seen = {posixpath.dirname(path) for path in tree.left_out | texts if not junk_reason(path)} | tree.empty
    folders = {folder for path in seen if not junk_reason(path) for folder in _with_parents(path)}
    images = {posixpath.dirname(path) for path in tree.sizes if tree.is_image(path)}
    empty = {folder.parts for folder in folders - {folder for path in images for folder in _with_parents(path)}}
    return {parts[len(above) :] for parts in empty if parts[: len(above)] == above}


def _with_parents(folder: str) -> tuple[PurePosixPath, ...]:
    path = PurePosixPath(folder)
    return (path, *path.parents)


def _check_split_folders(source: str, tree: FileTree, above: Parts, by_split: BySplit, empty: set[Parts]) -> None:
    """Refuse a folder of a split without images: otherwise the split would be drawn from train."""
    for parts in sorted(empty):
        if len(parts) == 1 and SPLIT_FOLDERS.get(parts[0].lower()) not in {None, *by_split}:
            folder = "/".join((*above, parts[0])) + "/"
            inside = {path: reason for path, reason in tree.left_out.items() if path.startswith(folder)}
            found = f" ({reasons(inside)})" if inside else ""
            raise PipelineError(
                f"{source}: the folder {parts[0]} contains no images{found}; add them, or remove the folder"
            )


def _warn_of_empty_folders(source: str, by_split: BySplit, class_depth: int, empty: set[Parts]) -> None:
    depth = class_depth + (None not in by_split)
    names = sorted({parts[-1] for parts in empty if len(parts) == depth})
    if names:
        say(f"download: warning: {source}: no images in the folders {listed(names)}, so they are no classes")


@dataclass(frozen=True)
class ClassNames:
    """The names of the classes in the order of their indices.

    Attributes:
        names: None if they are not given.
        file: path of the file ``classes.txt`` of the source; None if there is none.
        contradiction: why the order of the names is not certain, if ``data.classes`` and the file differ in it.
    """

    names: tuple[str, ...] | None
    file: str | None = None
    contradiction: str | None = None

    def in_order(self) -> tuple[str, ...] | None:
        """The names, for images that have class indices, so that another order would give them other names.

        Raises:
            PipelineError: the order is not certain.
        """
        if self.contradiction:
            raise PipelineError(self.contradiction)
        return self.names


def class_names(source: str, tree: FileTree, classes: tuple[str, ...] | None) -> ClassNames:
    """The names in ``data.classes`` or in the outermost ``classes.txt``, one per line.

    Args:
        source, tree, classes: as for ``read_layout``.

    Raises:
        PipelineError: both exist and name different classes, or the file is not UTF-8 or names a class twice.
    """
    found = [path for path in tree.sizes if PurePosixPath(path).name == CLASSES_FILE]
    if not found:
        return ClassNames(classes)
    path = min(found, key=lambda path: (path.count("/"), path))
    names = _read_names(tree, path)
    if names and classes and set(names) != set(classes):
        raise PipelineError(
            f"data.classes: names {len(classes)} classes ({listed(classes, 3)}), but {path} in {source} names "
            f"{len(names)} ({listed(names, 3)}); set data.classes to null"
        )
    contradiction = (
        f"data.classes: orders the classes {listed(classes, 3)}, but {path} in {source} orders them "
        f"{listed(names, 3)}, and the images have their indices; set data.classes to null"
        if names and classes and names != classes
        else None
    )
    return ClassNames(classes or names or None, path, contradiction)


def _read_names(tree: FileTree, path: str) -> tuple[str, ...]:
    try:
        text = unicodedata.normalize("NFC", tree.read(path, MAX_CLASSES_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not UTF-8 text; save it as UTF-8, with one class name per line") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    for name, count in Counter(names).items():
        if count > 1:
            raise PipelineError(f"{path}: contains the class {name!r} twice; make the names unique")
        if not is_printable(name):
            raise PipelineError(f"{path}: contains the class {name!r}; allowed are printable names: correct it")
    return names


def _check_classes(source: str, names: tuple[str, ...], images: list[SourceImage]) -> None:
    """Refuse a single class."""
    trained = {image.label for image in images if image.split in (None, "train")}
    if len(trained) < 2:
        (label,) = trained
        raise _one_class(source, names[label] if label is not None else "unlabelled")


def warn_of_untrained(source: str, names: Sequence[str], images: Iterable[SourceImage]) -> None:
    """Warn of classes without training images."""
    trained = {image.label for image in images if image.split in (None, "train")}
    untrained = [name for index, name in enumerate(names) if index not in trained]
    if untrained:
        say(f"download: warning: {source}: no training images of {listed(untrained)}; they can never be predicted")


def _one_class(source: str, name: str) -> PipelineError:
    return PipelineError(f"{source}: contains one class ({name}), needs two or more; {_ALLOWED}")


def _by_prefix(
    source: str, by_split: BySplit, names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[SourceImage]]:
    """Label ``3_12.jpg`` as class 3; a test split with names of another form is unlabelled."""
    images = []
    for split, members in sorted(by_split.items(), key=lambda pair: pair[0] in ("valid", "test")):
        nested = [path for path, parts in members.items() if len(parts) > 1]
        matches = {path: LABELLED.fullmatch(parts[0]) for path, parts in members.items() if len(parts) == 1}
        unmatched = [path for path, match in matches.items() if not match]
        if split == "test" and (len(nested) == len(members) or (unmatched and not nested)):
            images += unlabelled_images(members, split)
            continue
        if nested:
            if 0 < len(matches) < len(nested):
                raise PipelineError(
                    f"{source}: {listed(sorted(matches), 3)} is in no folder of a class, but {len(nested):,} others "
                    "are; move it into one, or away"
                )
            raise PipelineError(f"{source}: {nested[0]} is in a folder and others next to it are not; {_ALLOWED}")
        if unmatched:
            raise PipelineError(f"{source}: {unmatched[0]} has no class index before an underscore; {_ALLOWED}")
        found = [SourceImage(path, match[2], split, int(match[1])) for path, match in matches.items() if match]
        if split not in ("valid", "test"):
            _check_indices(source, found, len(names) if names else None)
            trained = {image.label for image in found}
        images += _known(source, found, trained, members)
    return names or tuple(str(index) for index in range(1 + max(label or 0 for label in trained))), images


def _check_indices(source: str, images: list[SourceImage], count: int | None) -> None:
    """Refuse indices beyond the names of the classes; without names, those that must be something else."""
    highest = max(images, key=lambda image: image.label or 0)
    label = highest.label or 0
    if count is None:
        # Dates, as in 20230101_1.jpg, are not class indices; of such classes there would be millions.
        if label >= len(images):
            if len({image.label for image in images}) == 1:
                raise _one_class(source, str(label))
            raise PipelineError(
                f"{source}: {highest.path} would be of class {label}, but there are only {len(images)} images; "
                f"{_ALLOWED}"
            )
    elif label >= count:
        raise PipelineError(
            f"{source}: {highest.path} is of class {label}, but {count} classes are named (0 to {count - 1}); name "
            f"them all in {CLASSES_FILE} or data.classes"
        )


def _known(
    source: str, images: list[SourceImage], trained: set[int | None], members: dict[str, Parts]
) -> list[SourceImage]:
    """The images if their classes are those of train; unlabelled if most images of a test split have other indices."""
    unknown = [image for image in images if image.label not in trained]
    if not unknown:
        return images
    first = f"{unknown[0].path} would be of class {unknown[0].label}, which train does not have"
    if images[0].split == "test" and len(unknown) > len(images) / 2:
        say(f"download: {source}: test is taken as unlabelled: {first}")
        return unlabelled_images(members, "test")
    raise PipelineError(f"{source}: {first}; correct the name, or add training images of this class")


def _class_depth(source: str, training: dict[str, Parts], depth: int | None, above: str) -> int:
    """How many folders deep the classes are below the folder ``above``, which contains all images.

    Raises:
        PipelineError: an image is in fewer folders, or ``depth`` is None and there are several possibilities.
    """
    shallow = min(training, key=lambda path: (len(training[path]), path))
    least = len(training[shallow]) - 1
    if depth is not None:
        below = f" below {above}/, which contains all images" if above else ""
        if least < depth:
            raise PipelineError(
                f"data.class_depth: got {depth}, but {shallow} in {source} is {least} folders deep{below}; lower it, "
                "or move the image"
            )
        if below:
            say(f"download: data.class_depth counts the folders{below}")
        return depth
    names = {depth: sorted({parts[depth - 1] for parts in training.values()}) for depth in range(1, least + 1)}
    choices = [depth for depth, found in names.items() if len(found) > 1]
    if least > 1 and len(choices) > 1:
        described = " or ".join(
            f"{depth} ({len({parts[:depth] for parts in training.values()}):,} classes: {listed(names[depth], 3)})"
            for depth in choices
        )
        raise PipelineError(
            f"data.class_depth: got null, but {source} has folders in folders, such as {shallow}; set it to {described}"
        )
    chosen = choices[0] if choices else 1
    _mention_subfolders(source, training, chosen, shallow)
    return chosen


def _mention_subfolders(source: str, training: dict[str, Parts], depth: int, shallow: str) -> None:
    """Say which classes contain several folders of images, at a level that the image ``shallow`` does not reach."""
    level = len(training[shallow])
    below = defaultdict(set)
    for parts in training.values():
        if len(parts) > level:
            below[parts[:depth]].add("/".join(parts[depth:level]))
    several = [f"{folder[-1]} ({listed(sorted(found), 3)})" for folder, found in below.items() if len(found) > 1]
    if several:
        folder, name = posixpath.split(shallow)
        say(
            f"download: {source}: several folders of images are one class: {listed(sorted(several), 3)}; to make these "
            f"folders the classes, set data.class_depth to {level}, and move each image that is less deep, such as "
            f"{shallow} to {folder}/{training[shallow][depth - 1]}/{name}"
        )


def _by_folder(
    source: str, by_split: BySplit, depth: int, named: ClassNames
) -> tuple[tuple[str, ...], list[SourceImage]]:
    """Label ``cat/12.jpg`` as class ``cat``; a test split without the folders of the classes is unlabelled."""
    flat = [path for split in by_split if split != "test" for path, parts in by_split[split].items() if len(parts) == 1]
    if flat:
        raise PipelineError(f"{source}: {flat[0]} is in no folder of a class; {_ALLOWED}")
    folders = {parts[:depth] for parts in _training(by_split).values()}
    called = _folder_names(folders)
    index = folder_indices(source, set(called.values()), named)
    images = []
    for split, members in by_split.items():
        if split == "test" and _is_unlabelled(source, members, folders, depth):
            images += unlabelled_images(members, split)
            continue
        for path, parts in members.items():
            if parts[:depth] not in folders or len(parts) == depth:
                raise PipelineError(
                    f"{source}: {path} is in no folder of a training class ({listed(sorted(index))}); move it, or add "
                    "training images of its class"
                )
            images.append(SourceImage(path, "__".join(parts[depth:]), split, index[called[parts[:depth]]]))
    return named.names or tuple(sorted(index, key=lambda folder: index[folder])), images


def _is_unlabelled(source: str, members: dict[str, Parts], trained: set[Parts], depth: int) -> bool:
    """Whether the folders of the test split say nothing about its classes: they are others, or only one."""
    tested = {parts[:depth] for parts in members.values() if len(parts) > depth}
    known = tested & trained
    if known and (len(tested) > 1 or any(len(parts) <= depth for parts in members.values())):
        return False
    if tested:
        folders = listed(sorted("/".join(folder) for folder in tested), 3)
        why = f"no class of train has the name {folders}"
        if known:
            why = f"all its images are in one folder, {folders}; to evaluate on it, add images of the other classes"
        say(f"download: {source}: test is taken as unlabelled: {why}")
    return True


def unlabelled_images(members: dict[str, Parts], split: str) -> list[SourceImage]:
    """The images of a split without labels."""
    names = file_names(members)
    return [SourceImage(path, names[path], split, None) for path in members]


def file_names(members: dict[str, Parts]) -> dict[str, str]:
    """The name of each file by its path; where two are the same, with the folders above, joined by ``__``."""
    counts = Counter(parts[-1] for parts in members.values())
    return {path: parts[-1] if counts[parts[-1]] == 1 else "__".join(parts) for path, parts in members.items()}


def _folder_names(folders: set[Parts]) -> dict[Parts, str]:
    """The class of each folder: its name, or, where two have the same, with the folders above."""
    counts = Counter(folder[-1] for folder in folders)
    return {folder: folder[-1] if counts[folder[-1]] == 1 else "/".join(folder) for folder in folders}


def folder_indices(source: str, folders: set[str], named: ClassNames) -> dict[str, int]:
    """The class index of each folder: by its name, or by its number if all folders are numbers.

    Warns of names that may be mistakes, unless names are given, which are taken to be meant.

    Raises:
        PipelineError: a folder is none of the named classes, or their order is not certain, and the folders are
            numbers.
    """
    names = named.names
    numbers = {folder: int(folder) for folder in folders if re.fullmatch("[0-9]{1,18}", folder)}
    if not names:
        _warn_of_names(source, folders)
        key = (lambda folder: (numbers[folder], folder)) if len(numbers) == len(folders) else None
        return {folder: index for index, folder in enumerate(sorted(folders, key=key))}
    if folders <= set(names):
        return {name: index for index, name in enumerate(names)}
    if len(numbers) == len(folders) and max(numbers.values()) < len(names):
        named.in_order()
        return numbers
    # Of numbers the highest, which is beyond the names.
    unknown = max(folders - set(names), key=lambda folder: (numbers.get(folder, 0), folder))
    raise PipelineError(
        f"{source}: the folder or class {unknown} is none of the named classes ({listed(names)}); "
        f"name every class in {CLASSES_FILE} or data.classes, or set data.classes to null"
    )


def _warn_of_names(source: str, names: Iterable[str]) -> None:
    """Warn of classes whose names differ only in case or separators, and of one whose name is a missing value."""
    same = defaultdict(list)
    for name in sorted(names):
        same[_without_case(name)].append(name)
    alike = [" and ".join(found) for found in same.values() if len(found) > 1]
    if alike:
        say(
            f"download: warning: {source}: classes whose names differ only in case, spaces, _ or -: {listed(alike)}; "
            "if they are the same class, correct the table or rename the folder"
        )
    missing = [name for name in sorted(names) if name.lower() in MISSING]
    if missing:
        say(
            f"download: warning: {source}: the class {listed(missing)} has the name of a missing value; if its images "
            "have no label, remove the rows from the table or move the folder away"
        )


def _without_case(name: str) -> str:
    """The name without case and separators; signs, as in -1 and B-, stay, and what separates numbers is a dot."""
    numbers = re.sub(r"(?<=\d)[\s_-]+(?=\d)", ".", name.casefold().strip(" _"))
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", numbers)
