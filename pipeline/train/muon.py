"""Muon for linear layers and convolutions."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.network.models import find_heads

# The root mean square of torch's updates, in units of lr: that of AdamW late in the training of a language model. Early
# in a training AdamW's is about 1, so that the last layer would learn five times as fast as the others.
RMS = 0.2


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The weights for Muon: of linear layers and of convolutions without groups, except those of the first one and of
    the last layers."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hidden = set(layers[1:]) - {layer for _, layer in find_heads(model)}
    return {layer.weight for layer in hidden if isinstance(layer, nn.Linear) or layer.groups == 1}


class FilterMuon(torch.optim.Muon):
    """torch's Muon, which refuses what is no matrix, also for the filters of a convolution: they are one of the shape
    ``(out, in * height * width)``, as Jordan et al. 2024 train them.

    Its updates have a root mean square of lr, so that learning rates for AdamW suit it.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        matrices = [[_matrix(weights.detach(), weights) for weights in group["params"]] for group in groups]
        scaled = [
            {"params": own, "lr": group["lr"] / RMS, "weight_decay": group["weight_decay"] * RMS}
            for group, own in zip(groups, matrices, strict=True)
        ]
        super().__init__(scaled, adjust_lr_fn="match_rms_adamw", **options)
        # Gradients are scaled, clipped and cleared through the weights themselves.
        for own, group in zip(self.param_groups, groups, strict=True):
            own["params"] = group["params"]

    def _init_group(
        self, group: Any, params_with_grad: list[Tensor], grads: list[Tensor], muon_momentum_bufs: list[Tensor]
    ) -> bool:
        for weights in group["params"]:
            if weights.grad is None:
                continue
            gradient, state = _matrix(weights.grad, weights), self.state[weights]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            params_with_grad.append(_matrix(weights, weights))
            grads.append(gradient)
            muon_momentum_bufs.append(state["momentum_buffer"])
        return False


def _matrix(values: Tensor, weights: Tensor) -> Tensor:
    """``values`` as a matrix, its columns in the order of ``weights`` in the memory, so that the matrix of these is a
    view; the order does not change what Muon does."""
    if weights.ndim == 2:
        return values
    last = weights.is_contiguous(memory_format=torch.channels_last)
    return (values.permute(0, 2, 3, 1) if last else values).reshape(len(values), -1)
