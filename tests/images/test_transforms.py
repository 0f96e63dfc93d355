"""Tests of plain copies and augmented views."""

import inspect
import os
import random
import time
from collections import Counter
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.images.transforms import (
    GREY,
    PRESETS,
    RESIZED_PIXELS,
    _build,
    albumentations,
    augmented_view,
    plain_copy,
    without_borders,
)
from pipeline.params.schema import AugmentParams, Transform
from tests.support.sections import AUGMENT

TRANSFORMS = [
    {"name": "RandomResizedCrop", "scale": [0.5, 1.0]},
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "Affine", "rotate": [-20, 20], "p": 1},
    {"name": "ColorJitter"},
    {"name": "GaussNoise", "p": 1},
]


RESIZE, INTERPOLATION = ["stretch", "crop", "pad"], ["area", "bilinear", "bicubic"]


def params(**changes) -> AugmentParams:
    return AugmentParams(**{**AUGMENT, "transforms": TRANSFORMS, **changes})


def photo(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resizing(resize: str, size: int = 32) -> list:
    """The transforms of albumentations that do what ``plain_copy`` does with ``area``."""
    smooth = {"interpolation": cv2.INTER_CUBIC, "area_for_downscale": "image"}
    return {
        "stretch": [albumentations.Resize(size, size, **smooth)],
        "crop": [albumentations.SmallestMaxSize(size, **smooth), albumentations.CenterCrop(size, size)],
        "pad": [
            albumentations.LongestMaxSize(size, **smooth),
            albumentations.PadIfNeeded(size, size, border_mode=cv2.BORDER_CONSTANT, fill=(GREY, GREY, GREY)),
        ],
    }[resize]


sides = st.integers(1, 200)


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.sampled_from(RESIZE), st.sampled_from(INTERPOLATION), st.sampled_from([32, 64]))
def test_copies_and_views_of_any_photo_have_the_given_size(height, width, resize, interpolation, size):
    chosen = params(resize=resize, interpolation=interpolation, image_size=size)
    for pixels in (plain_copy(chosen)(photo(height, width)), augmented_view(chosen)(photo(height, width), 1)):
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("interpolation", INTERPOLATION)
def test_a_photo_of_the_given_size_is_not_changed(resize, interpolation):
    copy = plain_copy(params(resize=resize, interpolation=interpolation))
    np.testing.assert_array_equal(copy(photo(32, 32)), photo(32, 32))


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.sampled_from(RESIZE), st.sampled_from([32, 64]))
def test_area_has_the_bits_of_albumentations(height, width, resize, size):
    copy = plain_copy(params(resize=resize, image_size=size))(photo(height, width))
    together = albumentations.Compose(resizing(resize, size))
    np.testing.assert_array_equal(copy, together(image=photo(height, width))["image"])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(100, 150), (150, 100), (20, 30), (33, 32), (50, 20), (500, 333)])
