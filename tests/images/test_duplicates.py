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
from scipy.cluster.hierarchy import DisjointSet

from benchmarks.inputs import text_page
from pipeline.images import duplicates
from pipeline.images.duplicates import (
    CANDIDATES,
    FINGERPRINT,
    find_duplicates,
    fingerprint,
    near_duplicate_groups,
    thumbnail,
)

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


def search(photos, size=64, parts=None):
    plain = [cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA) for photo in photos]
    prints = [
        fingerprint(photo.tobytes(), photo, cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY))
        for photo, copy in zip(photos, plain, strict=True)
    ]
    parts = np.array([0] * len(photos) if parts is None else parts)
    return find_duplicates(np.array(prints), parts, list(map(thumbnail, plain)).__getitem__)


def groups_of(photos, size=64):
    """The groups, each as a set of positions and whether they are identical."""
    found = search(photos, size)
    return [(set(group.rows), group.correlation is None) for group in [*found.identical, *found.near]]


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


def test_each_copy_is_in_a_pair_with_an_image_before_it(photographs):
    copies = [photographs[3], recompressed(photographs[3]), mirrored(photographs[3]), scaled(photographs[3])]
    found, count = search([*photographs, *copies]), len(photographs)
    assert [group.rows for group in found.identical] == [(3, count)]
    assert [group.rows[1] for group in found.near] == [count + 1, count + 2, count + 3]
    assert all(group.rows[0] in (3, *range(count + 1, count + 3)) for group in found.near)
    assert all(0.95 <= group.correlation <= 1 for group in found.near)


def test_near_duplicates_are_found_in_each_part_and_not_again_where_the_same_picture_is(photographs):
    photo, other = photographs[:2]
    photos = [photo, other, recompressed(photo), recompressed(photo, 50), other, recompressed(other)]
    found = search(photos, parts=[0, 0, 1, 1, 1, 1])
    assert [group.rows for group in found.identical] == [(1, 4)]
    assert [group.rows for group in found.near] == [(0, 2), (0, 3), (1, 5), (2, 3), (4, 5)]


def test_files_with_the_same_pixels_are_identical(photographs):
    with_comment = file_of(photographs[0], "JPEG", comment=b"another file")
    files = [file_of(photographs[0], "JPEG"), with_comment]
    assert files[0] != files[1]
    assert [group.rows for group in search([np.array(Image.open(io.BytesIO(file))) for file in files]).identical]


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


def random_prints(random, count):
    """Fingerprints of different images with hashes that differ in few bits."""
    prints = np.zeros(count, FINGERPRINT)
    prints["pixels"] = [number.to_bytes(16, "big") for number in range(1, count + 1)]
    prints["short_side"] = 64
    for name in ("hash", "mirrored_hash"):
        for _ in range(8):
            prints[name] ^= np.uint64(1) << random.integers(0, 64, count, dtype=np.uint64)
    return prints


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 3))
def test_images_are_compared_with_those_of_the_closest_hashes_before_them_in_each_part(seed, count, parts):
    random = np.random.default_rng(seed)
    prints, part = random_prints(random, count), np.sort(random.integers(0, parts, count))
    images = random.integers(0, 256, (count, 64, 64), dtype=np.uint8)
    compared = set()
    with pytest.MonkeyPatch.context() as patch:
        # The thumbnails are noise: no pair is a near-duplicate, so all candidates are compared.
        patch.setattr(
            "pipeline.images.duplicates.correlation", lambda one, other, _: compared.add((id(one), id(other))) or 0
        )
        thumbnails = list(images)
        assert find_duplicates(prints, part, thumbnails.__getitem__).near == []
    place = {id(image): row for row, image in enumerate(thumbnails)}
    pairs = {(place[one], place[other]) for one, other in compared}
    for row in range(count):
        for other in range(part[row] + 1):
            before = np.flatnonzero((part == other) & (np.arange(count) < row))
            distances = [
                (int(np.bitwise_count(prints[name][row] ^ prints["hash"][one])), mirrored, int(one))
                for one in before
                for mirrored, name in enumerate(("hash", "mirrored_hash"))
            ]
            closest = sorted(found for found in distances if found[0] <= 12)[:CANDIDATES]
            assert {one for one in before.tolist() if (one, row) in pairs} == {one for *_, one in closest}


def test_the_work_for_many_frames_of_one_scene_is_one_comparison_per_frame(photographs, monkeypatch):
    random, calls = np.random.default_rng(0), []
    scene = photographs[0].astype(int)
    frames = [np.clip(scene + random.integers(-6, 7, scene.shape), 0, 255).astype(np.uint8) for _ in range(300)]
    monkeypatch.setattr("pipeline.images.duplicates.correlation", lambda *pair: calls.append(1) or 0.99)
    found = search(frames)
    assert len(found.near) == len(calls) == 299
    assert found.cut == 0


def test_images_that_have_more_similar_ones_than_are_compared_are_counted(monkeypatch):
    prints = random_prints(np.random.default_rng(0), 40)
    prints["hash"], prints["mirrored_hash"] = 0, 2**64 - 1
    monkeypatch.setattr("pipeline.images.duplicates.correlation", lambda *pair: 0.0)
    found = find_duplicates(prints, np.zeros(40, int), lambda row: np.zeros((64, 64), np.uint8))
    assert found.near == []
    assert found.cut == 40 - CANDIDATES - 1


def test_copies_of_scanned_pages_are_found_among_pages_that_look_alike_with_few_comparisons(monkeypatch):
    random = np.random.default_rng(0)
    pages = [text_page(random) for _ in range(300)]
    copies = [(number, change(pages[number])) for change in CHANGES for number in range(0, 60, 3)]
    compared, compare = [], duplicates.correlation
    monkeypatch.setattr(duplicates, "correlation", lambda *pair: compared.append(1) or compare(*pair))
    found = search([*pages, *(copy for _, copy in copies)], 128)
    same = DisjointSet(range(len(pages) + len(copies)))
    for group in [*found.identical, *found.near]:
        same.merge(*group.rows)
    planted = [same.connected(number, len(pages) + place) for place, (number, _) in enumerate(copies)]
    assert np.mean(planted) >= 0.95
    assert len(same.subsets()) == len(pages) + len(copies) - sum(planted)  # no other two are taken for the same
    assert len(pages) < len(compared) <= CANDIDATES * (len(pages) + len(copies))
