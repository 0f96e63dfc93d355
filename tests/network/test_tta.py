"""Variants of an image for test-time augmentation."""

from typing import get_args

import pytest
import torch
from torchvision.transforms import functional

from pipeline.network.tta import METHODS, variants
from pipeline.params.schema import Tta


@pytest.mark.parametrize("size", [32, 45])
def test_variants_are_torchvisions_flips_and_crops_resized_to_the_size_of_the_image(size):
    images = torch.rand(2, 3, size, size)
    side = round(7 / 8 * size)
    expected = {
        "none": [images],
        "hflip": [images, functional.hflip(images)],
        "five_crop": functional.five_crop(images, side),
        "ten_crop": functional.ten_crop(images, side),
        "views": [images],
    }
    for method, crops in expected.items():
        found = variants(images, method)
        assert len(found) == len(crops)
        # Torchvision crops the mirror image, so that the corners of ten_crop are in another order.
        for crop in crops:
            resized = functional.resize(crop, [size, size], antialias=True)
            assert sum(torch.allclose(variant, resized, atol=1e-5) for variant in found) == 1


def test_the_parameters_allow_these_methods_views_and_auto():
    assert get_args(Tta) == (*METHODS, "views", "auto")
