"""Applies the corrected labels of ``data.corrections``."""

from dataclasses import replace

from pipeline.common.corrections import DROP, read_corrections, refuse
from pipeline.common.raw_archive import RawImage
from pipeline.common.text import listed


def correct(
    file: str | None, images: list[RawImage], classes: tuple[str, ...]
) -> tuple[list[RawImage], dict[str, tuple[str, str | None]]]:
    """Apply the corrections in a file.

    Returns:
        The images that remain, with their new labels; and the old and the new class of each image whose label changed,
        by its path, None as the new class of an image that was dropped.

    Raises:
        PipelineError: see :func:`read_corrections`; or an id or a class does not exist, an image has no label to
            correct, or a class loses all its training images.
    """
    corrections = read_corrections(file)
    if not file or not corrections:
        return images, {}
    by_path = {image.path: image for image in images}
    unknown = [name for name in corrections if name not in by_path]
    if unknown:
        count = f"{len(unknown):,} of {len(corrections):,} ids are no images of the source"
        refuse(file, f"{count} ({listed(unknown, 3)}); allowed are their paths, as in the report and in audit.csv")
    names = [name for name in dict.fromkeys(corrections.values()) if name not in (*classes, DROP)]
    if names:
        refuse(file, f"unknown label {listed(names, 3)}; allowed are {DROP} and the classes {listed(classes, 10)}")
    if DROP in classes and DROP in corrections.values():
        refuse(file, f"{DROP} is a class, too, so its meaning is not clear; rename the class")
    unlabelled = [name for name in corrections if by_path[name].label is None]
    if unlabelled:
        refuse(file, f"{listed(unlabelled, 3)}: has no label to correct; remove it from the file")
    labels = {name: classes.index(label) for name, label in corrections.items() if label != DROP}
    kept = [
        replace(image, label=labels.get(image.path, image.label))
        for image in images
        if corrections.get(image.path) != DROP
    ]
    lost = _trained(images) - _trained(kept)
    if lost:
        refuse(file, f"no training image of {listed([classes[label] for label in sorted(lost)], 3)} remains")
    old = {name: classes[label] for name in corrections if (label := by_path[name].label) is not None}
    new = {name: None if label == DROP else label for name, label in corrections.items()}
    return kept, {name: (old[name], new[name]) for name in corrections if old[name] != new[name]}


def _trained(images: list[RawImage]) -> set[int]:
    return {image.label for image in images if image.split == "train" and image.label is not None}
