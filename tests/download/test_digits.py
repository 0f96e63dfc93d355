"""The built-in digits are PNG files like any other source's."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.download.sources import open_digits


@pytest.fixture
def digits(data_params):
    with open_digits(data_params("digits")) as source:
        yield source


def test_every_digit_is_an_image_with_its_label(digits):
    assert [image.label for image in digits.images] == load_digits().target.tolist()
    assert {image.split for image in digits.images} == {None}


def test_paths_are_unique_and_in_order(digits):
    paths = [image.path for image in digits.images]
    assert paths == sorted(set(paths))
    assert (paths[0], paths[-1]) == ("0000.png", "1796.png")


def test_classes_are_named_by_the_digits(digits):
    assert digits.classes == tuple("0123456789")
    assert Counter(digits.classes[image.label] for image in digits.images)["3"] == 183


def test_pixels_use_all_grey_levels_from_black_to_white(digits):
    first = digits.images[0].path
    with Image.open(io.BytesIO(digits.read(first))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (8, 8))
        assert np.abs(np.asarray(picture) - load_digits().images[0] * 255 / 16).max() <= 0.5


def test_the_same_digit_has_the_same_bytes_each_time(digits):
    path = digits.images[5].path
    assert digits.read(path) == digits.read(path)
    assert digits.read(path) != digits.read(digits.images[6].path)


def test_classes_can_be_renamed(data_params):
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    with open_digits(data_params("digits", classes=names)) as source:
        assert source.classes == names
