"""Images that are there more than once: the same file, or the same picture saved, scaled, mirrored or cropped anew.

Perceptual hashes propose pairs, and an alignment of their pixels decides. Of 5,000 photos of food 90 pairs of hashes
differ in 12 bits or fewer; the alignment keeps the 13 that are the same picture to the eye, with a wide gap in its
correlation between these (0.98 and more) and the next (0.91).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from pipeline.augment.measures import HASH_SIDE
from pipeline.machine import worker_count
from pipeline.progress import progress

BITS = 64
# Bands are as wide as leaves so many hashes a bucket: fewer, and Python takes longer than the comparisons.
_BUCKET = 64
_WIDEST = 16
# Rows and columns of hashes that are compared at a time: what lies between fits into a core's cache.
_ROWS, _COLUMNS = 32, 4096


@dataclass(frozen=True)
class _Band:
    """``width`` bits from the bit ``shift`` on, in which two hashes may differ in ``radius``."""

    shift: int
    width: int
    radius: int

    @cached_property
    def masks(self) -> np.ndarray:
        """The differences within the radius."""
        every = np.arange(1 << self.width)
        return every[np.bitwise_count(every) <= self.radius]

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(self.shift) & np.uint64((1 << self.width) - 1)).astype(np.int64)


def close_pairs(
    left: np.ndarray, right: np.ndarray, distance: int, label: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find the pairs of places ``i < j`` where ``left[i]`` and ``right[j]`` differ in at most ``distance`` bits.

    Args:
        left, right: hashes, ``uint64``, ``(images,)``.
        distance: bits, from 3 to 63.
        label: of the progress.

    Returns:
        Some pairs at a time, as two arrays; each pair comes once, in no particular order.
    """
    bands = _bands(len(left), distance)
    buckets = progress(_buckets(left, right, bands), sum(1 << band.width for band in bands), label, "buckets")
    for number, ones, others in buckets:
        for i, j in _compare(left, right, ones, others, distance):
            # The pair has been there already if an earlier band found it.
            differ = left[i] ^ right[j]
            found = [np.bitwise_count(band.keys(differ)) <= band.radius for band in bands[:number]]
            new = ~np.any(found, axis=0) if found else np.ones(len(i), bool)
            yield i[new], j[new]


