"""Tables of labels, ``data.labels``: a CSV with the columns path, class, and perhaps split and group, or the lists of
``path class`` that datasets come with; the images can be anywhere in the source."""

import csv
import io
import posixpath
import sys
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pipeline.common.files import read_small
from pipeline.common.paths import table_path
from pipeline.common.raw_archive import UNLABELLED
from pipeline.common.text import is_printable, likewise, listed, shortened
from pipeline.download.layout import (
    SPLIT_FOLDERS,
    UNLABELLED_FOLDERS,
    ClassNames,
    ImageSet,
    SourceImage,
    class_names,
    file_names,
    folder_indices,
    image_paths,
    split_of,
    texts_left_out,
    unlabelled_images,
    warn_of_untrained,
)
from pipeline.download.trees import FileTree
from pipeline.errors import PipelineError
from pipeline.progress import say

# The names that datasets give to the columns, the preferred ones first.
COLUMNS = {
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "image",
        "image_path",
        "image_id",
        "img",
        "id",
        "name",
    ),
    # Label Studio writes choice.
    "class": ("label", "class", "category", "target", "class_name", "choice"),
    "split": ("split", "subset", "set", "partition"),
    "group": ("group",),
}
# About four million rows.
MAX_TABLE_BYTES = 256 * 1024**2
MAX_CELL = 500
_ALLOWED = (
    "allowed is a header with path and label, perhaps split and group, or lines of a path and a class; a table of the "
    "test split needs only paths"
)
_MAYBE_TEST = (
    "to predict them as the test split, rename their folder to test, or list them in data.labels: "
    "{train: ..., test: ...}"
)


@dataclass(frozen=True)
class Row:
    """A row of a table: where it is, for messages, and its values, which are empty if they are missing."""

    place: str
    path: str
    label: str
    split: str
    group: str


@dataclass(frozen=True)
class _Images:
    """Finds the images of a source by the names that tables give them."""

    source: str
    paths: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _known(self) -> set[str]:
        return set(self.paths)

    @cached_property
    def _endings(self) -> list[tuple[str, str]]:
        """The paths, each after itself backwards, so that a binary search finds those with the same ending."""
        return sorted((f"/{path}"[::-1], path) for path in self.paths)

    @cached_property
    def _endings_of_stems(self) -> list[tuple[str, str]]:
        """The same without the extensions."""
        return sorted((f"/{posixpath.splitext(path)[0]}"[::-1], path) for path in self.paths)

    def find(self, name: str, folder: str) -> list[str]:
        """The images with this path, relative to the source, to the table's folder or to any other; without the
        extension if there is none with it."""
        name = posixpath.normpath(name.replace("\\", "/")).lstrip("/")
        for exact in (name, posixpath.normpath(posixpath.join(folder, name))):
            if exact in self._known:
                return [exact]
        return _ending_with(name, self._endings) or _ending_with(name, self._endings_of_stems)

    def require(self, rows: list[Row], folder: str) -> list[str]:
        """The one image of each row of a table in this folder.

        Raises:
            PipelineError: a row has none, or more than one.
        """
        found = [self._candidates(row, folder) for row in rows]
        missing = [row for row, paths in zip(rows, found, strict=True) if not paths]
        if missing:
            row, *others = missing
            reason = self.left_out.get(posixpath.join(folder, row.path), self.left_out.get(row.path))
            found_is = f"is no image ({reason}) in" if reason else "is not in the source"
            raise PipelineError(
                f"{row.place}: {row.path!r} {found_is} {self.source}"
                f"{likewise([repr(other.path) for other in others], 'rows', 3)}; correct the path, or remove the row"
            )
        several = [row for row, paths in zip(rows, found, strict=True) if len(paths) > 1]
        if several:
            row, *others = several
            paths = self._candidates(row, folder)
            of_split = {split_of(path) for path in paths}
            tables = ", or name a table for each split: {train: ..., test: ...}" if len(of_split) > 1 else ""
            raise PipelineError(
                f"{row.place}: {row.path!r} can be {listed(paths, 3)} in {self.source}"
                f"{likewise([repr(other.path) for other in others], 'rows', 3)}; write the path in the source{tables}"
            )
        return [paths[0] for paths in found]

    def _candidates(self, row: Row, folder: str) -> list[str]:
        """The images that a row can mean; of several, those in the folder of the row's split."""
        found = self.find(row.path, folder)
        return [path for path in found if len(found) > 1 and split_of(path) == row.split] or found


