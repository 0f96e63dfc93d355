"""The audit: what is measured of each image, and which images a person should look at."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pandas as pd
from cv2.typing import MatLike
from numpy.typing import NDArray

from pipeline.common.raw_archive import SPLITS, RawImage
from pipeline.images.duplicates import FINGERPRINT, Duplicates, Group, find_duplicates, fingerprint, thumbnail

COLUMNS = ["finding", "group", "split", "source", "class", "detail"]
# The findings about identical images and about near-duplicates: in two splits, with two labels, and neither.
GROUP_KINDS = (
    ("leak", "contradictory labels", "duplicate"),
    ("near-duplicate in two splits", "near-duplicate with two labels", "near-duplicate"),
)
MAX_LEFT_OUT = 1000
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
        bad: the reason for each row that cannot be decoded or augmented.
        measures: one element of type ``MEASURES`` per image, zeros for a bad file.
        image_size: height and width of the plain copies.
        duplicates: identical images, and pairs of near-duplicates.
        dropped: the rows that ``data.on_leak: drop`` leaves out.
        left_out: the reason for each file of the source that is not used, by its path.
        corrected: the old and the new class of each image that ``data.corrections`` changed, by its path; None as the
            new class of an image that was dropped, which is not in ``images``.
    """

    images: list[RawImage]
    classes: tuple[str, ...]
    bad: dict[int, str]
    measures: NDArray[np.void]
    image_size: int
    duplicates: Duplicates
    dropped: frozenset[int]
    left_out: dict[str, str]
    corrected: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    @cached_property
    def kept(self) -> list[int]:
        """The rows that the dataset consists of."""
        return [row for row in range(len(self.images)) if row not in self.bad and row not in self.dropped]

    @cached_property
    def groups(self) -> dict[str, list[Group]]:
        """Identical images and near-duplicates by what they do; a group can be in two splits and have two labels."""
        found: dict[str, list[Group]] = {kind: [] for kinds in GROUP_KINDS for kind in kinds}
        for kinds, groups in zip(GROUP_KINDS, (self.duplicates.identical, self.duplicates.near), strict=True):
            for group in groups:
                labels = {self.images[row].label for row in group.rows} - {None}
                applies = [_leaks(group, self.images), len(labels) > 1]
                for kind, does in zip(kinds, [*applies, not any(applies)], strict=True):
                    if does:
                        found[kind].append(group)
        return found

    @cached_property
    def leaked(self) -> tuple[set[int], set[int]]:
        """The rows of valid and test that are in an earlier split, too: as the same picture, and as near-duplicates.

        Only rows that are kept count; no row is in both sets.
        """
        kept = set(self.kept)
        certain: set[int] = set()
        near: set[int] = set()
        for kind, found in (("leak", certain), ("near-duplicate in two splits", near)):
            for group in self.groups[kind]:
                splits = {row: _split(self.images[row]) for row in kept.intersection(group.rows)}
                first = min(splits.values(), default=0)
                found.update(row for row, split in splits.items() if split > first)
        return certain, near - certain

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

    @cached_property
    def _same(self) -> dict[int, str]:
        """What the images of each group of identical images have in common, by its first row."""
        contents = {group.rows[0]: self.measures["content"][list(group.rows)] for group in self.duplicates.identical}
        return {
            row: "the same file" if len(np.unique(content)) == 1 else "the same pixels"
            for row, content in contents.items()
        }

    def describe_duplicate(self, group: Group, row: int) -> str:
        """What the images of a group have in common, and whether this one is left out."""
        if group.correlation is not None:
            return f"near-duplicate, correlation {group.correlation:.3f}"
        same = self._same[group.rows[0]]
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
    left_out: dict[str, str],
) -> Audit:
    """Find duplicates and unfit images.

    Args:
        images, classes, bad, measures, image_size, left_out: see ``Audit``.
        plain: returns the plain copy of a row without borders, ``uint8``, ``(height, width, 3)``.
        drop_leaks: of identical images in several splits, keep only those in the last one.
    """
    # A test image with a pseudo-label is there twice on purpose.
    tested = {image.entry for image in images if image.split == "test"}
    copied = {row for row, image in enumerate(images) if image.split == "train" and image.entry in tested}
    good = np.array([row for row in range(len(images)) if row not in bad and row not in copied], np.int64)
    parts = np.array([_split(images[row]) for row in good], np.int64)
    near = find_duplicates(measures[good], parts, lambda row: thumbnail(plain(int(good[row]))))
    duplicates = Duplicates(_in_rows(near.identical, good), _in_rows(near.near, good), near.cut)
    dropped: set[int] = set()
    for group in duplicates.identical if drop_leaks else []:
        # An image that is used for evaluation must not be used for training, too.
        last = max(_split(images[row]) for row in group.rows)
        dropped |= {row for row in group.rows if _split(images[row]) < last}
    return Audit(images, classes, bad, measures, image_size, duplicates, frozenset(dropped), left_out)


