"""Saliency maps by captum: which parts of an image speak for a class.

Grad-CAM (Selvaraju et al. 2017) weights the channels of the last feature map by the gradient of the class's logit.
Occlusion (Zeiler and Fergus 2014) needs no gradient and no layer: it is how much the logit falls when a window of the
image is covered with the mean colour of the training images.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.network.models import ModelSpec, class_logits, find_head

# A coarser feature map says nothing about the place; the parts of a finer one would be too small to see in a thumbnail.
LEAST_SIDE, MOST_SIDE = 4, 16
# Class and register tokens, which come before those of the patches.
MOST_PREFIX = 8
# Cells of an occlusion map per side; a window covers two by two of them. The image size is a multiple of 32.
OCCLUSION_SIDE = 8


@dataclass(frozen=True)
class Grid:
    """How the output of a layer is a square of cells.

    Attributes:
        side: cells per row and column.
        kind: ``nchw``, ``nhwc`` as in Swin transformers, or ``tokens`` as in vision transformers.
        prefix: number of tokens that are no patches, such as the class token.
    """

    side: int
    kind: str
    prefix: int = 0

    def read(self, output: Tensor) -> Tensor:
        """The output of the layer as a feature map, ``(n, channels, side, side)``."""
        if self.kind == "tokens":
            cells: Tensor = output[:, self.prefix :].transpose(1, 2).unflatten(2, (self.side, self.side))
            return cells
        return output.permute(0, 3, 1, 2) if self.kind == "nhwc" else output

    def write(self, cells: Tensor, output: Tensor) -> Tensor:
        """The output of the layer whose feature map is ``cells``, and whose other tokens are those of ``output``."""
        if self.kind == "tokens":
            return torch.cat([output[:, : self.prefix], cells.flatten(2).transpose(1, 2)], dim=1)
        return cells.permute(0, 2, 3, 1) if self.kind == "nhwc" else cells


def grid_of(shape: tuple[int, ...]) -> Grid | None:
    """The grid in an output of this shape, of a network for square images; None if there is none."""
    if len(shape) == 4:
        a, b, c = shape[1:]
        return Grid(b, "nchw") if b == c else Grid(a, "nhwc") if a == b else None
    if len(shape) == 3:
        side = math.isqrt(shape[1])
        prefix = shape[1] - side**2
        return Grid(side, "tokens", prefix) if prefix <= MOST_PREFIX else None
    return None


def find_grid(model: nn.Module, size: int) -> tuple[str, Grid]:
    """The name and the grid of the layer that Grad-CAM reads, found by running the network on noise.

    It is the last one that has at least ``LEAST_SIDE`` cells per side, or else the last of the finest grid, and whose
    cells the output depends on: only the class token leaves the last block of a vision transformer. Blocks come before
    single layers, because their output has passed the activation function.

    Raises:
        PipelineError: there is none.
    """
    layers = {name: module for name, module in model.named_modules() if name}
    # Tensors of inference mode take no part in gradients.
    with torch.inference_mode(False), torch.enable_grad():
        outputs, result = _run_on_noise(model, layers, size)
        grids = {name: grid for name, out in outputs.items() if (grid := grid_of(tuple(out.shape)))}
        gradients = torch.autograd.grad(result, [outputs[name] for name in grids], allow_unused=True) if grids else ()
    of_layer = dict(zip(grids, gradients, strict=True))
    found = {name: grid for name, grid in grids.items() if grid.side > 1 and of_layer[name] is not None}
    # The gradients of a network whose units are all off are 0.
    used = {name: grid for name, grid in found.items() if _decide(grid.read(of_layer[name]))} or found
    if not used:
        raise PipelineError(
            "Grad-CAM: the network has no layer with a feature map of at least 2×2 cells; use the method occlusion"
        )
    finest = min(LEAST_SIDE, max(grid.side for grid in used.values()))
    fine = {name: grid for name, grid in used.items() if grid.side >= finest}
    blocks = [name for name in fine if any(layers[name].children())]
    name = (blocks or list(fine))[-1]
    return name, fine[name]


def _run_on_noise(model: nn.Module, layers: dict[str, nn.Module], size: int) -> tuple[dict[str, Tensor], Tensor]:
    """The output of each layer by its name, in the order of execution, and a number that depends on the features
    before the last layer: its own weights can be zero, as those of a vision transformer are at first."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, size, size, generator=generator).to(next(model.parameters()).device)
    outputs: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()
    features: list[Tensor] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and output.requires_grad and len(output) == len(noise):
                outputs[name] = output

        return hook

    _, head = find_head(model)
    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    handles.append(head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])))
    try:
        model(noise.requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    # The output of a layer that runs several times, such as a shared ReLU, is not that of one place; and adaptive
    # pooling can repeat the cells of a coarser feature map.
    once = {
        name: output
        for name, output in outputs.items()
        if calls[name] == 1 and not isinstance(layers[name], nn.AdaptiveAvgPool2d)
    }
    return once, torch.stack(
        [(part * torch.randn(part.shape, generator=generator).to(part)).sum() for part in features]
    ).sum()


def _decide(gradient: Tensor) -> bool:
    """Whether the output depends on at least half of the cells, by its gradient ``(n, channels, side, side)``."""
    return bool((gradient != 0).any(dim=1).any(dim=0).float().mean() >= 0.5)


@contextmanager
def as_layer(layer: nn.Module, grid: Grid) -> Iterator[nn.Module]:
    """Yield a layer whose output is the feature map of ``layer``, ``(n, channels, side, side)``, while it is open."""
    cells = nn.Identity()

    def through_cells(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return grid.write(cells(grid.read(output)), output)

    handle = layer.register_forward_hook(through_cells)
    try:
        yield cells
    finally:
        handle.remove()


class Saliency:
    """Computes saliency maps of a network; its weights no longer require gradients.

    Args:
        model: the network, in evaluation mode on its device.
        spec: its specification.
        method: ``grad_cam`` or ``occlusion``.

    Attributes:
        layer: the name of the layer that Grad-CAM reads; empty for occlusion.
        side: cells per side of the maps.

    Raises:
        PipelineError: Grad-CAM finds no layer.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, method: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.size = spec.image_size
        self.layer, self.side = "", OCCLUSION_SIDE
        if method == "grad_cam":
            self.layer, self.grid = find_grid(model, self.size)
            self.side = min(self.grid.side, MOST_SIDE)

    def attribute(self, images: Tensor, classes: Tensor) -> Tensor:
        """How much each part of normalised images ``(n, 3, size, size)`` speaks for one class of each, ``(n,)``.

        Returns:
            ``float32``, ``(n, side, side)``; negative where it speaks against the class.
        """
        # Tensors of inference mode take no part in gradients.
        with torch.inference_mode(False):
            values = (self._grad_cam if self.layer else self._occlusion)(images.clone(), classes.clone())
        return functional.adaptive_avg_pool2d(values.detach().float().mean(dim=1), self.side)

    def _grad_cam(self, images: Tensor, classes: Tensor) -> Tensor:
        from captum.attr import LayerGradCam  # with matplotlib it takes 0.4 s

        with as_layer(self.model.get_submodule(self.layer), self.grid) as cells:
            values: Tensor = LayerGradCam(self._logits, cells).attribute(images, classes)
        return values

    @torch.no_grad()
    def _occlusion(self, images: Tensor, classes: Tensor) -> Tensor:
        from captum.attr import Occlusion

        stride = self.size // OCCLUSION_SIDE
        values: Tensor = Occlusion(self._logits).attribute(
            images, (3, 2 * stride, 2 * stride), strides=(3, stride, stride), target=classes, baselines=0
        )
        return values

    def _logits(self, images: Tensor) -> Tensor:
        return class_logits(self.model(images).float())


def as_maps(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Attributions ``(n, side, side)`` as maps from 0 to 255, the largest value of each; what is negative becomes 0."""
    positive = np.maximum(values, 0)
    most = positive.max(axis=(1, 2), keepdims=True)
    return np.rint(255 * positive / np.where(most > 0, most, 1)).astype(np.uint8)
