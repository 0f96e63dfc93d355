"""The same picture is found again, saved, scaled, mirrored or cropped anew, and different ones are not."""

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.augment.duplicates import duplicate_groups
from pipeline.augment.measures import measure

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
    plain = np.stack([cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA) for photo in photos])
    measures = np.array([measure(photo.tobytes(), photo, copy) for photo, copy in zip(photos, plain, strict=True)])
    return [(set(group.rows), group.exact) for group in duplicate_groups(measures, plain.__getitem__)]


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
    # The photos of fine grass all over lose more than the others.
    assert len(right) >= 0.9 * len(photographs)
    assert len(found) == len(right)


def test_a_group_holds_every_copy(photographs):
    copies = [photographs[3], recompressed(photographs[3]), mirrored(photographs[3]), scaled(photographs[3])]
    assert groups_of([*photographs, *copies]) == [({3, *range(len(photographs), len(photographs) + 4)}, False)]


def test_tiny_images_are_compared_by_their_bytes_alone(photographs):
    tiny = [cv2.resize(photo, (16, 16), interpolation=cv2.INTER_AREA) for photo in photographs]
    assert groups_of([*tiny, tiny[5], recompressed(tiny[6])]) == [({5, len(photographs)}, True)]


def test_blank_images_are_the_same_only_in_the_same_colour():
    blank = [np.full((60 + number, 70, 3), colour, np.uint8) for number, colour in enumerate([0, 0, 90, 255, 255])]
    assert groups_of(blank) == [({0, 1}, False), ({3, 4}, False)]


def test_no_images_and_one_image_have_no_duplicates(photographs):
    assert groups_of([photographs[0]]) == []


@pytest.mark.slow
@pytest.mark.skipif(not FOOD10.exists(), reason="the photos of ../shared/data are not here")
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
    # No two photos of this split are the same, so that a group is the planted pair alone.
    assert all(len(rows) == 2 for rows, _ in found)