def _ending_with(name: str, endings: list[tuple[str, str]]) -> list[str]:
    backwards = f"/{name}"[::-1]
    start, end = (bisect_left(endings, (key,)) for key in (backwards, backwards + chr(sys.maxunicode)))
    return sorted(path for _, path in endings[start:end])


def read_labels(
    source: str, tree: FileTree, labels: str | Mapping[Any, str], classes: tuple[str, ...] | None
) -> ImageSet:
    """Read the tables, and find their images.

    Args:
        source: what messages call the source.
        tree: its files.
        labels: ``data.labels``: the path of a table, in the source or in the repository, or one per split.
        classes: ``data.classes``.

    Raises:
        PipelineError: a table is missing or has no path or class, an image is missing or has two classes, or a class
            has no training images.
    """
    images = _Images(source, image_paths(source, tree), tree.left_out)
    named = class_names(source, tree, classes)
    given = labels if isinstance(labels, Mapping) else {"": labels}
    files = {
        split: name if (name := unicodedata.normalize("NFC", file)) in tree.sizes else file
        for split, file in given.items()
    }
    found: dict[str, Row] = {}
    for split, file in files.items():
        rows = list(_read_table(source, tree, file, split, images))
        for row, path in zip(rows, images.require(rows, posixpath.dirname(file)), strict=True):
            other = found.setdefault(path, row)
            if other is not row:
                _check_twice(path, other, row)
    if not any(row.split for row in found.values()) and all(split_of(path) for path in found):
        found = {path: replace(row, split=split_of(path) or "") for path, row in found.items()}
    _check_splits(found.values())
    found = _without_placeholders(found)
    test = [] if any(row.split == "test" for row in found.values()) else _unlisted_test_images(images.paths, found)
    index = _class_indices(source, found.values(), named)
    rest = set(images.paths) - {*found, *test}
    unlabelled = sorted(filter(_is_unlabelled, rest))
    has_test = bool(test) or any(row.split == "test" for row in found.values())
    unlisted = {path: _reason(path, has_test) for path in rest - set(unlabelled)}
    left_out = tree.left_out | unlisted | texts_left_out(tree, named.file, *files.values())
    listed_images = _images(found, index)
    for split, paths in (("test", test), (UNLABELLED, unlabelled)):
        listed_images += unlabelled_images({path: tuple(path.split("/")) for path in paths}, split)
    class_list = named.names or tuple(sorted(index, key=lambda name: index[name]))
    warn_of_untrained(source, class_list, listed_images)
    return ImageSet(class_list, tuple(sorted(listed_images, key=lambda image: image.path)), tree.read, left_out)


def _read_table(source: str, tree: FileTree, file: str, split: str, images: _Images) -> Iterator[Row]:
    """The rows of a table; ``split`` is that of all of them, or empty."""
    lines = list(_lines(file, _text(source, tree, file)))
    if not lines:
        raise PipelineError(f"data.labels: {file} is empty; {_ALLOWED}")
    width = len(lines[0][1])
    columns = _header(file, lines[0][1], split, images)
    if columns:
        lines = lines[1:]
    else:
        columns = _without_header(file, lines[0][1], split, images)
    for number, cells in lines:
        place = f"data.labels: {file}, line {number}"
        values = {role: cells[column].strip() if column < len(cells) else "" for role, column in columns.items()}
        # A separator in the last value would cut it.
        if max(columns.values()) == width - 1 and any(cell.strip() for cell in cells[width:]):
            raise PipelineError(
                f"{place}: has {len(cells)} values, but the first line has {width}; put a value that contains a "
                "separator in quotes, or remove the others"
            )
        if not values["path"]:
            raise PipelineError(f"{place}: has no path; {_ALLOWED}")
        for value in values.values():
            if not is_printable(value) or len(value) > MAX_CELL:
                got = shortened(repr(value))
                raise PipelineError(
                    f"{place}: got {got}, allowed are up to {MAX_CELL} printable characters on one line; correct it"
                )
        given = values.get("split", "")
        if given and given.lower() not in SPLIT_FOLDERS:
            raise PipelineError(f"{place}: got the split {given!r}, allowed are {', '.join(SPLIT_FOLDERS)}; correct it")
        own = SPLIT_FOLDERS[given.lower()] if given else ""
        if split and own not in ("", split):
            raise PipelineError(
                f"{place}: is of the split {own}, but data.labels lists the file for {split}; move the row to the "
                f"table of its split, or set data.labels to {file} alone"
            )
        yield Row(place, values["path"], values.get("class", ""), split or own, values.get("group", ""))


