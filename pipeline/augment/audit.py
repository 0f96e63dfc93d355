"""The audit: what is measured of each image, and which images a person should look at."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pandas as pd
from cv2.typing import MatLike
from numpy.typing import NDArray

from pipeline.common.raw_archive import SPLITS, RawImage
from pipeline.images.duplicates import FINGERPRINT, Group, duplicate_groups, fingerprint, thumbnail

COLUMNS = ["finding", "group", "split", "source", "class", "detail"]
# Larger plain copies are reduced to this size first, so that the thresholds fit every image_size.
MEASURED_SIZE = 128
# Luma, 0 to 255: 95 % of the pixels of a dark image are below DARK, 95 % of those of a bright one above BRIGHT.
DARK, BRIGHT = 64, 191
# Photos of food have a sharpness of 0.03 to 1.8 at 128 pixels. After a Gaussian blur with a standard deviation of
# 1.5 pixels, 93 % of them are below this threshold.
BLURRED = 0.02

MEASURES = np.dtype(
    [
        *((name, FINGERPRINT[name]) for name in FINGERPRINT.names or ()),
        ("low", "u1"),  # 5th percentile of the luma
        ("high", "u1"),  # 95th percentile of the luma
        ("sharpness", "f4"),  # variance of the Laplacian over the variance, which does not depend on contrast
        ("moments", "i8", (2, 3)),  # sums and sums of squares of the plain copy's channels
    ]
)


def measure(content: bytes, photo: NDArray[np.uint8], plain: NDArray[np.uint8]) -> NDArray[np.void]:
    """Measure an image.

    Args:
        content: the file's bytes.
        photo: the decoded image, ``uint8``, ``(height, width, 3)``.
        plain: its plain copy without borders, ``uint8``, ``(image_size, image_size, 3)``.

    Returns:
        A scalar array of type ``MEASURES``.
    """
    luma = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)
    if len(luma) > MEASURED_SIZE:
        luma = cv2.resize(luma, (MEASURED_SIZE, MEASURED_SIZE), interpolation=cv2.INTER_AREA)
    low, high = np.searchsorted(np.cumsum(_histogram(luma)), [0.05 * luma.size, 0.95 * luma.size])
    # Moments from histograms are exact, and ten times as fast as sums over the pixels.
    values = np.arange(256)
    counts = [_histogram(plain, channel) for channel in range(3)]
    (_, contrast), (_, roughness) = cv2.meanStdDev(luma), cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    return np.array(
        (
            *fingerprint(content, photo, luma).item(),
            low,
            high,
            roughness.item() ** 2 / (contrast.item() ** 2 + 1),
            [[count @ values for count in counts], [count @ values**2 for count in counts]],
        ),
        MEASURES,
    )


def _histogram(image: MatLike, channel: int = 0) -> NDArray[np.int64]:
    """The number of pixels with each of the 256 values."""
    return cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)


@dataclass(frozen=True)
class Audit:
    """The findings about a dataset; a row is the position of an image in ``images``.

    Attributes:
        images: all images of the archive, including bad files.
        classes: the class names.
        bad: the reason for each row that cannot be decoded.
        measures: one element of type ``MEASURES`` per image, zeros for a bad file.
        image_size: height and width of the plain copies.
        groups: images that are the same.
        dropped: the rows that ``data.on_leak: drop`` leaves out.
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
        """The rows that the dataset consists of."""
        return [row for row in range(len(self.images)) if row not in self.bad and row not in self.dropped]

    @cached_property
    def leaks(self) -> list[Group]:
        """The groups with images in more than one split: they make the accuracy too high."""
        return _leaks(self.groups, self.images)

    @cached_property
    def contradictions(self) -> list[Group]:
        """The groups with images of different labels."""
        return [group for group in self.groups if len({self.images[row].label for row in group.rows} - {None}) > 1]

    @cached_property
    def repeats(self) -> list[Group]:
        """The remaining groups: one label, within one split."""
        others = {group.rows for group in [*self.leaks, *self.contradictions]}
        return [group for group in self.groups if group.rows not in others]

    @cached_property
    def unfit(self) -> dict[str, list[int]]:
        """The rows of dark, bright, blurred and tiny images, the worst first."""
        measures = self.measures
        decoded = np.array([row not in self.bad for row in range(len(self.images))], bool)
        tiny = measures["short_side"] < self.image_size / 2
        kinds = {
            "dark": (measures["high"] < DARK, measures["high"]),
            "bright": (measures["low"] > BRIGHT, 255 - measures["low"]),
            # An enlarged image is always smooth.
            "blurred": ((measures["sharpness"] < BLURRED) & ~tiny, measures["sharpness"]),
            "tiny": (tiny, measures["short_side"]),
        }
        found = {}
        for kind, (applies, order) in kinds.items():
            rows = np.flatnonzero(applies & decoded)
            found[kind] = rows[np.argsort(order[rows], kind="stable")].tolist()
        return found

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel over the plain training images that are kept, in 0 to 1."""
        rows = [row for row in self.kept if self.images[row].split == "train"]
        sums = self.measures["moments"][rows].sum(0)
        mean, square = sums / (max(len(rows), 1) * self.image_size**2)
        return mean / 255, np.sqrt(np.maximum(square - mean**2, 1e-12)) / 255

    def class_name(self, row: int) -> str:
        """The class of an image, empty if it is unlabelled."""
        label = self.images[row].label
        return "" if label is None else self.classes[label]

    def describe_duplicate(self, group: Group, row: int) -> str:
        """What the images of a group have in common, and whether this one is left out."""
        same = "the same file" if group.exact else "the same picture"
        return f"{same}, dropped" if row in self.dropped else same

    def describe_unfit(self, kind: str, row: int) -> str:
        """The measure by which an image is dark, bright, blurred or tiny."""
        measured = self.measures[row]
        return {
            "dark": f"95 % of the pixels are at most {measured['high']} of 255",
            "bright": f"95 % of the pixels are at least {measured['low']} of 255",
            "blurred": f"sharpness {measured['sharpness']:.4f}",
            "tiny": f"short side {measured['short_side']} pixels",
        }[kind]


def audit(
    images: list[RawImage],
    classes: tuple[str, ...],
    bad: dict[int, str],
    measures: NDArray[np.void],
    image_size: int,
    plain: Callable[[int], NDArray[np.uint8]],
    drop_leaks: bool,
) -> Audit:
    """Find duplicates and unfit images.

    Args:
        images, classes, bad, measures, image_size: see ``Audit``.
        plain: returns the plain copy of a row without borders, ``uint8``, ``(height, width, 3)``.
        drop_leaks: of the images of a leak, keep only those in its last split.
    """
    good = np.array([row for row in range(len(images)) if row not in bad], np.int64)
    groups = [
        Group(tuple(good[list(group.rows)].tolist()), group.exact)
        for group in duplicate_groups(measures[good], lambda row: thumbnail(plain(int(good[row]))))
    ]
    dropped: set[int] = set()
    for group in _leaks(groups, images) if drop_leaks else []:
        # An image that is used for evaluation must not be used for training, too.
        splits = {row: SPLITS.index(images[row].split) for row in group.rows}
        dropped |= {row for row, split in splits.items() if split < max(splits.values())}
    return Audit(images, classes, bad, measures, image_size, groups, frozenset(dropped))


def _leaks(groups: list[Group], images: list[RawImage]) -> list[Group]:
    return [group for group in groups if len({images[row].split for row in group.rows}) > 1]


def summarize(found: Audit) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics and the details for ``write_results``. Duplicates, leaks and contradictory labels count groups."""
    kept = [found.images[row] for row in found.kept]
    splits = Counter(image.split for image in kept)
    labelled = Counter((image.split, image.label) for image in kept)
    mean, std = (dict(zip(("red", "green", "blue"), values.tolist(), strict=True)) for values in found.moments())
    metrics: dict[str, float] = {"images": len(kept), "leaks": len(found.leaks), "bad_files": len(found.bad)}
    details = {
        "splits": dict(splits),
        "contradictory_labels": len(found.contradictions),
        "duplicates": len(found.repeats),
        **{kind: len(rows) for kind, rows in found.unfit.items()},
        "dropped": len(found.dropped),
        "mean": mean,
        "std": std,
        "classes": [
            {"class": name, **{split: labelled[split, index] for split in splits}}
            for index, name in enumerate(found.classes)
        ],
    }
    return metrics, details


def findings_table(found: Audit) -> pd.DataFrame:
    """One row per finding and image, with the columns ``COLUMNS``; images of a group share its number."""
    number = {group.rows: place for place, group in enumerate(found.groups)}
    findings = [("bad image", row, "", reason) for row, reason in found.bad.items()]
    kinds = {"leak": found.leaks, "contradictory labels": found.contradictions, "duplicate": found.repeats}
    for kind, groups in kinds.items():
        for group in groups:
            place = str(number[group.rows])
            findings += [(kind, row, place, found.describe_duplicate(group, row)) for row in group.rows]
    for kind, rows in found.unfit.items():
        findings += [(kind, row, "", found.describe_unfit(kind, row)) for row in rows]
    table = [
        [kind, group, found.images[row].split, found.images[row].path, found.class_name(row), detail]
        for kind, row, group, detail in findings
    ]
    return pd.DataFrame(table, columns=COLUMNS)
