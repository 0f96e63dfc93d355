"""Thumbnails within a budget of bytes."""

import base64

import cv2
import numpy as np
import pytest

from pipeline.report.images import make_thumbnails
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
