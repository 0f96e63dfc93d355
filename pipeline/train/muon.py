"""Muon for linear layers and convolutions."""

from typing import Any

import torch
from torch import Tensor, nn


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The weights for Muon: of linear layers and of convolutions without groups, except those of the first and the last
    of all linear layers and convolutions."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return {layer.weight for layer in layers[1:-1] if isinstance(layer, nn.Linear) or layer.groups == 1}


class FilterMuon(torch.optim.Muon):
    """torch's Muon, which takes matrices only: the filters of a convolution are one, ``(out, in * height * width)``, as
    Jordan et al. 2024 train them. It shares the memory of the weights; the order of its columns has no effect."""

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        self.weights: list[Tensor] = [weights for group in groups for weights in group["params"]]
        matrices = [
            [nn.Parameter(_matrix(weights.detach(), weights)) for weights in group["params"]] for group in groups
        ]
        self.matrices = [matrix for group in matrices for matrix in group]
        super().__init__([{**group, "params": own} for group, own in zip(groups, matrices, strict=True)], **options)

    def step(self, closure: Any = None) -> Any:
        """As of every optimizer."""
        for weights, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.grad = None if weights.grad is None else _matrix(weights.grad, weights)
        return super().step(closure)  # type: ignore[no-untyped-call]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the weights."""
        for weights in self.weights:
            if set_to_none:
                weights.grad = None
            elif weights.grad is not None:
                weights.grad.zero_()


def _matrix(values: Tensor, weights: Tensor) -> Tensor:
    """``values`` as a matrix, with the columns in the order in which ``weights`` are in the memory."""
    if weights.ndim == 2:
        return values
    last = weights.is_contiguous(memory_format=torch.channels_last)
    return (values.permute(0, 2, 3, 1) if last else values).reshape(len(values), -1)
