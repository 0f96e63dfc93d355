"""TrivialAugment on whole batches, with torchvision's operations beside it."""

import pytest
import torch
from torch.nn import functional
from torchvision.transforms.autoaugment import InterpolationMode, _apply_op
from torchvision.transforms.v2.functional import gaussian_blur

from pipeline.train.augmentation import augment_pixels
from pipeline.train.trivial_augment import OPERATIONS, moved, recolored
from tests.support.tiny_datasets import train_params

# In the order of our numbers; torchvision's strength for ours, which is from -1 to 1.
NAMES = {
    "Identity": lambda s: 0.0,
    "ShearX": lambda s: 0.99 * s,
    "ShearY": lambda s: 0.99 * s,
    # Both to the right, or to the bottom, though torchvision moves the image and we move the frame.
    "TranslateX": lambda s: -32 * s,
    "TranslateY": lambda s: -32 * s,
    "Rotate": lambda s: 135 * s,
    "Brightness": lambda s: 0.99 * s,
    "Color": lambda s: 0.99 * s,
    "Contrast": lambda s: 0.99 * s,
    "Sharpness": lambda s: 0.99 * s,
    "Posterize": lambda s: 8 - round(6 * abs(s)),
    "Solarize": lambda s: 255 * (1 - abs(s)),
    "AutoContrast": lambda s: 0.0,
    "Equalize": lambda s: 0.0,
}
SIZE, STRENGTHS = 64, torch.tensor([-0.75, -0.25, 0.0, 0.5, 1.0])


@pytest.fixture(scope="module")
def images():
    """Smooth images whose colours are neither all dark nor all bright, ``uint8``."""
    generator = torch.Generator().manual_seed(0)
    noise = gaussian_blur(torch.rand(len(STRENGTHS), 3, SIZE, SIZE, generator=generator), 9, 3.0)
    low, high = noise.amin((2, 3), keepdim=True), noise.amax((2, 3), keepdim=True)
    return (20 + 200 * (noise - low) / (high - low)).byte()


def applied(images, number, strengths):
    signed = strengths.view(-1, 1, 1, 1)
    chosen = torch.full_like(signed, number, dtype=torch.int64)
    return 255 * recolored(moved(images / 255, chosen, signed), chosen, signed)


@pytest.mark.parametrize("number", range(OPERATIONS), ids=list(NAMES))
def test_each_operation_has_the_result_of_torchvision(images, number):
    name, strength_of = list(NAMES.items())[number]
    mine = applied(images, number, STRENGTHS)
    for index, strength in enumerate(STRENGTHS.tolist()):
        args = name, strength_of(strength), InterpolationMode.BILINEAR, None
        expected = _apply_op(images[index], *args).float()
        # What is beyond the image is black there, and a reflection here; sharpness leaves the outermost pixels.
        frame = _apply_op(torch.full_like(images[index], 255), *args) == 255
        inside = frame if name.startswith(("Shear", "Translate", "Rotate")) else torch.ones_like(frame)
        core = functional.pad(torch.ones(SIZE - 4, SIZE - 4, dtype=torch.bool), (2, 2, 2, 2))
        assert (inside & core).float().mean() > 0.05
        difference = (mine[index] - expected).abs()[inside & core]
        # torchvision rounds to whole values, and for equalize also the number of pixels of each.
        assert difference.max() < (10 if name == "Equalize" else 4), strength


def test_operations_are_equally_frequent_and_the_same_random_state_gives_the_same_batch(images):
    results = []
    batch = (images[:1] / 255).expand(700, -1, -1, -1)[:, :, ::4, ::4].contiguous()
    for _ in range(2):
        torch.manual_seed(0)
        results.append(augment_pixels(batch, train_params(trivial_augment=True), 16))
    assert torch.equal(*results)
    assert results[0].min() >= 0
    assert results[0].max() <= 1
    same = (results[0] - batch).abs().flatten(1).amax(1) < 1e-5
    # Identity, and the slightest posterize.
    assert same.float().mean() == pytest.approx(1 / 14 * (1 + 1 / 12), abs=0.03)


def test_images_of_one_value_stay_finite():
    grey = torch.full((OPERATIONS, 3, 8, 8), 0.5)
    chosen = torch.arange(OPERATIONS).view(-1, 1, 1, 1)
    recolored_grey = recolored(grey, chosen, torch.zeros(OPERATIONS, 1, 1, 1))
    torch.testing.assert_close(recolored_grey, grey, atol=1 / 255, rtol=0)


@pytest.mark.parametrize("stored", [16, 48])
def test_it_is_combined_with_a_crop_of_larger_images(stored):
    everything = train_params(trivial_augment=True, random_resized_crop=0.5, hflip=0.5, grayscale=0.2)
    found = augment_pixels(torch.rand(40, 3, stored, stored), everything, 16)
    assert found.shape == (40, 3, 16, 16)
    assert found.isfinite().all()
