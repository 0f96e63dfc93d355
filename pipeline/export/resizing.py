"""Resizing inside the ONNX file, so that it takes decoded photos of any size.

The resizing of OpenCV and Pillow is linear and separable, so that each side has one matrix of weights, computed from
the size of the photo. Up to the rounding of a level, the result is that of ``pipeline.images.transforms.plain_copy``,
except for photos more than 100 times as high as wide, whose sides Pillow resizes in the other order.
"""

import torch
from torch import Tensor, nn

from pipeline.images.decoding import GREY
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec

RESIZE, INTERPOLATION = ("stretch", "crop", "pad"), ("area", "bilinear", "bicubic")
# The coefficients of cubic convolution.
CUBIC, PILLOW_CUBIC = -0.75, -0.5


class PhotoClassifier(nn.Module):
    """A classifier of photos of any size.

    Input: RGB pixels, ``uint8``, ``(n, height, width, 3)``. Output: as that of ``PixelClassifier``.
    """

    def __init__(self, classifier: PixelClassifier, spec: ModelSpec) -> None:
        super().__init__()
        self.resized = PlainCopy(spec)
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits."""
        outputs: tuple[Tensor, Tensor] = self.classifier(self.resized(images))
        return outputs


class PlainCopy(nn.Module):
    """Resizes as the pipeline does: ``(n, height, width, 3)``, ``uint8``, to ``(n, size, size, 3)``, whole ``float32``.

    Everything is computed with tensors, for ONNX has to compute it for each size of the input.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.size, self.resize, self.interpolation = spec.image_size, spec.resize, spec.interpolation
        for name, known in {"resize": RESIZE, "interpolation": INTERPOLATION}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"no ONNX for augment.{name} {getattr(self, name)}")

    def forward(self, images: Tensor) -> Tensor:
        """Return the resized images."""
        height, width = images.shape[1], images.shape[2]
        # float64, as in Python, OpenCV and Pillow, whose choices of pixels depend on the last bit.
        old = torch.stack([_number(height), _number(width)])
        new = self._new_size(old)
        shrinks = (new < old).any()
        # OpenCV averages areas only if no side grows.
        linear = shrinks & (new > old).any()
        rows = self._weights(height, old[0], new[0], shrinks, linear)
        columns = self._weights(width, old[1], new[1], shrinks, linear)
        pixels = images.permute(0, 3, 1, 2)
        if self.interpolation == "area":
            pixels = rows @ pixels.float() @ columns.T
        else:
            # Pillow computes in whole numbers, which float64 represents, and rounds to levels after the width.
            pixels = rows @ _levels(pixels.double() @ columns.T)
        # The weights of a pixel in a border are 0.
        inside = (rows.sum(dim=1)[:, None] > 0) & (columns.sum(dim=1) > 0)
        return torch.where(inside, _levels(pixels), GREY).float().permute(0, 2, 3, 1)

    def _new_size(self, old: Tensor) -> Tensor:
        """Height and width to which the whole photo is resized; the result is the square around its centre."""
        size = _number(self.size)
        if self.resize == "pad":
            return (old * torch.div(size, old.max())).round().clamp(min=1)
        if self.resize == "crop":
            return (old * torch.div(size, old.min())).round()
        return torch.stack([size, size])

    def _weights(self, side: int, old: Tensor, new: Tensor, shrinks: Tensor, linear: Tensor) -> Tensor:
        """The weights of the photo's pixels along one side, ``(size, side)``; a row sums to 1, or to 0 in a border."""
        target = torch.arange(self.size, dtype=torch.float64)[:, None] + ((new - self.size) / 2).trunc()
        source = torch.arange(side, dtype=torch.float64)
        inside = (target >= 0) & (target < new)
        factor = new / old
        if self.interpolation != "area":
            return torch.where(inside, _pillow(self.interpolation, target, source, old / new), 0)
        scale = torch.div(_number(1), factor)
        ends = torch.minimum((target + 1) * scale, source + 1)
        area = (ends - torch.maximum(target * scale, source)).clamp(min=0) * factor
        place = (target + 0.5) * scale - 0.5
        taps = _taps(torch.where(linear, (target * scale).floor(), place.floor()), source, old)
        weights = torch.where(linear, _linear(target, scale, factor), _cubic(place - place.floor()))
        interpolated = sum(weights[:, tap, None] * taps[tap] for tap in range(4))
        return torch.where(inside, torch.where(shrinks & ~linear, area, interpolated), 0).float()


def _number(value: int) -> Tensor:
    return torch.scalar_tensor(value, dtype=torch.float64)


def _levels(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)


def _pillow(interpolation: str, target: Tensor, source: Tensor, scale: Tensor) -> Tensor:
    """Weights of the pixels ``source``, ``(side,)``, for each place ``target``, ``(size, 1)``: ``(size, side)``.

    When a photo shrinks, the filter is as wide as a pixel of the copy, which prevents aliasing.
    """
    distance = ((source - (target + 0.5) * scale + 0.5) * (1 / scale.clamp(min=1))).abs()
    if interpolation == "bilinear":
        weights = (1 - distance).clamp(min=0)
    else:
        near = ((PILLOW_CUBIC + 2) * distance - (PILLOW_CUBIC + 3)) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * PILLOW_CUBIC
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    # Pillow's coefficients have 22 bits.
    return (weights / weights.sum(dim=1, keepdim=True) * 2**22 + 0.5).floor() / 2**22


def _taps(first: Tensor, source: Tensor, old: Tensor) -> list[Tensor]:
    """Whether each pixel is the one before ``first``, ``first`` or one of the next two; the border is repeated."""
    return [torch.minimum((first + offset).clamp(min=0), old - 1) == source for offset in range(-1, 3)]


def _cubic(distance: Tensor) -> Tensor:
    """Weights of the four pixels around a place at this distance from the second, ``(size, 1)`` to ``(size, 4)``."""
    near, far = distance, distance + 1
    left = ((CUBIC * far - 5 * CUBIC) * far + 8 * CUBIC) * far - 4 * CUBIC
    second = ((CUBIC + 2) * near - (CUBIC + 3)) * near * near + 1
    third = ((CUBIC + 2) * (1 - near) - (CUBIC + 3)) * (1 - near) * (1 - near) + 1
    return torch.cat([left, second, third, 1 - left - second - third], dim=1)


def _linear(target: Tensor, scale: Tensor, factor: Tensor) -> Tensor:
    """The same for ``INTER_AREA`` where only one side shrinks: OpenCV then interpolates between two pixels."""
    # In float32, as OpenCV: 1 - 1e-17 becomes 1, and its fraction 0.
    share = (target + 1 - ((target * scale).floor() + 1) * factor).float().clamp(min=0)
    share = (share - share.floor()).double()
    nothing = torch.zeros_like(share)
    return torch.cat([nothing, 1 - share, share, nothing], dim=1)
