"""Resizing inside the ONNX file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.export.resizing import PlainCopy
from pipeline.images.transforms import plain_copy
from tests.support.models import SPEC

INTERPOLATIONS = ["area", "bilinear", "bicubic"]

# Height and width: smaller, larger, equal, only one side of these, whole multiples, and halves that are rounded.
SIZES = [
    *((20, 25), (1, 1), (1, 31), (7, 3), (32, 32), (64, 64), (96, 64), (128, 32), (32, 33), (45, 32), (33, 32)),
    *((20, 100), (100, 20), (31, 33), (56, 304), (500, 1), (600, 400), (427, 640), (333, 1000), (40, 61), (31, 48)),
]


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [32, 50])
def test_pixels_equal_those_of_the_pipeline_up_to_a_rounded_level(resize, interpolation, size):
    random = np.random.default_rng(0)
    spec = replace(SPEC, image_size=size, resize=resize, interpolation=interpolation)
    expected, resized = plain_copy(spec), PlainCopy(spec)
    for height, width in SIZES:
        photo = random.integers(0, 256, (height, width, 3), np.uint8)
        copy = resized(torch.tensor(photo)[None])[0].numpy()
        assert copy.shape == (size, size, 3)
        difference = np.abs(copy - expected(photo))
        assert difference.max() <= 1, (height, width)
        # OpenCV interpolates with coefficients of 11 bits; Pillow's result is computed exactly.
        assert difference.mean() < (0.2 if interpolation == "area" else 1e-4), (height, width)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_photo_of_the_right_size_and_one_colour_stay_as_they_are(resize, interpolation):
    resized = PlainCopy(replace(SPEC, resize=resize, interpolation=interpolation))
    photos = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(resized(photos), photos.float())
    for size in [(3, 9), (300, 20), (77, 1234)]:
        colour = torch.tensor([0, 255, 101], dtype=torch.uint8).expand(1, *size, 3)
        assert (resized(colour) == colour[:, :1, :1]).all()


@pytest.mark.parametrize("key", ["resize", "interpolation"])
def test_another_way_of_resizing_is_refused_not_ignored(key):
    with pytest.raises(ValueError, match=rf"augment\.{key} fold"):
        PlainCopy(replace(SPEC, **{key: "fold"}))
