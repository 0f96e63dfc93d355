"""From the measures of all images to what a person should look at."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.augment.duplicates import Group, duplicate_groups
from pipeline.common.raw_archive import SPLITS, RawImage

COLUMNS = ["finding", "group", "split", "source", "class", "detail"]
# Of the luma, 0 to 255: 95 % of a dark image lie below the one, 95 % of a bright one above the other.
DARK, BRIGHT = 64, 191
# Photos of food have 0.03 to 1.8 at 128 pixels; blurred by a Gaussian of 1.5 pixels, 93 % of them fall below this.
BLURRED = 0.02


@dataclass(frozen=True)
class Audit:
    """What was found in a dataset; a row is an image's place in ``images``.

    Attributes:
        images: all images of the archive, the bad ones too.
        classes: the class names.
        bad: for the row of each file that cannot be decoded, why not.
        measures: of each image, type ``MEASURES``; zeros for a bad one.
        image_size: height and width of the plain copies.
        groups: images that are the same.
        dropped: rows that ``data.on_leak: drop`` leaves out.
    """

    images: list[RawImage]
    classes: tuple[str, ...]
    bad: dict[int, str]
    measures: NDArray[np.void]
    image_size: int
    groups: list[Group]
    dropped: frozenset[int]

    @cached_property
    def kept(self) -> list[int]:
        """The rows that make the dataset."""
        return [row for row in range(len(self.images)) if row not in self.bad and row not in self.dropped]

    @cached_property
    def leaks(self) -> list[Group]:
        """The groups that lie in more than one split: they make the accuracy a lie."""
        return [group for group in self.groups if len({self.images[row].split for row in group.rows}) > 1]

    @cached_property
    def contradictions(self) -> list[Group]:
        """The groups whose images have different labels."""
        return [group for group in self.groups if len({self.images[row].label for row in group.rows} - {None}) > 1]

    @cached_property
    def repeats(self) -> list[Group]:
        """The other groups: one label, within one split."""
        others = {group.rows for group in [*self.leaks, *self.contradictions]}
        return [group for group in self.groups if group.rows not in others]

    @cached_property
    def unfit(self) -> dict[str, list[int]]:
        """For dark, bright, blurred and tiny, the rows of such images, the worst first."""
        measures = self.measures
        known = np.array([row not in self.bad for row in range(len(self.images))], bool)
        tiny = measures["short_side"] < self.image_size / 2
        kinds = {
            "dark": (measures["high"] < DARK, measures["high"]),
            "bright": (measures["low"] > BRIGHT, 255 - measures["low"]),
            # An enlarged image is smooth by that alone.
            "blurred": ((measures["sharpness"] < BLURRED) & ~tiny, measures["sharpness"]),
            "tiny": (tiny, measures["short_side"]),
        }
        found = {}
        for kind, (is_so, order) in kinds.items():
            rows = np.flatnonzero(is_so & known)
            found[kind] = rows[np.argsort(order[rows], kind="stable")].tolist()
        return found

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel over the plain training images that are kept, in 0 to 1."""
        rows = [row for row in self.kept if self.images[row].split == "train"]
        sums = self.measures["moments"][rows].sum(0)
        mean, square = sums / (max(len(rows), 1) * self.image_size**2)
        return mean / 255, np.sqrt(np.maximum(square - mean**2, 1e-12)) / 255


def audit(
    images: list[RawImage],
    classes: tuple[str, ...],
    bad: dict[int, str],
    measures: NDArray[np.void],
    plain: Callable[[int], NDArray[np.uint8]],
    drop_leaks: bool,
) -> Audit:
    """Look for duplicates and judge every image.

    Args:
        images, classes, bad, measures: as in ``Audit``.
        plain: gives the plain copy of a row, ``uint8``, ``(image_size, image_size, 3)``.
        drop_leaks: of the images of a leak, keep those of the last split alone.
    """
    good = np.array([row for row in range(len(images)) if row not in bad], np.int64)
    groups = [
        Group(tuple(good[list(group.rows)].tolist()), group.exact)
        for group in duplicate_groups(measures[good], lambda row: plain(int(good[row])))
    ]
    found = Audit(images, classes, bad, measures, len(plain(int(good[0]))), groups, frozenset())
    if not drop_leaks:
        return found
    return replace(found, dropped=frozenset(row for group in found.leaks for row in _before_last_split(images, group)))


def _before_last_split(images: list[RawImage], group: Group) -> list[int]:
    """The rows of a leak that lie before its last split: an image to be judged by must not be learned from."""
    place = {row: SPLITS.index(images[row].split) for row in group.rows}
    return [row for row in group.rows if place[row] < max(place.values())]


def summary(found: Audit) -> dict[str, Any]:
    """The audit in numbers, for ``results/metrics/audit.json``: images by split, what was found, channel statistics
    and the images of each class by split. Duplicates, leaks and contradictions are counted in groups."""
    kept = [found.images[row] for row in found.kept]
    splits = Counter(image.split for image in kept)
    labelled = Counter((image.split, image.label) for image in kept)
    channels = ("red", "green", "blue")
    mean, std = found.moments()
    return {
        "images": dict(splits),
        "bad_images": len(found.bad),
        "leaks": len(found.leaks),
        "contradictory_labels": len(found.contradictions),
        "duplicates": len(found.repeats),
        **{kind: len(rows) for kind, rows in found.unfit.items()},
        "dropped": len(found.dropped),
        "mean": {channel: round(float(value), 6) for channel, value in zip(channels, mean, strict=True)},
        "std": {channel: round(float(value), 6) for channel, value in zip(channels, std, strict=True)},
        # A list: `dvc metrics show` would give each class of a mapping a column of its own.
        "classes": [
            {"class": name, **{split: labelled[split, index] for split in splits}}
            for index, name in enumerate(found.classes)
        ],
    }


def findings_table(found: Audit) -> pd.DataFrame:
    """A row for each finding about an image, columns ``COLUMNS``; images of a group have its number in common."""
    number = {group.rows: place for place, group in enumerate(found.groups)}
    table = [_line(found, "bad image", row, "", reason) for row, reason in found.bad.items()]
    for finding, groups in (
        ("leak", found.leaks),
        ("contradictory labels", found.contradictions),
        ("duplicate", found.repeats),
    ):
        for group in groups:
            for row in group.rows:
                same = "the same file" if group.exact else "the same picture"
                detail = f"{same}, dropped" if row in found.dropped else same
                table.append(_line(found, finding, row, str(number[group.rows]), detail))
    for kind, rows in found.unfit.items():
        table += [_line(found, kind, row, "", unfit_detail(found, kind, row)) for row in rows]
    return pd.DataFrame(table, columns=COLUMNS)


def _line(found: Audit, finding: str, row: int, group: str, detail: str) -> list[str]:
    image = found.images[row]
    name = "" if image.label is None else found.classes[image.label]
    return [finding, group, image.split, image.entry, name, detail]


def unfit_detail(found: Audit, kind: str, row: int) -> str:
    """The measure by which an image is dark, bright, blurred or tiny."""
    measured = found.measures[row]
    return {
        "dark": f"95 % of the pixels are at most {measured['high']} of 255",
        "bright": f"95 % of the pixels are at least {measured['low']} of 255",
        "blurred": f"sharpness {measured['sharpness']:.4f}",
        "tiny": f"short side {measured['short_side']} pixels",
    }[kind]
