"""Tests of finding images that occur more than once."""

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.duplicates import close_pairs, duplicate_groups, fingerprint, near_duplicate_groups, thumbnail

FOOD10 = Path(__file__).parents[3] / "shared/data/food10.zip"


def recompressed(pixels, quality=35):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return np.array(Image.open(content))


def scaled(pixels, factor=0.5):
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def mirrored(pixels):
    return np.ascontiguousarray(pixels[:, ::-1])


def cropped(pixels, share=0.03):
    top, left = (max(1, int(share * side)) for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : -top - 1, left:])


CHANGES = [recompressed, scaled, mirrored, cropped]


def groups_of(photos, size=64):
    """The groups, each as a set of positions and whether its files are the same."""
    plain = [cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA) for photo in photos]
    prints = [
        fingerprint(photo.tobytes(), photo, cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY))
        for photo, copy in zip(photos, plain, strict=True)
    ]
    thumbnails = list(map(thumbnail, plain))
    return [(set(group.rows), group.exact) for group in duplicate_groups(np.array(prints), thumbnails.__getitem__)]


def file_of(pixels, kind="PNG", **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def test_the_groups_of_files_have_their_positions(photographs):
    files = [file_of(photo) for photo in photographs]
    files[1:1] = [b"junk", b""]
    files += [file_of(photographs[0], "JPEG", quality=60), files[5], file_of(mirrored(photographs[3]))]
    last = len(files) - 1
    assert near_duplicate_groups(iter(files)) == [[0, last - 2], [5, last - 1, last]]
    assert near_duplicate_groups([b"junk"]) == near_duplicate_groups([]) == []


def test_different_photos_are_no_duplicates(photographs):
    assert groups_of(list(photographs)) == []


def test_the_same_file_twice_is_an_exact_duplicate(photographs):
    assert groups_of([*photographs, photographs[7], photographs[7]]) == [
        ({7, len(photographs), len(photographs) + 1}, True)
    ]


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_copy_is_found(photographs, change, size):
    found = groups_of([*photographs, *(change(photo) for photo in photographs)], size)
    assert all(not exact for _, exact in found)
    right = [rows for rows, _ in found if len(rows) == 2 and max(rows) - min(rows) == len(photographs)]
    # Photos that show only fine grass lose more detail than the others.
    assert len(right) >= 0.9 * len(photographs)
    assert len(found) == len(right)


def test_a_group_contains_all_copies(photographs):
    copies = [photographs[3], recompressed(photographs[3]), mirrored(photographs[3]), scaled(photographs[3])]
    assert groups_of([*photographs, *copies]) == [({3, *range(len(photographs), len(photographs) + 4)}, False)]


def test_tiny_images_are_compared_only_by_their_bytes(photographs):
    tiny = [cv2.resize(photo, (16, 16), interpolation=cv2.INTER_AREA) for photo in photographs]
    assert groups_of([*tiny, tiny[5], recompressed(tiny[6])]) == [({5, len(photographs)}, True)]


def test_blank_images_are_the_same_only_in_the_same_colour():
    blank = [np.full((60 + number, 70, 3), colour, np.uint8) for number, colour in enumerate([0, 0, 90, 255, 255])]
    assert groups_of(blank) == [({0, 1}, False), ({3, 4}, False)]


def test_no_images_and_one_image_have_no_duplicates(photographs):
    assert groups_of([photographs[0]]) == []


@pytest.mark.slow
@pytest.mark.skipif(not FOOD10.exists(), reason="needs the photos in ../shared/data")
@pytest.mark.parametrize(
    ("change", "recall"),
    [(recompressed, 0.95), (scaled, 0.95), (mirrored, 0.95), (cropped, 0.9)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_planted_copies_of_food_photos_are_found(change, recall):
    with zipfile.ZipFile(FOOD10) as archive:
        names = [name for name in archive.namelist() if name.startswith("food10/valid/")]
        photos = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    found = groups_of([*photos, *(change(photo) for photo in photos[::3])], 128)
    planted = [(position, len(photos) + number) for number, position in enumerate(range(0, len(photos), 3))]
    together = [any({*pair} <= rows for rows, _ in found) for pair in planted]
    assert np.mean(together) >= recall
    # No two photos of this split are the same, so each group is a planted pair.
    assert all(len(rows) == 2 for rows, _ in found)


def scattered(random, count, families):
    """Hashes in families; the members of a family differ from its founder by up to 16 bits."""
    founders = random.integers(0, 2**64, families, dtype=np.uint64)
    hashes = founders[random.integers(0, families, count)]
    for _ in range(16):
        flipped = np.uint64(1) << random.integers(0, 64, count, dtype=np.uint64)
        hashes ^= np.where(random.random(count) < 0.5, flipped, np.uint64(0))
    return hashes


def every_pair(left, right, distance):
    close = np.bitwise_count(left[:, None] ^ right) <= distance
    return sorted(map(tuple, np.argwhere(np.triu(close, 1)).tolist()))


def found_pairs(left, right, distance):
    pairs = close_pairs(left, right, distance, "test")
    return sorted((i, j) for ones, others in pairs for i, j in zip(ones.tolist(), others.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(1, 100), st.sampled_from([7, 12, 20]))
def test_close_pairs_are_those_of_a_comparison_of_all_pairs_each_once(seed, count, families, distance):
    random = np.random.default_rng(seed)
    left, right = scattered(random, count, families), scattered(random, count, families)
    for others in (left, right, left[::-1].copy()):
        assert found_pairs(left, others, distance) == every_pair(left, others, distance)


@pytest.mark.parametrize("count", [3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_many_hashes_are_compared_in_fewer_and_wider_bands(count):
    hashes = scattered(np.random.default_rng(0), count, count // 3)
    found, known = found_pairs(hashes, hashes, 12), []
    for start in range(0, count, 500):
        close = np.bitwise_count(hashes[start : start + 500, None] ^ hashes) <= 12
        known += [(start + i, j) for i, j in np.argwhere(close).tolist() if start + i < j]
    assert len(known) > count / 2
    assert found == sorted(known)


def test_identical_hashes_are_all_paired():
    hashes = np.zeros(300, np.uint64)
    assert len(found_pairs(hashes, hashes, 12)) == 300 * 299 / 2


def test_no_hashes_and_one_hash_have_no_pairs():
    for count in (0, 1):
        assert found_pairs(np.ones(count, np.uint64), np.ones(count, np.uint64), 12) == []