def _bands(count: int, distance: int) -> list[_Band]:
    bits = min(max(math.log2(max(count, 1) / _BUCKET), 1), _WIDEST)
    number = min(round(BITS / bits), distance + 1)
    ends = [BITS * place // number for place in range(number + 1)]
    shares = [(distance + 1) * (place + 1) // number - (distance + 1) * place // number for place in range(number)]
    return [_Band(a, b - a, share - 1) for a, b, share in zip(ends[:-1], ends[1:], shares, strict=True)]


def _buckets(left: np.ndarray, right: np.ndarray, bands: list[_Band]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each bucket of each band: the band's number, the places in ``left``, and those close in ``right``."""
    for number, band in enumerate(bands):
        (order, starts), (others, other_starts) = (_sorted_by(band, hashes) for hashes in (left, right))
        for key in range(1 << band.width):
            near = key ^ band.masks
            spans = zip(other_starts[near].tolist(), other_starts[near + 1].tolist(), strict=True)
            yield (
                number,
                order[starts[key] : starts[key + 1]],
                np.concatenate([others[start:end] for start, end in spans]),
            )


def _sorted_by(band: _Band, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places sorted by the band's bits, and where each value's begin, with the end of the last."""
    keys = band.keys(hashes)
    order = np.argsort(keys, kind="stable")
    return order, np.searchsorted(keys[order], np.arange((1 << band.width) + 1))


def _compare(
    left: np.ndarray, right: np.ndarray, ones: np.ndarray, others: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows in (ones[start : start + _ROWS] for start in range(0, len(ones), _ROWS)):
        for columns in (others[start : start + _COLUMNS] for start in range(0, len(others), _COLUMNS)):
            apart = np.bitwise_count(left[rows][:, None] ^ right[columns])
            if apart.min() <= distance:
                row, column = np.nonzero(apart <= distance)
                i, j = rows[row], columns[column]
                yield i[i < j], j[i < j]


HASH_DISTANCE = 12
CORRELATION = 0.95
# So many pairs are given to the threads together; OpenCV works without Python's lock.
_ALIGNED_AT_ONCE = 256
_ALIGNED_SIDE = 64
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
# An alignment that scales, turns or moves an image by more than this share is no slight crop.
_LARGEST_MOVE = 0.3


@dataclass(frozen=True)
class Group:
    """The rows of images that are the same; ``exact`` where their files are, else near."""

    rows: tuple[int, ...]
    exact: bool


def duplicate_groups(measures: NDArray[np.void], plain: Callable[[int], NDArray[np.uint8]]) -> list[Group]:
    """Find the groups of two or more, sorted by their first row.

    Args:
        measures: of each image, type ``MEASURES``.
        plain: gives the plain copy of a row, ``uint8``, ``(size, size, 3)``.
    """
    _, first, file, copies = np.unique(measures["content"], return_index=True, return_inverse=True, return_counts=True)
    # One of each file is enough, and the hash of a tiny image says nothing.
    rows = np.sort(first[measures["short_side"][first] >= HASH_SIDE])
    same = DisjointSet()
    pairs = _alike_hashes(measures, rows)
    with ThreadPoolExecutor(worker_count()) as threads:
        while some := list(islice(pairs, _ALIGNED_AT_ONCE)):
            unknown = [pair for pair in some if not _connected(same, *pair[:2])]
            values = threads.map(lambda pair: correlation(plain(pair[0]), plain(pair[1]), pair[2]), unknown)
            for (one, other, _), value in zip(unknown, values, strict=True):
                if value >= CORRELATION:
                    same.add(one)
                    same.add(other)
                    same.merge(one, other)
    members: dict[int, list[int]] = defaultdict(list)
    alike = np.isin(first, list(same))
    for row in np.flatnonzero((copies > 1)[file] | alike[file]).tolist():
        leader = int(first[file[row]])
        members[same[leader] if leader in same else leader].append(row)  # noqa: SIM401
    groups = [Group(tuple(rows), len(np.unique(file[rows])) == 1) for rows in members.values()]
    return sorted(groups, key=lambda group: group.rows)


def _connected(same: DisjointSet, one: int, other: int) -> bool:
    return one in same and other in same and same.connected(one, other)


def _alike_hashes(measures: NDArray[np.void], rows: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
    """The pairs whose hashes are close, plain or with the second one mirrored."""
    hashes = measures["hash"][rows]
    for name, mirrored in (("hash", False), ("mirrored_hash", True)):
        label = f"augment: {'mirrored ' if mirrored else ''}duplicates"
        for ones, others in close_pairs(hashes, measures[name][rows], HASH_DISTANCE, label):
            for one, other in zip(rows[ones].tolist(), rows[others].tolist(), strict=True):
                yield one, other, mirrored


def correlation(one: NDArray[np.uint8], other: NDArray[np.uint8], mirrored: bool) -> float:
    """The correlation of two images, ``uint8``, ``(size, size, 3)``, once the second is aligned with the first by an
    affine map (Evangelidis & Psarakis 2008); -1 where no slight one is found."""
    template, image = _outline(one), _outline(other[:, ::-1] if mirrored else other)
    if template.std() == 0 or image.std() == 0:
        return 1.0 if np.array_equal(template, image) else -1.0
    try:
        value, moved = cv2.findTransformECC(  # type: ignore[call-overload]  # its mask may be None
            template, image, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, _STOP, None, 1
        )
    except cv2.error:  # it did not converge
        return -1.0
    turned, shifted = np.abs(moved[:, :2] - np.eye(2)).max(), np.abs(moved[:, 2]).max() / _ALIGNED_SIDE
    return float(value) if max(turned, shifted) <= _LARGEST_MOVE else -1.0


def _outline(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    luma = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(luma, (_ALIGNED_SIDE, _ALIGNED_SIDE), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 1.0).astype(np.float32)