def test_bilinear_and_bicubic_have_the_bits_of_torchvision(height, width, interpolation):
    """As its presets for ImageNet and those of timm: ``Resize`` of the short side, then ``CenterCrop``."""
    import torchvision.transforms.functional as of

    image = Image.fromarray(photo(height, width))
    method = of.InterpolationMode(interpolation)
    stretched, cropped, padded = (
        plain_copy(params(resize=resize, interpolation=interpolation))(photo(height, width)) for resize in RESIZE
    )
    np.testing.assert_array_equal(stretched, np.array(of.resize(image, [32, 32], method)))
    # torchvision rounds the long side down.
    sides = (32, round(32 * width / height)) if height < width else (round(32 * height / width), 32)
    top, left = ((side - 32) // 2 for side in sides)
    np.testing.assert_array_equal(cropped, np.array(of.crop(of.resize(image, sides, method), top, left, 32, 32)))
    inside = np.array(of.resize(image, [round(32 * side / max(height, width)) for side in (height, width)], method))
    np.testing.assert_array_equal(without_borders(padded), inside)


def test_a_tall_thin_photo_is_not_enlarged_to_an_intermediate_picture_that_needs_much_memory():
    image = photo(RESIZED_PIXELS // 32 + 1, 1)
    stretched = plain_copy(params(interpolation="bicubic"))(image)
    first = Image.fromarray(image).resize((1, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(stretched, np.array(first.resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("side", [100, 192, 400])
@pytest.mark.parametrize("upright", [False, True])
def test_crop_keeps_the_centre_and_stretch_keeps_everything(side, upright):
    image = np.full((64, side, 3), 200, np.uint8)
    edge = (side - 64) // 2
    image[:, :edge] = image[:, -edge:] = 0
    image = image.transpose(1, 0, 2).copy() if upright else image
    cropped, stretched = (plain_copy(params(resize=resize))(image) for resize in ("crop", "stretch"))
    assert cropped[2:-2, 2:-2].min() == 200
    assert stretched.mean() == pytest.approx(image.mean(), rel=0.1)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(("side", "inside"), [(66, 31), (100, 20), (192, 11), (400, 5), (6400, 1)])
def test_pad_keeps_the_whole_photo_and_its_aspect_between_grey_borders(side, inside, upright):
    image = np.full((64, side, 3), 200, np.uint8)
    image[:, : side // 2] = 50
    image = image.transpose(1, 0, 2).copy() if upright else image
    chosen = params(resize="pad", views=1, transforms=[{"name": "HorizontalFlip", "p": 0}])
    for pixels in (plain_copy(chosen)(image), augmented_view(chosen)(image, 1)):
        padded = pixels.transpose(1, 0, 2) if upright else pixels
        before = (32 - inside) // 2
        assert (padded[:before] == GREY).all()
        assert (padded[before + inside :] == GREY).all()
        photo = padded[before : before + inside]
        assert (photo[:, :15] == 50).all()
        assert (photo[:, 17:] == 200).all()
        np.testing.assert_array_equal(without_borders(padded), photo)


def test_a_grey_photo_has_no_borders_to_remove():
    grey = np.full((32, 32, 3), GREY, np.uint8)
    np.testing.assert_array_equal(without_borders(grey), grey)


@pytest.mark.parametrize("interpolation", INTERPOLATION)
def test_shrinking_averages_so_that_fine_detail_does_not_alias(interpolation):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = plain_copy(params(interpolation=interpolation))(stripes)
    assert abs(shrunk[:, 1:-1].astype(int) - 127).max() <= 1


def test_a_view_depends_only_on_its_seed():
    draw, again = augmented_view(params()), augmented_view(params())
    first = draw(photo(), 7)
    for seed in (1, 2, 3):
        draw(photo(seed=1), seed)
    np.random.seed(5)
    random.seed(5)
    np.testing.assert_array_equal(draw(photo(), 7), first)
    np.testing.assert_array_equal(again(photo(), 7), first)


@pytest.mark.parametrize("number", range(len(TRANSFORMS)))
def test_different_seeds_draw_different_views(number):
    draw = augmented_view(params(transforms=[TRANSFORMS[number]]))
    assert len({draw(photo(), seed).tobytes() for seed in range(20)}) > 1


def test_a_view_is_drawn_from_the_photo_and_not_from_its_small_copy():
    # A crop of a quarter of each side has detail that the copy of the whole photo has lost.
    transforms = [{"name": "CenterCrop", "height": 32, "width": 32}]
    image = photo(128, 128)
    np.testing.assert_array_equal(augmented_view(params(transforms=transforms))(image, 0), image[48:80, 48:80])


def test_the_size_of_a_transform_defaults_to_image_size():
    image = photo(64, 64)
    crop = {"name": "RandomResizedCrop", "scale": [1.0, 1.0], "ratio": [1.0, 1.0], "p": 1}
    asked = augmented_view(params(transforms=[crop]))(image, 0)
    coarse = augmented_view(params(transforms=[{**crop, "size": [2, 2]}]))(image, 0)
    # An enlarged image of 2×2 pixels hardly varies between neighbouring pixels.
    roughness = [np.abs(np.diff(pixels.astype(int), axis=1)).mean() for pixels in (asked, coarse)]
    assert roughness[1] < 0.3 * roughness[0]


def test_without_transforms_a_view_is_the_plain_copy():
    plain, view = plain_copy(params()), augmented_view(params(transforms=[], views=0))
    np.testing.assert_array_equal(view(photo(), 3), plain(photo()))


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "none"])
@pytest.mark.parametrize("size", [32, 96])
def test_a_preset_draws_views_that_depend_only_on_the_seed(name, size):
    draw = augmented_view(params(preset=name, transforms=[], image_size=size))
    views = [draw(photo(), seed) for seed in range(8)]
    assert {view.shape for view in views} == {(size, size, 3)}
    assert len({view.tobytes() for view in views}) == 8
    np.testing.assert_array_equal(draw(photo(), 3), views[3])


def test_presets_change_more_from_light_to_strong():
    # A smooth image, which a crop changes little.
    ramp = np.stack(np.broadcast_arrays(np.arange(0, 240, 4)[:, None], np.arange(0, 240, 4), 128), -1).astype(np.uint8)
    plain = plain_copy(params())(ramp).astype(int)
    change = []
    for name in ("light", "medium", "strong"):
        draw = augmented_view(params(preset=name, transforms=[]))
        change.append(np.mean([np.abs(draw(ramp, seed) - plain).mean() for seed in range(60)]))
    assert change[0] < change[1] < change[2]


def test_listed_transforms_come_after_the_preset():
    one_pixel = [{"name": "CenterCrop", "height": 1, "width": 1}]
    view = augmented_view(params(preset="medium", transforms=one_pixel))(photo(), 0)
    assert len(np.unique(view.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("views", [{"views": 2, "test_views": 0}, {"views": 0, "test_views": 1}])
def test_views_without_transforms_are_rejected(views):
    with pytest.raises(ValidationError, match=r"which needs transforms.*; set augment\.preset or "):
        params(preset="none", transforms=[], **views)


@pytest.mark.parametrize(
    ("transform", "line"),
    [
        ({"name": "HorizontalFlop"}, "got 'HorizontalFlop', allowed is the name of an albumentations 2.0.8 transform"),
        ({"name": "Compose"}, "got 'Compose', allowed is the name of"),
        ({"name": "cv2"}, "got 'cv2', allowed is the name of"),
        ({"name": ""}, "got '', allowed is the name of"),
        ({"name": "BasicTransform"}, "got 'BasicTransform', allowed is the name of"),
        ({"name": "Affine", "sheer": 8}, "Affine has no argument 'sheer', allowed are scale, "),
        ({"name": "HorizontalFlip", "p": 7}, "HorizontalFlip: p: got 7, "),
        ({"name": "HorizontalFlip", "p": "often"}, "HorizontalFlip: p: got 'often', "),
        ({"name": "RandomResizedCrop", "scale": [2, 3]}, "RandomResizedCrop: scale: got "),
        ({"name": "RandomResizedCrop", "size": None}, "RandomResizedCrop: size: got None"),
        ({"name": "Resize", "height": 3}, "Resize: "),
        ({"name": "RandomCrop", "height": 0, "width": 8}, "RandomCrop: height: got 0"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_an_invalid_transform_is_reported_in_one_line_with_its_position(transform, line):
    with pytest.raises(PipelineError) as error:
        augmented_view(params(transforms=[TRANSFORMS[1], transform]))
    assert str(error.value).startswith(f"params.yaml: augment.transforms.1: {line}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("transform", "height"),
    list(product([{"name": "ToGray", "p": 1}, {"name": "Pad", "padding": 5}, {"name": "RandomRotate90"}], [20, 90])),
    ids=str,
)
def test_a_view_is_resized_after_the_transforms(transform, height):
    assert augmented_view(params(transforms=[transform]))(photo(height, 40), 1).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        ({"name": "ToFloat"}, "ToFloat returns float32, allowed are RGB images of uint8 pixels; remove it ("),
        ({"name": "Normalize", "p": 0.1}, "Normalize returns float32, "),
        ({"name": "ToGray", "num_output_channels": 1}, "ToGray returns the shape (48, 64), "),
        ({"name": "Mosaic"}, "Mosaic needs other images besides the image; remove it"),
        ({"name": "MaskDropout"}, "MaskDropout needs a mask besides the image; remove it"),
        ({"name": "ConstrainedCoarseDropout"}, "ConstrainedCoarseDropout needs a mask besides the image; remove it"),
        ({"name": "Pad3D", "padding": 5}, "Pad3D needs a volume besides the image; remove it"),
        ({"name": "Lambda", "image": "lambda x: x"}, "Lambda needs functions of Python besides the image; remove it"),
        ({"name": "Lambda"}, "Lambda needs functions of Python besides the image; remove it"),
        ({"name": "Nope" * 10_000}, "got 'NopeNope"),
        ({"name": "Rotate", "x" * 10_000: 1}, "Rotate has no argument 'xxx"),
        ({"name": "Rotate", "limit": ["x" * 10_000]}, "Rotate: limit: got "),
        ({"name": "RandomCrop", "height": 10**9, "width": 8}, "RandomCrop fails on every image (Crop size (height"),
        ({"name": "Resize", "height": 10**9, "width": 10**9}, "Resize needs more than 2 GiB of memory or 5 seconds"),
        ({"name": "Resize", "height": 30_000, "width": 30_000}, "Resize needs more than 2 GiB of memory or 5 sec"),
        ({"name": "Pad", "padding": 20_000}, "Pad needs more than 2 GiB of memory or 5 seconds for an image of"),
        ({"name": "RandomScale", "scale_limit": [24, 25]}, "RandomScale returns "),
        ({"name": "CoarseDropout", "num_holes_range": [10**9, 10**9]}, "CoarseDropout needs more than 2 GiB of"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_transform_that_can_never_work_is_refused_before_any_photo(transform, reason):
    with pytest.raises(PipelineError) as error:
        augmented_view(params(transforms=[TRANSFORMS[1], transform]))
    assert str(error.value).startswith(f"params.yaml: augment.transforms.1: {reason}")
    assert "\n" not in str(error.value)


REQUIRED = {"size": [8, 8], "height": 8, "width": 8, "min_height": 8, "min_width": 8, "padding": 3, "max_size": 8}
REQUIRED |= {"num_grid_xy": [4, 4], "magnitude": 2, "px": 2}


@pytest.mark.slow
def test_every_transform_of_albumentations_works_or_is_refused_by_name():
    outcomes = Counter()
    for name, kind in vars(albumentations).items():
        if not (inspect.isclass(kind) and issubclass(kind, albumentations.BasicTransform)):
            continue
        unset = {key for key, own in inspect.signature(kind).parameters.items() if own.default in (None, own.empty)}
        arguments = {key: REQUIRED[key] for key in unset & REQUIRED.keys()}
        try:
            draw = augmented_view(params(transforms=[{"name": name, **arguments}]))
        except PipelineError as error:
            assert str(error).isprintable()
            assert name in str(error)
            assert "fails on every image" not in str(error)
            outcomes["refused"] += 1
        else:
            assert draw(photo(1100, 1100), 1).shape == (32, 32, 3)
            outcomes["works"] += 1
    assert outcomes["works"] > 80


def test_a_transform_that_computes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr("pipeline.images.transforms.TRIAL_SECONDS", 1)
    with pytest.raises(PipelineError, match="Morphological needs more than 2 GiB of memory or 5 seconds"):
        augmented_view(params(transforms=[{"name": "Morphological", "scale": [10_000, 10_000]}]))


def test_a_transform_that_waits_is_stopped(monkeypatch):
    monkeypatch.setattr("pipeline.images.transforms.TRIAL_WAIT", 0.2)
    monkeypatch.setattr(albumentations.HorizontalFlip, "apply", lambda *_, **__: time.sleep(60))
    with pytest.raises(PipelineError, match="HorizontalFlip needs more than 2 GiB of memory or 5 seconds"):
        augmented_view(params(transforms=[{"name": "HorizontalFlip", "p": 0.123}]))


def test_transforms_are_tried_on_systems_without_proc_and_without_the_limits(monkeypatch):
    def refuse(limit, values):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr("pipeline.images.transforms.MEMORY_IN_USE", Path("/proc/nowhere"))
    augmented_view(params(transforms=[{"name": "HorizontalFlip", "p": 0.234}]))
    monkeypatch.setattr("resource.setrlimit", refuse)
    augmented_view(params(transforms=[{"name": "VerticalFlip", "p": 0.234}]))
    with pytest.raises(PipelineError, match="ToFloat returns float32"):
        augmented_view(params(transforms=[{"name": "ToFloat", "p": 0.234}]))


def test_a_trial_whose_process_ends_by_itself_says_nothing_about_the_transform(monkeypatch):
    monkeypatch.setattr("pipeline.images.transforms._set_limits", lambda: os._exit(3))
    with pytest.raises(PipelineError, match=r"HorizontalFlip could not be tried: the process for it .* exit code 3; "):
        augmented_view(params(transforms=[{"name": "HorizontalFlip", "p": 0.345}]))


def test_an_image_that_grows_beyond_the_limit_is_an_error_of_this_image(monkeypatch):
    draw = augmented_view(params(transforms=[{"name": "Pad", "padding": 100}]))
    monkeypatch.setattr("pipeline.images.transforms.MOST_PIXELS", 100)
    with pytest.raises(ValueError, match=r"Pad: the photo has 40×30 pixels at this point \(returns 55,200 pixels, mor"):
        draw(photo(30, 40), 1)


@pytest.mark.parametrize("side", [48, 400, 4000])
def test_a_crop_that_only_some_photos_are_large_enough_for_names_the_transform_and_the_size_of_others(side):
    draw = augmented_view(params(transforms=[TRANSFORMS[1], {"name": "RandomCrop", "height": side, "width": side}]))
    with pytest.raises(ValueError, match="RandomCrop") as error:
        draw(photo(40, 41), 3)
    assert str(error.value) == (
        "params.yaml: augment.transforms.1: RandomCrop: the photo has 41×40 pixels at this point (Crop size (height, "
        f"width) exceeds image dimensions (height, width): ({side}, {side}) vs (40, 41))"
    )
    assert draw(photo(side, side), 3).shape == (32, 32, 3)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("preset", PRESETS)
def test_views_have_the_bits_of_one_albumentations_pipeline(preset, resize):
    chosen = params(preset=preset, resize=resize)
    draw = augmented_view(chosen)
    transforms = [*(Transform(**keys) for keys in PRESETS[preset]), *chosen.transforms]
    built = [_build(transform, "", chosen.image_size) for transform in transforms]
    together = albumentations.Compose([*built, *resizing(resize)])
    for seed, (height, width) in enumerate(product([1, 32, 50, 90], [1, 16, 70, 200])):
        together.set_random_seed(seed)
        np.testing.assert_array_equal(
            draw(photo(height, width), seed), together(image=photo(height, width))["image"], f"{height}×{width}"
        )


@pytest.mark.parametrize("short", [1, 3])
@pytest.mark.parametrize("upright", [False, True])
def test_of_a_very_thin_photo_the_centre_is_used_so_that_a_short_side_of_image_size_needs_little_memory(short, upright):
    image = photo(short, 18_384 * short)
    centre = image[:, 1000 * short : -1000 * short]
    assert centre.size / short**2 * 32**2 == 3 * RESIZED_PIXELS
    if upright:
        image, centre = image.transpose(1, 0, 2), centre.transpose(1, 0, 2)
    np.testing.assert_array_equal(plain_copy(params(resize="crop"))(image), plain_copy(params(resize="crop"))(centre))
    for resize in ("stretch", "crop", "pad"):
        draw = augmented_view(params(resize=resize))
        np.testing.assert_array_equal(draw(image, 4), draw(centre, 4))
    assert not np.array_equal(plain_copy(params())(image), plain_copy(params())(centre))
