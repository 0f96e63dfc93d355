"""Augmentation of whole batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.network.batches import resized
from pipeline.params.schema import TrainParams
from pipeline.train.augmentation import augment_pixels, color_jitter, mix, random_erase, random_resized_crop, resampling
from tests.support.sections import TRAIN


def params(**changes) -> TrainParams:
    return TrainParams(**{**TRAIN, **changes})


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(64, 3, 32, 32)


def test_everything_off_changes_nothing(images):
    assert augment_pixels(images, params(), 32) is images
    mixed, targets = mix(images, torch.eye(64), params())
    assert mixed is images
    assert torch.equal(targets, torch.eye(64))


def test_flip_mirrors_some_images_and_leaves_the_others(images):
    flipped = augment_pixels(images, params(hflip=0.5), 32)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


def test_a_crop_of_the_full_area_differs_only_in_its_shape(images):
    torch.testing.assert_close(random_resized_crop(images, 1.0, 32).mean(), images.mean(), atol=0.01, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 64, 48), (3.2, 5.1, 20.7, 40.4), (10.5, 1.5, 63.9, 47.5)])
def test_a_crop_is_resized_as_by_pillow(box):
    pixels = torch.rand(48, 64)
    left, top, right, bottom = (torch.tensor(side).view(1, 1, 1, 1) for side in box)
    rows, columns = resampling(top, bottom - top, 48, 32), resampling(left, right - left, 64, 32)
    expected = Image.fromarray(pixels.numpy()).resize((32, 32), Image.Resampling.BILINEAR, box)
    np.testing.assert_allclose((rows @ pixels @ columns.mT)[0, 0], expected, atol=1e-5)


def test_crops_lie_inside_the_image_and_differ_by_sample():
    columns = torch.linspace(0, 1, 32).expand(64, 3, 32, 32)
    crops = random_resized_crop(columns, 0.3, 32)
    assert crops.min() >= 0
    assert crops.max() <= 1
    spans = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert spans.std() > 0.05
    assert (spans > 0.4).all()


def test_jitter_stays_in_range_and_differs_by_sample(images):
    jittered = color_jitter(images, 0.4)
    assert jittered.min() >= 0
    assert jittered.max() <= 1
    assert (jittered.mean((1, 2, 3)) / images.mean((1, 2, 3))).std() > 0.05
    torch.testing.assert_close(color_jitter(images, 0.0), images, atol=1e-5, rtol=0)


def test_some_images_become_grey_as_in_torchvision(images):
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    changed = augment_pixels(images, params(grayscale=0.5), 32)
    grey = (changed.std(1) < 1e-6).flatten(1).all(1)
    assert 16 < grey.sum() < 48
    torch.testing.assert_close(changed[grey], rgb_to_grayscale(images[grey], 3), atol=1e-3, rtol=0)
    assert torch.equal(changed[~grey], images[~grey])


def test_erasing_sets_one_rectangle_of_some_images_to_zero(images):
    erased = random_erase(images + 1, 0.5) == 0
    touched = erased.flatten(1).any(1)
    assert 16 < touched.sum() < 48
    for mask in erased[touched][:, 0]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns


@pytest.mark.parametrize(
    "alphas", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}]
)
def test_mixing_mixes_targets_in_the_share_of_the_pixels(alphas):
    torch.manual_seed(1)
    # Image i is of the value i everywhere, so that the share of each can be read from the pixels' mean.
    values = torch.arange(32.0)
    mixed, targets = mix(values.view(-1, 1, 1, 1).expand(32, 3, 32, 32), torch.eye(32), params(**alphas))
    torch.testing.assert_close(targets.sum(1), torch.ones(32))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ values, atol=1e-3, rtol=1e-3)
    assert ((targets > 0).sum(1) == 2).sum() > 20


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_mix_probability_is_the_share_of_images_that_are_mixed_the_others_stay_as_they_are(probability):
    torch.manual_seed(1)
    images, labels = torch.rand(400, 3, 16, 16), torch.eye(400)
    mixed, targets = mix(images, labels, params(mixup_alpha=1.0, cutmix_alpha=1.0, mix_probability=probability))
    same = (targets == labels).all(1)
    torch.testing.assert_close(mixed[same], images[same])
    # A cutmix box can lie between the pixels of an image, and no image is mixed that has itself for its partner.
    assert 1 - same.float().mean() == pytest.approx(probability, abs=0.1)


def test_cutmix_keeps_pixels_whole():
    torch.manual_seed(1)
    values = torch.arange(32.0)
    mixed, _ = mix(values.view(-1, 1, 1, 1).expand(32, 3, 32, 32), torch.eye(32), params(cutmix_alpha=1.0))
    assert (mixed == mixed.round()).all()


def test_the_same_random_state_gives_the_same_batch(images):
    every = params(hflip=0.5, random_resized_crop=0.5, color_jitter=0.3)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(augment_pixels(images, every, 32))
    assert torch.equal(*results)


@pytest.mark.parametrize("changes", [{}, {"hflip": 0.5}, {"random_resized_crop": 0.5}, {"random_resized_crop": 0.99}])
@pytest.mark.parametrize("stored", [32, 64, 96, 224])
def test_images_of_any_stored_size_become_the_input_of_the_network(stored, changes):
    augmented = augment_pixels(torch.rand(4, 3, stored, stored), params(**changes), 32)
    assert augmented.shape == (4, 3, 32, 32)


@pytest.mark.parametrize("minimum", [1.0, 0.9])
@pytest.mark.parametrize("stored", [64, 96, 128, 224])
def test_fine_stripes_of_a_larger_stored_image_do_not_alias(stored, minimum):
    torch.manual_seed(0)
    stripes = (torch.arange(stored) % 2).float().expand(64, 3, stored, stored)
    augmented = augment_pixels(stripes, params(random_resized_crop=minimum), 32)
    # One sample per pixel has a deviation of up to 0.5, the mean of three pixels one of 1/6.
    assert augmented.std() < 0.18
    assert augmented.mean() == pytest.approx(0.5, abs=0.01)


def test_a_crop_of_a_larger_stored_image_has_detail_that_the_small_one_has_lost():
    torch.manual_seed(0)
    stored = torch.rand(32, 3, 128, 128)
    crops = []
    for images in (stored, resized(stored, 32)):
        torch.manual_seed(1)
        crops.append(random_resized_crop(images, 0.1, 32))
    # The same boxes: the crops are similar, but only one of them is sharp.
    first, second = (torch.diff(crop, dim=3).std() for crop in crops)
    assert first > 1.5 * second
