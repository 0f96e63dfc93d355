"""Applies the labels of ``data.pseudo_labels`` and ``data.corrections``."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from pipeline.common.file_types import reasons
from pipeline.common.label_files import DROP, read_corrections, read_label_file, refuse
from pipeline.common.raw_archive import SPLITS, UNLABELLED, RawImage
from pipeline.common.text import listed
from pipeline.progress import say

Value = TypeVar("Value")


def add_pseudo_labels(
    file: str | None, images: Sequence[RawImage], classes: tuple[str, ...], left_out: Mapping[str, str] | None = None
) -> list[RawImage]:
    """Add the unlabelled images that a file names to the training split, and remove the others that are in no split.

    Images of the test split stay in it, too. Those in ``left_out``, which ``download`` did not take, are not used.

    Raises:
        PipelineError: see :func:`read_label_file`; or an id or a class does not exist, an image has a label, or a
            confidence is no probability.
    """
    rows = _without(left_out or {}, file, read_label_file("pseudo_labels", file))
    by_path = {image.path: image for image in images}
    _check("pseudo_labels", file, rows, by_path, [label for label, _ in rows.values()], classes)
    labelled = [f"{name} ({by_path[name].split})" for name in rows if by_path[name].label is not None]
    if labelled:
        refuse("pseudo_labels", file, f"{listed(labelled, 3)}: has a label; remove it from the file")
    index = {name: number for number, name in enumerate(classes)}
    added = []
    for name, (label, text) in rows.items():
        image = by_path[name]
        # Unique: the id of a training image is the name of a file.
        place, confidence = f"{image.split}/{image.id}", _probability(file, name, text)
        added.append(replace(image, split="train", label=index[label], id=place, confidence=confidence))
    kept = [image for image in images if image.split != UNLABELLED]
    added.sort(key=lambda image: image.entry)
    return sorted([*kept, *added], key=lambda image: SPLITS.index(image.split))


def _without(left_out: Mapping[str, str], file: str | None, rows: dict[str, Value]) -> dict[str, Value]:
    """The rows without those of images that ``download`` left out, such as those whose group is in valid."""
    if gone := {name: left_out[name] for name in rows if name in left_out}:
        count = f"{len(gone):,} of {len(rows):,} ids"
        say(f"augment: {file}: {count} are not used, as download left them out: {reasons(gone)}")
    return {name: row for name, row in rows.items() if name not in gone}


def _probability(file: str | None, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        refuse("pseudo_labels", file, f"{name} has the confidence {text!r}, allowed are 0 to 1; correct it")
    return value


def correct(
    file: str | None, images: list[RawImage], classes: tuple[str, ...], left_out: Mapping[str, str] | None = None
) -> tuple[list[RawImage], dict[str, tuple[str, str | None]]]:
    """Apply the corrections in a file, except those of images in ``left_out``, which ``download`` did not take.

    Returns:
        The images that remain, with their new labels; and the old and the new class of each image whose label changed,
        by its path, None as the new class of an image that was dropped.

    Raises:
        PipelineError: see :func:`read_label_file`; or an id or a class does not exist, an image has no label to
            correct, or a class loses all its training images.
    """
    corrections = _without(left_out or {}, file, read_corrections(file))
    if not corrections:
        return images, {}
    _check("corrections", file, corrections, {image.path for image in images}, corrections.values(), classes, DROP)
    if DROP in classes and DROP in corrections.values():
        refuse("corrections", file, f"{DROP} is a class, too, so its meaning is not clear; rename the class")
    by_path = {image.path: image for image in images if image.label is not None}
    if unlabelled := [name for name in corrections if name not in by_path]:
        refuse("corrections", file, f"{listed(unlabelled, 3)}: has no label to correct; remove it from the file")
    index = {name: number for number, name in enumerate(classes)}
    labels = {name: index[label] for name, label in corrections.items() if label != DROP}
    kept = [
        # A pseudo-label that a person has confirmed is none any more.
        replace(image, label=labels[image.path], confidence=None)
        if image.label is not None and image.path in labels
        else image
        for image in images
        if image.label is None or corrections.get(image.path) != DROP
    ]
    if lost := _trained(images) - _trained(kept):
        names = listed([classes[label] for label in sorted(lost)], 3)
        refuse("corrections", file, f"no training image of {names} remains")
    old = {name: classes[label] for name in corrections if (label := by_path[name].label) is not None}
    new = {name: None if label == DROP else label for name, label in corrections.items()}
    return kept, {name: (old[name], new[name]) for name in corrections if old[name] != new[name]}


def _check(
    name: str,
    file: str | None,
    ids: Collection[str],
    known: Collection[str],
    labels: Collection[str],
    classes: Sequence[str],
    *others: str,
) -> None:
    """Check that all ids and labels of a file exist; ``others`` are allowed as labels, too."""
    unknown = [id for id in ids if id not in known]
    if unknown:
        count = f"{len(unknown):,} of {len(ids):,} ids are no images of the source ({listed(unknown, 3)})"
        refuse(name, file, f"{count}; remove these rows, or correct the paths, which are in audit.csv")
    known_labels = {*classes, *others}
    names = [label for label in dict.fromkeys(labels) if label not in known_labels]
    if names:
        allowed = "".join(f"{label} and " for label in others)
        refuse(name, file, f"unknown label {listed(names, 3)}; allowed are {allowed}the classes {listed(classes, 10)}")


def _trained(images: list[RawImage]) -> set[int]:
    return {image.label for image in images if image.split == "train" and image.label is not None}