def _text(source: str, tree: FileTree, file: str) -> str:
    path = table_path(file)
    reason = tree.left_out.get(unicodedata.normalize("NFC", file))
    if reason and not path.is_file():
        raise PipelineError(
            f"data.labels: {file} in {source} is no table ({reason}); allowed are files that are not hidden and end in "
            ".csv, .tsv or .txt: save it as one, or correct the path"
        )
    if file not in tree.sizes and not path.is_file():
        raise PipelineError(f"data.labels: there is no file {file} in {source} or in the repository; correct the path")
    content = tree.read(file, MAX_TABLE_BYTES) if file in tree.sizes else read_small(path, MAX_TABLE_BYTES)
    try:
        return unicodedata.normalize("NFC", content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise PipelineError(f"data.labels: {file} is not UTF-8 text; save it as UTF-8") from None


def _lines(file: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number and cells of each line: separated by tabs, commas or semicolons, or the last word is the class."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((character for character in "\t,;" if character in first), None)
    if delimiter is None:
        only_paths = len(first.split()) == 1  # which may have spaces
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield number, [line.strip()] if only_paths else line.rsplit(None, 1)
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:  # such as a quotation mark that is never closed
        raise PipelineError(f"data.labels: {file}, line {reader.line_num}: {error}; correct it") from None


def _header(file: str, cells: list[str], split: str, images: _Images) -> dict[str, int]:
    """The column of each role if these cells are a header, otherwise nothing; say which columns are not used.

    A table of the test split needs no class. A class may have the name of a column; then the other cell is an image.
    """
    names = [cell.strip().lower() for cell in cells]
    columns = {role: names.index(name) for role, known in COLUMNS.items() for name in reversed(known) if name in names}
    missing = {"path", "class"} - columns.keys()
    if len(missing) == 1 and len(names) == 2 and len(columns) == 1 and all(names):
        other = 1 - next(iter(columns.values()))
        if posixpath.splitext(cells[other])[1] and images.find(cells[other], posixpath.dirname(file)):
            return {}
        columns[missing.pop()] = other
    if missing - ({"class"} if split == "test" else set()):
        return {}
    called = [cell.strip() or "a column without a name" for cell in cells]  # pandas writes its index without a name
    unused = [name for number, name in enumerate(called) if number not in columns.values()]
    used = ", ".join(f"{role} from {called[column]}" for role, column in columns.items())
    say(f"download: {file}: {used}" + (f"; not used: {listed(unused)}" if unused else ""))
    return columns


def _without_header(file: str, cells: list[str], split: str, images: _Images) -> dict[str, int]:
    """The columns of a table that begins with these cells: path and class, or only the path of test images.

    Raises:
        PipelineError: the first one is no image, or there is no class.
    """
    known = images.find(cells[0], posixpath.dirname(file))
    if known and len(cells) == 1 and split == "test":
        return {"path": 0}
    if not known or len(cells) == 1:
        raise PipelineError(f"data.labels: {file} begins with {','.join(cells)[:80]!r}; {_ALLOWED}")
    if len(cells) > 2:
        say(f"download: {file}: the class is the second column; the third, {cells[2]!r}, is not used")
    return {"path": 0, "class": 1}


def _check_twice(path: str, one: Row, other: Row) -> None:
    if (one.label, one.split, one.group) != (other.label, other.split, other.group):
        raise PipelineError(
            f"{other.place}: {path} is {other.label!r} in {other.split or 'no split'} here, but {one.label!r} in "
            f"{one.split or 'no split'} at {one.place.removeprefix('data.labels: ')}; remove one of the rows"
        )


def _check_splits(rows: Iterable[Row]) -> None:
    """Refuse splits without train, a row without a split if others have one, and a row without a class."""
    rows = list(rows)
    splits = {row.split for row in rows}
    if splits - {""}:
        without = next((row for row in rows if not row.split), None)
        if without:
            raise PipelineError(f"{without.place}: has no split, but other rows have one; add it")
        if "train" not in splits:
            raise PipelineError(f"data.labels: has rows for {listed(sorted(splits))}, but none for train; add them")
    unlabelled = [row for row in rows if not row.label]
    tested = [row for row in rows if row.split == "test"]
    if unlabelled and unlabelled != tested:
        raise PipelineError(
            f"{unlabelled[0].place}: has no class; allowed are a class in each row, or none in all rows of test"
        )


def _without_placeholders(found: dict[str, Row]) -> dict[str, Row]:
    """The rows; those of test without a class if all of them have the same one, as in Kaggle's sample submissions.

    A single row always has, and keeps its class. Training rows of one class are refused later.
    """
    tested = [row for row in found.values() if row.split == "test"]
    labels = {row.label for row in tested}
    if len(tested) < 2 or len(labels) > 1 or labels == {""}:
        return found
    say(
        f"download: data.labels: test is taken as unlabelled: all its {len(tested):,} images have the label "
        f"{tested[0].label!r}; to evaluate on it, add images of the other classes"
    )
    return {path: replace(row, label="") if row.split == "test" else row for path, row in found.items()}


def _unlisted_test_images(paths: list[str], found: dict[str, Row]) -> list[str]:
    """Images in a folder for the test split that no table lists: they are unlabelled."""
    return [path for path in paths if path not in found and split_of(path) == "test"]


def _reason(path: str, has_test: bool) -> str:
    """Why an image that no table lists is left out, and what makes it a test image if its folder's name says so."""
    folders = path.lower().split("/")[:-1]
    if has_test or split_of(path) or not any(name.startswith("test") or name.endswith("test") for name in folders):
        return "not in data.labels"
    return f"not in data.labels ({_MAYBE_TEST})"


def _is_unlabelled(path: str) -> bool:
    return any(part.lower() in UNLABELLED_FOLDERS for part in path.split("/")[:-1])


def _class_indices(source: str, rows: Iterable[Row], named: ClassNames) -> dict[str, int]:
    """The index of each class of the training rows.

    Raises:
        PipelineError: there is only one, or a row of another split has another class.
    """
    rows = [row for row in rows if row.label]
    trained = {row.label for row in rows if row.split in ("", "train")}
    if len(trained) < 2:
        raise PipelineError(f"data.labels: names one class ({listed(trained)}), needs two or more")
    unknown = next((row for row in rows if row.label not in trained), None)
    if unknown:
        raise PipelineError(
            f"{unknown.place}: {unknown.path} is of the class {unknown.label!r}, which has no training images "
            f"({listed(sorted(trained))}); correct it, or add some"
        )
    return folder_indices(source, trained, named)


def _images(found: dict[str, Row], index: dict[str, int]) -> list[SourceImage]:
    """The listed images; their names are those of the files, or, where two would be the same, with their folders."""
    images = []
    members: dict[tuple[str, str], dict[str, tuple[str, ...]]] = defaultdict(dict)
    for path, row in found.items():
        members[row.split, row.label][path] = tuple(path.split("/"))
    for (split, label), paths in members.items():
        images += [
            SourceImage(path, name, split or None, index.get(label), found[path].group or None)
            for path, name in file_names(paths).items()
        ]
    return images
