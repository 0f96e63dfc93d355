"""What is measured of an image."""

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from pipeline.augment.measures import measure


def resized(pixels, size=64):
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)


def measured(pixels, size=64):
    return measure(pixels.tobytes(), pixels, resized(pixels, size))


def test_files_are_known_by_their_bytes(photographs):
    first, second = photographs[:2]
    assert measured(first)["content"] == measured(first.copy())["content"] != measured(second)["content"]


def test_the_hash_is_that_of_the_library_and_the_mirrored_one_that_of_the_mirrored_image(photographs):
    for pixels in photographs[:8]:
        luma = cv2.cvtColor(resized(pixels), cv2.COLOR_RGB2GRAY)
        small = Image.fromarray(cv2.resize(luma, (32, 32), interpolation=cv2.INTER_AREA))
        assert f"{int(measured(pixels)['hash']):016x}" == str(imagehash.phash(small))
        assert measured(pixels)["mirrored_hash"] == measured(pixels[:, ::-1].copy())["hash"]


@pytest.mark.parametrize(("height", "width"), [(9, 40), (40, 9)])
def test_the_short_side_is_that_of_the_photo(height, width):
    assert measured(np.zeros((height, width, 3), np.uint8))["short_side"] == 9


def test_percentiles_tell_dark_from_bright():
    ramp = np.tile(np.linspace(0, 255, 200).astype(np.uint8)[:, None, None], (1, 200, 3))
    assert measured(ramp)["low"] == pytest.approx(0.05 * 255, abs=3)
    assert measured(ramp)["high"] == pytest.approx(0.95 * 255, abs=3)


def test_sharpness_falls_with_blur_and_not_with_contrast(photographs):
    for pixels in photographs[::6]:
        blurred = cv2.GaussianBlur(pixels, (0, 0), 3)
        pale = (pixels // 2 + 64).astype(np.uint8)
        sharp = measured(pixels)["sharpness"]
        assert measured(blurred)["sharpness"] < sharp / 3
        assert measured(pale)["sharpness"] == pytest.approx(sharp, rel=0.2)


def test_a_blank_image_has_no_sharpness():
    assert measured(np.full((50, 50, 3), 128, np.uint8))["sharpness"] == 0


def test_moments_give_mean_and_variance(photographs):
    sums, squares = measured(photographs[0])["moments"]
    plain = resized(photographs[0]).reshape(-1, 3).astype(float)
    np.testing.assert_allclose(sums / len(plain), plain.mean(0))
    np.testing.assert_allclose(squares / len(plain) - (sums / len(plain)) ** 2, plain.var(0))
