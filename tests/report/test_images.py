"""Thumbnails within a budget of bytes."""

import base64

import cv2
import numpy as np
import pytest

from pipeline.report.images import batch_tiles, encode_photos, make_thumbnails
from tests.support.report_results import photos


def decoded(uri):
    data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_few_images_have_large_thumbnails_with_the_right_colours():
    images = np.zeros((3, 1, 128, 128, 3), np.uint8)
    images[1, ..., 0] = 255
    made = make_thumbnails(images, [0, 1], set(), 100_000)
    assert made.side == 96
    assert list(made.uris) == [0, 1]
    assert decoded(made.uris[1]).shape == (96, 96, 3)
    # OpenCV has blue first.
    assert decoded(made.uris[1])[48, 48, 2] > 240


def test_small_images_are_not_enlarged():
    made = make_thumbnails(photos(2, 32), [0, 1], set(), 100_000)
    assert made.side == 32
    assert decoded(made.uris[0]).shape == (32, 32, 3)


@pytest.mark.parametrize("count", [15, 45, 240])
def test_more_images_have_smaller_thumbnails_and_all_stay_within_the_budget(count):
    made = make_thumbnails(photos(count, 128), range(count), set(), 90_000)
    assert sum(map(len, made.uris.values())) <= 90_000
    assert (made.side == 96) == (count == 15)
    assert (len(made.uris) == count) == (count < 240)


def test_if_not_all_fit_the_first_ones_and_an_evenly_spaced_sample_of_the_others_do():
    made = make_thumbnails(photos(300, 128), range(300), {297, 298, 299}, 60_000)
    assert {297, 298, 299} < made.uris.keys()
    others = np.array(sorted(made.uris.keys() - {297, 298, 299}))
    assert 10 < len(others) < 200
    assert np.diff(np.array([-1, *others, 297])).max() <= 4 * 297 / len(others)


def test_no_image():
    assert make_thumbnails(photos(1, 32), [], set(), 1000).uris == {}


def png(pixels):
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()


def test_photos_keep_their_shape_and_are_as_large_as_allowed():
    wide, small = np.zeros((400, 1280, 3), np.uint8), np.zeros((90, 50, 3), np.uint8)
    wide[..., 0] = 255
    photos_of = encode_photos([png(wide), png(small)], 80, 100_000)
    assert [decoded(uri).shape for uri in photos_of] == [(200, 640, 3), (90, 50, 3)]
    assert decoded(photos_of[0])[100, 300, 2] > 240


def test_photos_that_are_not_larger_than_a_thumbnail_or_exceed_the_budget_are_left_out():
    contents = [png(picture) for picture in photos(3, 128)[:, 0]]
    assert encode_photos(contents, 128, 100_000) == ["", "", ""]
    first = encode_photos(contents[:1], 96, 100_000)[0]
    assert encode_photos(contents, 96, len(first)) == [first, "", ""]


def test_the_training_images_are_cut_out_row_by_row():
    pictures = np.zeros((3, 16, 16, 3), np.uint8)
    pictures[0, ..., 0] = pictures[1, ..., 1] = pictures[2, ..., 2] = 255
    grid = np.vstack([np.hstack(pictures[:2]), np.hstack([pictures[2], pictures[2]])])
    targets = [[("cat", 1.0)], [("cat", 0.75), ("dog", 0.25)], [("dog", 1.0)]]
    tiles = batch_tiles(png(grid), 16, targets)
    assert [caption for _, caption in tiles] == ["cat", "75% cat + 25% dog", "dog"]
    assert [int(decoded(uri)[8, 8].argmax()) for uri, _ in tiles] == [2, 1, 0]
