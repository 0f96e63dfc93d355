"""TrivialAugment (Müller & Hutter 2021): each image gets one of 14 operations with a random strength.

The operations, and their strengths, are those of torchvision's ``TrivialAugmentWide``. Where they show more than the
image, that one is reflected. Every image goes through the formula of every operation, so that the host need not know
which it gets.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
STRENGTH, PIXELS, DEGREES = 0.99, 32, 135  # the largest shear and change of colours, shift and rotation
(IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS) = range(10)
(POSTERIZE, SOLARIZE, AUTO_CONTRAST, EQUALIZE) = range(10, 14)
OPERATIONS = 14


def luma(images: Tensor) -> Tensor:
    """The brightness that people see, ``(n, 1, h, w)``."""
    red, green, blue = images.unbind(1)
    # Not by a tensor of the three weights: copying one to the device would make the host wait.
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def moved(images: Tensor, chosen: Tensor, signed: Tensor) -> Tensor:
    """The operations on the place of pixels.

    Args:
        images: ``(n, 3, size, size)``.
        chosen: the operation of each image, ``(n, 1, 1, 1)``.
        signed: its strength, from -1 to 1, in the same shape.
    """
    of = [torch.where(chosen == operation, signed, 0.0).flatten() for operation in range(OPERATIONS)]
    angle = of[ROTATE] * math.radians(DEGREES)
    # About the upper left corner, as in torchvision.
    shear_x, shear_y = (STRENGTH * of[operation] for operation in (SHEAR_X, SHEAR_Y))
    shift_x, shift_y = (2 * PIXELS / images.shape[3] * of[operation] for operation in (TRANSLATE_X, TRANSLATE_Y))
    row_x = torch.stack([angle.cos(), shear_x - angle.sin(), shear_x + shift_x], 1)
    row_y = torch.stack([shear_y + angle.sin(), angle.cos(), shear_y + shift_y], 1)
    grid = functional.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def recolored(images: Tensor, chosen: Tensor, signed: Tensor) -> Tensor:
    """The operations on colours for images ``(n, 3, h, w)`` in 0 to 1; arguments as for ``moved``."""
    strength, grey = signed.abs(), luma(images)
    # Brightness, color, contrast and sharpness move an image away from another one, or towards it.
    blurred = (9 * functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False) + 4 * images) / 13
    other = torch.where(chosen == COLOR, grey, torch.where(chosen == SHARPNESS, blurred, 0.0))
    other = torch.where(chosen == CONTRAST, grey.mean(dim=(2, 3), keepdim=True), other)
    factor = torch.where((chosen >= BRIGHTNESS) & (chosen <= SHARPNESS), 1 + STRENGTH * signed, 1.0)
    blended = torch.lerp(other, images, factor).clamp(0, 1)
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretched = torch.where(high > low, (images - low) / (high - low), images)
    step = (6 * strength).round().exp2()  # of 8 to 2 bits
    levels = (255 * images).round()
    found = torch.where(chosen == POSTERIZE, (levels / step).floor() * step / 255, blended)
    found = torch.where((chosen == SOLARIZE) & (images >= 1 - strength), 1 - images, found)
    found = torch.where(chosen == AUTO_CONTRAST, stretched, found)
    return torch.where(chosen == EQUALIZE, _equalized(levels), found)


def _equalized(levels: Tensor) -> Tensor:
    """Images in 0 to 1 with the same number of pixels for each value of a channel, from images in 0 to 255."""
    index = levels.flatten(2).long()
    ones = torch.ones_like(index)
    # Of integers, whose sum does not depend on their order.
    counts = index.new_zeros(*index.shape[:2], 256).scatter_add_(2, index, ones)
    below = counts.cumsum(2) - counts
    # The largest value becomes 1, and an image of one value stays.
    most = below.gather(2, index.amax(2, keepdim=True))
    spread = (below / most.clamp(min=1)).gather(2, index)
    return torch.where(most > 0, spread, index / 255).clamp(max=1).view_as(levels)
