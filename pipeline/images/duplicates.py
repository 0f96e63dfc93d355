"""Finds images that occur more than once: identical files, and copies recompressed, rescaled, mirrored or cropped.

Perceptual hashes propose pairs of images; the correlation of their pixels after an alignment decides. Among 5,000
photos of food, 90 pairs of hashes differ in at most 12 bits. 13 of these pairs show the same picture and have
correlations of 0.98 and more; the highest correlation of the others is 0.91.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import imagehash
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

from pipeline.images.decoding import plain_photo
from pipeline.machine import worker_count
from pipeline.progress import progress

# Images are reduced to this side before they are hashed; a smaller image has too little detail to be compared.
HASH_SIDE = 32
HASH_DISTANCE = 12
CORRELATION = 0.95

_HASH_BITS = 64
# A band is so wide that a bucket has about this many hashes: with fewer, Python takes longer than the comparisons.
_BUCKET_SIZE = 64
_MAX_BAND_BITS = 16
# Hashes are compared in blocks that fit into a core's cache.
_BLOCK_ROWS, _BLOCK_COLUMNS = 32, 4096
# Pairs submitted to the threads at a time; OpenCV releases the GIL.
_PAIRS_PER_BATCH = 256
_ALIGNED_SIDE = 64
_ECC_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
# An alignment that scales, rotates or shifts an image by more than this fraction is not a slight crop.
_MAX_CHANGE = 0.3


FINGERPRINT = np.dtype(
    [
        ("content", "V16"),  # digest of the file
        ("hash", "u8"),  # perceptual hash
        ("mirrored_hash", "u8"),  # perceptual hash of the mirrored image
        ("short_side", "u4"),  # pixels
    ]
)


def fingerprint(content: bytes, photo: NDArray[np.uint8], luma: MatLike) -> NDArray[np.void]:
    """What the search for duplicates needs of an image.

    Args:
        content: the file's bytes.
        photo: the decoded image, ``uint8``, ``(height, width, 3)``.
        luma: of the image, reduced, ``uint8``, ``(size, size)``.

    Returns:
        A scalar array of type ``FINGERPRINT``.
    """
    small = cv2.resize(luma, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    hashes = _perceptual_hash(small), _perceptual_hash(small[:, ::-1])
    return np.array((digest, *hashes, min(photo.shape[:2])), FINGERPRINT)


def _perceptual_hash(luma: MatLike) -> int:
    """Whether each of the lowest 8×8 frequencies is above their median (imagehash's ``phash``), as 64 bits."""
    bits = imagehash.phash(Image.fromarray(luma)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma of an image, ``uint8``, ``(height, width, 3)``, as the square that is compared, ``(64, 64)``."""
    luma = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return cv2.resize(luma, (_ALIGNED_SIDE, _ALIGNED_SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def near_duplicate_groups(contents: Iterable[bytes]) -> list[list[int]]:
    """Group the positions of image files that are duplicates or near-duplicates, directly or through others.

    Files that cannot be decoded, and images without a duplicate, are in no group. Memory: 4 KiB per image.
    """
    positions, prints, thumbnails = [], [], []
    for position, content in enumerate(contents):
        try:
            photo = plain_photo(content, _ALIGNED_SIDE)
        except ValueError:
            continue
        positions.append(position)
        thumbnails.append(thumbnail(photo))
        prints.append(fingerprint(content, photo, thumbnails[-1]))
    groups = duplicate_groups(np.array(prints, FINGERPRINT), thumbnails.__getitem__)
    return [[positions[row] for row in group.rows] for group in groups]


@dataclass(frozen=True)
class Group:
    """Rows of images that are the same; ``exact`` if their files are identical."""

    rows: tuple[int, ...]
    exact: bool


def duplicate_groups(prints: NDArray[np.void], thumbnail: Callable[[int], NDArray[np.uint8]]) -> list[Group]:
    """Find all groups of two or more images that are the same, sorted by their first row.

    Args:
        prints: one element with the fields of ``FINGERPRINT`` per image.
        thumbnail: returns the thumbnail of a row.
    """
    _, first, file, copies = np.unique(prints["content"], return_index=True, return_inverse=True, return_counts=True)
    # One image per distinct file, and only images that are large enough for a hash.
    rows = np.sort(first[prints["short_side"][first] >= HASH_SIDE])
    same = DisjointSet()
    pairs = _pairs_of_close_hashes(prints, rows)
    with ThreadPoolExecutor(worker_count()) as threads:
        while batch := list(islice(pairs, _PAIRS_PER_BATCH)):
            for one, other, _ in batch:
                same.add(one)
                same.add(other)
            unknown = [pair for pair in batch if not same.connected(*pair[:2])]
            values = threads.map(lambda pair: correlation(thumbnail(pair[0]), thumbnail(pair[1]), pair[2]), unknown)
            for (one, other, _), value in zip(unknown, values, strict=True):
                if value >= CORRELATION:
                    same.merge(one, other)
    members: dict[int, list[int]] = defaultdict(list)
    similar = np.isin(first, [row for row in same if same.subset_size(row) > 1])
    for row in np.flatnonzero((copies > 1)[file] | similar[file]).tolist():
        leader = int(first[file[row]])
        members[same[leader] if leader in same else leader].append(row)  # noqa: SIM401
    groups = [Group(tuple(rows), len(np.unique(file[rows])) == 1) for rows in members.values()]
    return sorted(groups, key=lambda group: group.rows)


def _pairs_of_close_hashes(prints: NDArray[np.void], rows: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
    """Yield pairs of rows with close hashes, and whether the second image of the pair is mirrored."""
    hashes = prints["hash"][rows]
    for name, mirrored in (("hash", False), ("mirrored_hash", True)):
        label = f"{'mirrored ' if mirrored else ''}duplicates"
        for ones, others in close_pairs(hashes, prints[name][rows], HASH_DISTANCE, label):
            for one, other in zip(rows[ones].tolist(), rows[others].tolist(), strict=True):
                yield one, other, mirrored


def correlation(one: NDArray[np.uint8], other: NDArray[np.uint8], mirrored: bool) -> float:
    """Align the second image with the first by an affine map (Evangelidis & Psarakis 2008), and correlate them.

    Args:
        one, other: thumbnails.
        mirrored: mirror the second image first.

    Returns:
        The correlation, -1 to 1; -1 if no alignment with a slight change is found.
    """
    template, image = _blurred(one), _blurred(other[:, ::-1] if mirrored else other)
    if template.std() == 0 or image.std() == 0:
        return 1.0 if np.array_equal(template, image) else -1.0
    try:
        value, warp = cv2.findTransformECC(  # type: ignore[call-overload]  # its mask may be None
            template, image, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, _ECC_CRITERIA, None, 1
        )
    except cv2.error:  # it did not converge
        return -1.0
    linear, shift = np.abs(warp[:, :2] - np.eye(2)).max(), np.abs(warp[:, 2]).max() / _ALIGNED_SIDE
    return float(value) if max(linear, shift) <= _MAX_CHANGE else -1.0


def _blurred(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    return cv2.GaussianBlur(luma, (0, 0), 1.0).astype(np.float32)


@dataclass(frozen=True)
class _Band:
    """``width`` bits of a hash from bit ``shift`` on, in which two hashes may differ by ``radius`` bits."""

    shift: int
    width: int
    radius: int

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(self.shift) & np.uint64((1 << self.width) - 1)).astype(np.int64)


def close_pairs(
    left: np.ndarray, right: np.ndarray, distance: int, label: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find the pairs of positions ``i < j`` where ``left[i]`` and ``right[j]`` differ in at most ``distance`` bits.

    Multi-index hashing (Norouzi et al. 2012): the hashes are cut into bands, and a pair differs by no more than the
    band's radius in at least one of them. Only hashes in the same or in close buckets of a band are compared.

    Args:
        left, right: hashes, ``uint64``, ``(images,)``.
        distance: bits, from 3 to 63.
        label: of the progress bar.

    Yields:
        Some pairs at a time, as two arrays; each pair occurs once, in no particular order.
    """
    bands = _bands(len(left), distance)
    buckets = progress(_buckets(left, right, bands), sum(1 << band.width for band in bands), label, "buckets")
    for number, ones, others in buckets:
        for i, j in _compare(left, right, ones, others, distance):
            # Leave out the pairs that an earlier band has found.
            difference = left[i] ^ right[j]
            found = [np.bitwise_count(band.keys(difference)) <= band.radius for band in bands[:number]]
            new = ~np.any(found, axis=0) if found else np.ones(len(i), bool)
            yield i[new], j[new]


def _bands(count: int, distance: int) -> list[_Band]:
    """Cut a hash into bands whose radii add up so that ``distance`` bits cannot exceed all of them."""
    bits = min(max(math.log2(max(count, 1) / _BUCKET_SIZE), 1), _MAX_BAND_BITS)
    number = min(round(_HASH_BITS / bits), distance + 1)
    ends = [_HASH_BITS * place // number for place in range(number + 1)]
    shares = [(distance + 1) * (place + 1) // number - (distance + 1) * place // number for place in range(number)]
    return [_Band(a, b - a, share - 1) for a, b, share in zip(ends[:-1], ends[1:], shares, strict=True)]


def _buckets(left: np.ndarray, right: np.ndarray, bands: list[_Band]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each bucket of each band: the band's number, the positions in ``left``, and the close ones in ``right``."""
    for number, band in enumerate(bands):
        (order, starts), (others, other_starts) = (_sorted_by(band, hashes) for hashes in (left, right))
        keys = np.arange(1 << band.width)
        masks = keys[np.bitwise_count(keys) <= band.radius]
        for key in keys.tolist():
            near = key ^ masks
            spans = zip(other_starts[near].tolist(), other_starts[near + 1].tolist(), strict=True)
            yield (
                number,
                order[starts[key] : starts[key + 1]],
                np.concatenate([others[start:end] for start, end in spans]),
            )


def _sorted_by(band: _Band, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions sorted by the band's bits, and the start of each value's positions, plus the end of the last."""
    keys = band.keys(hashes)
    order = np.argsort(keys, kind="stable")
    return order, np.searchsorted(keys[order], np.arange((1 << band.width) + 1))


def _compare(
    left: np.ndarray, right: np.ndarray, ones: np.ndarray, others: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows in (ones[start : start + _BLOCK_ROWS] for start in range(0, len(ones), _BLOCK_ROWS)):
        for columns in (others[start : start + _BLOCK_COLUMNS] for start in range(0, len(others), _BLOCK_COLUMNS)):
            distances = np.bitwise_count(left[rows][:, None] ^ right[columns])
            if distances.min() <= distance:
                row, column = np.nonzero(distances <= distance)
                i, j = rows[row], columns[column]
                yield i[i < j], j[i < j]
