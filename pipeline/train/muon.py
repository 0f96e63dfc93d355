"""Muon for linear layers and convolutions."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.network.models import find_heads
from pipeline.train.cuda_graph import CudaGraph

# Of the quintic Newton-Schulz iteration, and its number of steps (Jordan et al. 2024): singular values end near 1.
COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5
SMALLEST = 1e-7  # norm of a gradient


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The weights for Muon: of linear layers and of convolutions without groups, except those of the first one and of
    the last layers."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hidden = set(layers[1:]) - {layer for _, layer in find_heads(model)}
    return {layer.weight for layer in hidden if isinstance(layer, nn.Linear) or layer.groups == 1}


class FilterMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices and for the filters of a convolution, which are one matrix of the shape
    ``(out, in * height * width)``.

    Its updates have a root mean square of lr, as AdamW's have early in a training, so that learning rates for AdamW
    suit it. With torch's scale, 0.2 lr, the layers that AdamW trains would learn five times as fast as the others.

    torch's own Muon launches some twenty kernels for each matrix, for which an H100 waited most of the time. Here
    matrices of the same shape are one batch, and a GPU replays all kernels as a CUDA graph.

    Args:
        groups: with ``params``, ``lr`` and ``weight_decay``.
        momentum, nesterov: as of SGD.

    Attributes:
        report: gets a line if the kernels cannot be recorded.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {"momentum": momentum, "nesterov": nesterov})
        self.report: Callable[[str], None] = lambda line: None
        self.changed: list[Tensor] = []
        self.graph: CudaGraph[None] | None = None
        # Of each group, lr and lr times weight decay: on a GPU as tensors, which the graph reads.
        self.rates: list[Any] = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights that have a gradient."""
        changed = [weights for group in self.param_groups for weights in group["params"] if weights.grad is not None]
        if not changed:
            return
        if [*map(id, changed)] != [*map(id, self.changed)]:
            self.changed, self.graph = changed, None
        for weights in changed:
            if not self.state[weights]:
                self.state[weights]["momentum_buffer"] = torch.zeros_like(weights)
        rates = [(group["lr"], group["lr"] * group["weight_decay"]) for group in self.param_groups]
        update = self._update
        if changed[0].device.type == "cuda":
            update = self.graph = self.graph or self._new_graph()
            for tensors, values in zip(self.rates, rates, strict=True):
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.fill_(value)
        else:
            self.rates = rates
        update(*(weights.grad for weights in changed))

    def _new_graph(self) -> CudaGraph[None]:
        self.rates = [torch.zeros(2, device=self.changed[0].device).unbind() for _ in self.param_groups]
        momenta = [self.state[weights]["momentum_buffer"] for weights in self.changed]
        return CudaGraph(self._update, [*self.changed, *momenta], self.report)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state, in other tensors than those that the graph knows."""
        super().load_state_dict(state_dict)
        self.graph = None

    def _update(self, *gradients: Tensor) -> None:
        momentum = self.defaults["momentum"]
        momenta = [self.state[weights]["momentum_buffer"] for weights in self.changed]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, momenta, momentum) if self.defaults["nesterov"] else momenta
        direction_of = dict(zip(self.changed, directions, strict=True))
        for group, (lr, decay) in zip(self.param_groups, self.rates, strict=True):
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weights in filter(direction_of.__contains__, group["params"]):
                shapes[weights.shape].append(weights)
            for alike in shapes.values():
                matrices = torch.stack([_matrix(direction_of[weights], weights) for weights in alike])
                updates = lr * math.sqrt(max(matrices.shape[1:])) * orthogonalised(matrices)
                for weights, update in zip(alike, updates, strict=True):
                    _matrix(weights, weights).mul_(1 - decay).sub_(update)


def orthogonalised(matrices: Tensor) -> Tensor:
    """A batch of matrices ``(n, rows, columns)`` with their singular values near 1, from 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if tall else matrices).bfloat16()
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST)
    for _ in range(STEPS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.mT if tall else found).float()


def _matrix(values: Tensor, weights: Tensor) -> Tensor:
    """``values`` as a matrix, its columns in the order of ``weights`` in the memory, so that the matrix of these is a
    view; the order does not change what Muon does."""
    if weights.ndim == 2:
        return values
    last = weights.is_contiguous(memory_format=torch.channels_last)
    return (values.permute(0, 2, 3, 1) if last else values).reshape(len(values), -1)
