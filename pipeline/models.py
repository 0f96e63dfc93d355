"""The networks, built by name."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network and to feed it.

    Attributes:
        name, width: as in the section ``model``.
        image_size: height and width of the input in pixels.
        classes: the class names in the order of the outputs.
        mean, std: of each input channel in 0 to 1; the input is normalised by them.
    """

    name: str
    width: int
    image_size: int
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch norm, 2×2 max pool, ReLU: ``(n, in, s, s)`` to ``(n, out, s/2, s/2)``.

    ReLU is monotonic, so pooling first gives the same result and moves a quarter of the bytes.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            # The batch norm's shift makes a bias here idle.
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )


class Classifier(nn.Module):
    """The network of homework 3 in Hung-yi Lee's course: five convolution blocks, three linear layers.

    Input ``(n, 3, s, s)`` with s a multiple of 32, output logits ``(n, classes)``. The last of ``width``'s
    multiples, 1, 2, 4, 8 and 8, are the channels of the blocks; width 64 is the homework's network with
    12.83 M parameters at 128 pixels and 11 classes.
    """

    def __init__(self, width: int, image_size: int, classes: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.blocks = nn.Sequential(*(ConvBlock(a, b) for a, b in itertools.pairwise(channels)))
        self.flatten = nn.Flatten()
        self.hidden1 = nn.Sequential(nn.Linear(8 * width * (image_size // 32) ** 2, 16 * width), nn.ReLU())
        self.hidden2 = nn.Sequential(nn.Linear(16 * width, 8 * width), nn.ReLU())
        self.output = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits of a batch."""
        return self.output(self.hidden2(self.hidden1(self.flatten(self.blocks(images)))))


BUILDERS: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "classifier": lambda spec: Classifier(spec.width, spec.image_size, len(spec.classes)),
}


def build_model(spec: ModelSpec) -> nn.Module:
    """Build the network with fresh weights from torch's global random state, ``channels_last``."""
    return BUILDERS[spec.name](spec).to(memory_format=torch.channels_last)


def find_layer(model: nn.Module, name: str, key: str) -> nn.Module:
    """Find a layer by its dotted name.

    Raises:
        PipelineError: the network has no such layer; ``key`` is the parameter that named it.
    """
    layers = {layer: module for layer, module in model.named_modules() if layer}
    if name not in layers:
        raise PipelineError(f"params.yaml: {key}: got {name!r}, allowed are the layers {', '.join(layers)}")
    return layers[name]