def _in_rows(groups: list[Group], rows: NDArray[np.int64]) -> list[Group]:
    return [Group(tuple(rows[list(group.rows)].tolist()), group.correlation) for group in groups]


def _split(image: RawImage) -> int:
    return SPLITS.index(image.split)


def _leaks(group: Group, images: list[RawImage]) -> bool:
    return len({images[row].split for row in group.rows}) > 1


def summarize(found: Audit) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics and the details for ``write_results``.

    ``leaks`` counts the images of valid and test that are in an earlier split, too, as the same picture or as a
    near-duplicate; what is dropped does not count. The details count groups of identical images, and pairs of
    near-duplicates.
    """
    kept = [found.images[row] for row in found.kept]
    splits = Counter(image.split for image in kept)
    labelled = Counter((image.split, image.label) for image in kept)
    mean, std = (dict(zip(("red", "green", "blue"), values.tolist(), strict=True)) for values in found.moments())
    dropped = sum(new is None for _, new in found.corrected.values())
    metrics: dict[str, float] = {"images": len(kept), "leaks": sum(map(len, found.leaked)), "bad_files": len(found.bad)}
    details = {
        "splits": dict(splits),
        "left_out": dict(Counter(found.left_out.values()).most_common()),
        "leaks_of_near_duplicates": len(found.leaked[1]),
        "contradictory_labels": len(found.groups["contradictory labels"]),
        "duplicates": len(found.groups["duplicate"]),
        "near_duplicates": len(found.duplicates.near),
        "near_duplicates_with_two_labels": len(found.groups["near-duplicate with two labels"]),
        "compared_in_part": found.duplicates.cut,
        **{kind: len(rows) for kind, rows in found.unfit.items()},
        "dropped": len(found.dropped),
        "corrected": len(found.corrected) - dropped,
        "dropped_by_corrections": dropped,
        "pseudo_labels": sum(image.confidence is not None for image in kept),
        "mean": mean,
        "std": std,
        "classes": [
            {"class": name, **{split: labelled[split, index] for split in splits}}
            for index, name in enumerate(found.classes)
        ],
    }
    return metrics, details


def findings_table(found: Audit) -> pd.DataFrame:
    """One row per finding and image, with the columns ``COLUMNS``; images of a group share its number.

    Of the files that were left out, the first ``MAX_LEFT_OUT`` are listed, and the others are counted.
    """
    number = {group: place for place, group in enumerate([*found.duplicates.identical, *found.duplicates.near])}
    findings = [("bad image", row, "", reason) for row, reason in found.bad.items()]
    for kind, groups in found.groups.items():
        for group in groups:
            place = str(number[group])
            findings += [(kind, row, place, found.describe_duplicate(group, row)) for row in group.rows]
    for kind, rows in found.unfit.items():
        findings += [(kind, row, "", found.describe_unfit(kind, row)) for row in rows]
    rows_of = {image.path: row for row, image in enumerate(found.images) if image.label is not None}
    corrected = [(path, old) for path, (old, new) in found.corrected.items() if new is not None]
    findings += [("corrected label", rows_of[path], "", f"was {old}") for path, old in corrected]
    for row in found.kept:
        if (confidence := found.images[row].confidence) is not None:
            findings.append(("pseudo-label", row, "", f"confidence {confidence:.3f}"))
    table = [
        [kind, group, found.images[row].split, found.images[row].path, found.class_name(row), detail]
        for kind, row, group, detail in findings
    ]
    dropped = [(path, old) for path, (old, new) in found.corrected.items() if new is None]
    table += [["left out", "", "", path, old, "dropped by data.corrections"] for path, old in dropped]
    left_out = [["left out", "", "", path, "", reason] for path, reason in found.left_out.items()]
    table += left_out[:MAX_LEFT_OUT]
    for reason, count in Counter(row[-1] for row in left_out[MAX_LEFT_OUT:]).most_common():
        table.append(["left out", "", "", f"{count:,} more files", "", reason])
    return pd.DataFrame(table, columns=COLUMNS)
