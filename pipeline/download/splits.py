"""Draws the splits that a source does not have, and folds.

Images that must not be separated are drawn together, as a unit: those of one group, and identical ones. Whether a unit
is drawn depends on a hash of its key and the seed: the names and the order of the files do not matter, and when images
are added or removed, few others change places.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from scipy.cluster.hierarchy import DisjointSet

from pipeline.common.text import likewise, listed
from pipeline.download.layout import SourceImage
from pipeline.errors import PipelineError
from pipeline.progress import say


@dataclass(frozen=True)
class Unit:
    """Images that stay in one split."""

    images: tuple[SourceImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def label(self) -> int:
        """The most frequent class of its images, as one of which it is drawn."""
        counts = Counter(image.label for image in self.images if image.label is not None)
        return min(counts, key=lambda label: (-counts[label], label))


def by_path(images: Sequence[SourceImage]) -> list[str]:
    """The path of each image as its key."""
    return [image.path for image in images]


def assign_splits(
    images: Iterable[SourceImage],
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    folds: int | None = None,
    fold: int = 0,
    keys: Callable[[Sequence[SourceImage]], Sequence[str]] = by_path,
    classes: Sequence[str] = (),
) -> list[SourceImage]:
    """Return the images sorted by path, each with a split; splits that the source has stay as they are.

    A missing test or validation split is drawn from the labelled training images, stratified by class, so that each
    class has the same share in every split. The fractions are of all of those images. In the order of the hashes, the
    first units of a class are test images and the last ones validation images, so that the size of one split does not
    change the other.

    With ``folds``, the training and the validation images that are left by the test split are cut into so many folds of
    about the same size, stratified in the same way; the images of ``fold`` are the validation split.

    Args:
        images: of the source, in any order.
        valid_fraction, test_fraction: of the splits that are missing; without a fraction there is no such split.
        seed: another seed draws other images.
        folds: 2 or more; None draws a validation split.
        fold: 0 to ``folds`` - 1.
        keys: returns a key for each image; images with the same key stay together. It is called at most once.
        classes: the class names for messages; without them, these contain the indices.

    Raises:
        PipelineError: a class has too few images for the splits.
    """
    images = sorted((replace(image, split=image.split or "train") for image in images), key=lambda image: image.path)
    if folds:
        images = [_pooled(image) for image in images]
    present = {image.split for image in images}
    test = 0 if "test" in present else test_fraction
    valid = 0 if "valid" in present or folds else valid_fraction
    if not (test or valid or folds):
        return images
    pool = [image for image in images if image.split == "train" and image.label is not None]
    wanted = [split for split, drawn in (("test", test), ("valid", valid or folds)) if drawn]
    parts = bool(test) + (folds or 1 + bool(valid))
    # By path first: other keys may take long, and do not make more units.
    for keys_of in dict.fromkeys((by_path, keys)):
        units = _ranked_units(pool, keys_of(pool), seed)
        _check_enough(units, parts, folds, wanted, classes)
    splits: dict[str, str] = {}
    for label, members in _by_label(units).items():
        size = sum(map(len, members))
        tested = _draw(members, test * size, len(members) - (folds or 1 + bool(valid))) if test else []
        rest = _without(members, tested)
        if folds:
            # Rotated, since otherwise the larger folds of all classes would be the same.
            validated = _cut(rest, folds)[(fold - label) % folds]
        else:
            validated = _draw(rest[::-1], valid * size, len(rest) - 1) if valid else []
        for split, drawn in (("test", tested), ("valid", validated)):
            splits |= {image.path: split for unit in drawn for image in unit.images}
    assigned = [replace(image, split=splits.get(image.path, image.split)) for image in images]
    _check_classes(assigned, {image.label for image in pool}, wanted, classes)
    return assigned


def _pooled(image: SourceImage) -> SourceImage:
    """The image as a training image if it is one for validation, with another name: ``train/`` may have the same."""
    return replace(image, split="train", name=f"valid__{image.name}") if image.split == "valid" else image


def _ranked_units(pool: Sequence[SourceImage], keys: Sequence[str], seed: int) -> list[Unit]:
    """The units in the order of the hash of ``seed`` and a name: that of their group, or else their key."""
    same: DisjointSet[tuple[str, str]] = DisjointSet()
    for image, key in zip(pool, keys, strict=True):
        same.add(("key", key))
        if image.group is not None:
            same.add(("group", image.group))
            same.merge(("group", image.group), ("key", key))
    members = defaultdict(list)
    for image, key in zip(pool, keys, strict=True):
        members[same["key", key]].append((image, key))
    ranked = []
    for pairs in members.values():
        name = min([image.group for image, _ in pairs if image.group is not None] or [key for _, key in pairs])
        rank = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()
        ranked.append((rank, Unit(tuple(image for image, _ in pairs))))
    return [unit for _, unit in sorted(ranked, key=lambda pair: pair[0])]


def _by_label(units: Iterable[Unit]) -> dict[int, list[Unit]]:
    members = defaultdict(list)
    for unit in units:
        members[unit.label].append(unit)
    return members


def _draw(units: Sequence[Unit], count: float, most: int) -> list[Unit]:
    """The first units that have ``count`` images together, rounded, but at least one and at most ``most`` units.

    A unit is left out if the number of images is closer to ``count`` without it.
    """
    drawn: list[Unit] = []
    missing = max(round(count), 1)
    for unit in units:
        if len(drawn) < most and 2 * missing >= len(unit):
            drawn.append(unit)
            missing -= len(unit)
    return drawn if drawn or most < 1 else [min(units, key=len)]


def _without(units: Iterable[Unit], drawn: Iterable[Unit]) -> list[Unit]:
    gone = set(map(id, drawn))
    return [unit for unit in units if id(unit) not in gone]


def _cut(units: list[Unit], folds: int) -> list[list[Unit]]:
    """Cut the units of a class into folds of about the same number of images."""
    cut = []
    for left in range(folds, 1, -1):
        cut.append(_draw(units, sum(map(len, units)) / left, len(units) - left + 1))
        units = _without(units, cut[-1])
    return [*cut, units]


def _name(label: int | None, classes: Sequence[str]) -> str:
    return classes[label] if classes and label is not None else str(label)


def _check_enough(
    units: Iterable[Unit], parts: int, folds: int | None, wanted: Sequence[str], classes: Sequence[str]
) -> None:
    """Refuse classes with fewer units than parts into which each class is cut."""
    of_class: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        for label in {image.label for image in unit.images if image.label is not None}:
            of_class[label].append(unit)
    few = [label for label, found in sorted(of_class.items()) if len(found) < parts]
    if not few:
        return
    label, found = few[0], of_class[few[0]]
    paths = sorted(image.path for unit in found for image in unit.images if image.label == label)
    together = f" in {len(found)} groups that stay together" if len(found) < len(paths) else ""
    cut = ["a test split" if "test" in wanted else "", f"{folds} folds"] if folds else ["train", *wanted]
    others = likewise([_name(other, classes) for other in few[1:]], "classes")
    raise PipelineError(
        f"data: class {_name(label, classes)} has {len(paths)} images{together} ({paths[0]} ...), too few for "
        f"{' and '.join(filter(None, cut))}{others}; "
        f"add images, or remove the class{', or lower data.folds' if folds else ''}"
    )


def _check_classes(
    images: Sequence[SourceImage], labels: set[int | None], wanted: Sequence[str], classes: Sequence[str]
) -> None:
    """Refuse splits in which a class has no training images, which groups of several classes can cause."""
    for split in ("train", *wanted):
        without = labels - {image.label for image in images if image.split == split}
        missing = sorted(_name(label, classes) for label in without)
        if missing and split == "train":
            raise PipelineError(
                f"data: no image of the classes {listed(missing)} is in train, since each group stays together; try "
                "another data.split_seed, or smaller groups"
            )
        if missing:
            say(f"download: no image of the classes {listed(missing)} is in {split}, since each group stays together")
