"""Random augmentation at each step: different for each sample, computed for the whole batch on its device.

All random numbers come from torch's global random state of the device, which is part of a checkpoint.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Beta

from pipeline.network.batches import Batches, resized
from pipeline.params.schema import TrainParams
from pipeline.train.phases import is_mixed
from pipeline.train.trivial_augment import OPERATIONS, luma, moved, recolored

CROP_RATIO = (3 / 4, 4 / 3)  # as in torchvision's RandomResizedCrop
ERASED_AREA = (0.02, 1 / 3)  # as in torchvision's RandomErasing
ERASED_RATIO = (0.3, 3.3)


def is_random(params: TrainParams) -> bool:
    """Whether any augmentation is on."""
    p = params
    chances = p.hflip, p.color_jitter, p.grayscale, p.random_erase
    return p.random_resized_crop < 1 or p.trivial_augment or is_mixed(p) or any(chances)


def augmented(
    batches: Batches, images: Tensor, targets: Tensor, params: TrainParams, size: int
) -> tuple[Tensor, Tensor]:
    """The input of the network, ``(n, 3, size, size)`` in ``channels_last``, and the class probabilities for a batch of
    ``Batches.load``."""
    if not is_random(params):
        return batches.as_input(images, size), targets
    inputs = batches.normalise(augment_pixels(batches.as_pixels(images), params, size))
    if params.random_erase:
        inputs = random_erase(inputs, params.random_erase)
    inputs, targets = mix(inputs, targets, params)
    return inputs.contiguous(memory_format=torch.channels_last), targets


def augment_pixels(images: Tensor, params: TrainParams, size: int) -> Tensor:
    """Images ``(n, 3, h, w)`` in 0 to 1 to ``(n, 3, size, size)``, flipped, cropped and with other colours, before
    normalisation."""
    if params.hflip:
        chosen = _uniform(images, 0, 1) < params.hflip
        images = torch.where(chosen, images.flip(3), images)
    if params.random_resized_crop < 1:
        images = random_resized_crop(images, params.random_resized_crop, size)
    images = resized(images, size)
    if params.trivial_augment:
        operation = torch.randint(OPERATIONS, (len(images), 1, 1, 1), device=images.device), _uniform(images, -1, 1)
        images = recolored(moved(images, *operation), *operation)
    if params.color_jitter:
        images = color_jitter(images, params.color_jitter)
    if params.grayscale:
        images = torch.where(_uniform(images, 0, 1) < params.grayscale, luma(images), images)
    return images


def random_resized_crop(images: Tensor, min_area: float, size: int) -> Tensor:
    """Crop a random box with at least the share ``min_area`` of the area, and resize it to ``size``, with antialiasing
    where it is larger than that: images ``(n, 3, h, w)`` to ``(n, 3, size, size)``.

    Both axes are resized by a matrix product, which takes a fraction of the time of sampling points.
    """
    area = _uniform(images, min_area, 1)
    ratio = torch.exp(_uniform(images, *map(math.log, CROP_RATIO)))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = _uniform(images, 0, 1) * (1 - width), _uniform(images, 0, 1) * (1 - height)
    rows = resampling(images.shape[2] * top, images.shape[2] * height, images.shape[2], size)
    columns = resampling(images.shape[3] * left, images.shape[3] * width, images.shape[3], size)
    # The rounded weights of a pixel may have a sum slightly above 1.
    return (rows @ images @ columns.mT).clamp_(max=1)


def resampling(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """The weights of ``pixels`` in each of the ``size`` pixels of a resized interval, ``(n, 1, size, pixels)``: as in
    Pillow's bilinear filter, those of a triangle around its centre.

    Args:
        start, length: of the interval in pixels, ``(n, 1, 1, 1)``.
    """
    step = length / size
    centres = start + step * (torch.arange(size, device=start.device) + 0.5).unsqueeze(1)
    distances = (centres - (torch.arange(pixels, device=start.device) + 0.5)).abs()
    weights = (1 - distances / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(3, keepdim=True)


def color_jitter(images: Tensor, strength: float) -> Tensor:
    """Scale brightness, contrast and saturation, each by a factor in 1 ± ``strength``."""
    images = images * _uniform(images, 1 - strength, 1 + strength)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * _uniform(images, 1 - strength, 1 + strength)
    grey = luma(images)
    return (grey + (images - grey) * _uniform(images, 1 - strength, 1 + strength)).clamp(0, 1)


def random_erase(images: Tensor, probability: float) -> Tensor:
    """Set a random rectangle of some normalised images to 0, the mean (Zhong et al. 2020)."""
    area = _uniform(images, *ERASED_AREA)
    ratio = torch.exp(_uniform(images, *map(math.log, ERASED_RATIO)))
    box = _random_box(images, (area * ratio).sqrt(), (area / ratio).sqrt())
    chosen = _uniform(images, 0, 1) < probability
    return images.masked_fill(box & chosen, 0)


def mix(images: Tensor, targets: Tensor, params: TrainParams) -> tuple[Tensor, Tensor]:
    """Mix samples with others by mixup or cutmix; if both are on, one of them is drawn for each sample.

    Args:
        images: ``(n, 3, h, w)``, normalised.
        targets: class probabilities, ``(n, classes)``.
    """
    if not is_mixed(params):
        return images, targets
    partner = torch.randperm(len(images), device=images.device)
    others = images[partner]
    mixed, share = images, torch.ones_like(_uniform(images, 0, 1))
    if params.mixup_alpha:
        share = _beta(images, params.mixup_alpha)
        mixed = share * images + (1 - share) * others
    if params.cutmix_alpha:
        side = (1 - _beta(images, params.cutmix_alpha)).sqrt()
        box = _random_box(images, side, side)
        cut = torch.where(box, others, images)
        kept = 1 - box.float().mean(dim=(1, 2, 3), keepdim=True)
        take_cut = _uniform(images, 0, 1) < (0.5 if params.mixup_alpha else 1.0)
        mixed, share = torch.where(take_cut, cut, mixed), torch.where(take_cut, kept, share)
    if params.mix_probability < 1:
        chosen = _uniform(images, 0, 1) < params.mix_probability
        mixed, share = torch.where(chosen, mixed, images), torch.where(chosen, share, 1.0)
    share = share.flatten(1)
    return mixed, share * targets + (1 - share) * targets[partner]


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """One random number per sample, ``(n, 1, 1, 1)``."""
    return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)


def _beta(images: Tensor, alpha: float) -> Tensor:
    parameter = torch.full((len(images), 1, 1, 1), alpha, device=images.device)
    # Validating the arguments would make the host wait for the device.
    return Beta(parameter, parameter, validate_args=False).sample()


def _random_box(images: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """A mask ``(n, 1, h, w)``, True inside a box with a random centre; its sides are shares of the image's sides."""
    rows = (torch.arange(images.shape[2], device=images.device) + 0.5).view(1, 1, -1, 1) / images.shape[2]
    columns = (torch.arange(images.shape[3], device=images.device) + 0.5).view(1, 1, 1, -1) / images.shape[3]
    y, x = _uniform(images, 0, 1), _uniform(images, 0, 1)
    return ((rows - y).abs() < height / 2) & ((columns - x).abs() < width / 2)
