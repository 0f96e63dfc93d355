"""Pairs of 64-bit hashes that differ in few bits, found without looking at every pair.

Multi-index hashing (Norouzi, Punjani & Fleet 2014): the bits are cut into bands, and each band has a radius, so that
the radii plus one add up to the distance plus one. Two hashes that are within the distance are within its radius in one
band at least (the pigeonhole principle), so that only hashes whose bands are that close are compared: none is missed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
