"""The losses by name, all over soft targets: a row of class probabilities for each image."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.params.schema import TrainParams

Loss = Callable[[Tensor, Tensor], Tensor]


def outputs_for(loss: str, classes: int) -> int:
    """How many outputs the network needs: one a class, or a single one for ``bce``.

    Raises:
        PipelineError: ``bce`` with other than two classes.
    """
    if loss != "bce":
        return classes
    if classes != 2:
        raise PipelineError(
            f"params.yaml: train.loss: got bce, which needs 2 classes, not {classes}; use cross_entropy"
        )
    return 1


def class_weights(labels: Tensor, classes: int, params: TrainParams, device: torch.device) -> Tensor | None:
    """Weights ``(classes,)`` inverse to each class's share of ``labels``, 1 on average over the images."""
    if params.class_weights == "none":
        return None
    counts = torch.bincount(labels.to(device), minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts.float())


def build_loss(params: TrainParams, weights: Tensor | None) -> Loss:
    """Build the mean loss of a batch from the network's outputs ``(n, outputs)`` and targets ``(n, classes)``."""
    if params.loss == "cross_entropy":
        return lambda outputs, targets: functional.cross_entropy(
            outputs, targets, weight=weights, label_smoothing=params.label_smoothing
        )
    each = _squared_error if params.loss == "mse" else _binary_cross_entropy

    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        smooth = params.label_smoothing
        targets = targets * (1 - smooth) + smooth / targets.shape[1]
        losses = each(outputs, targets)
        return (losses if weights is None else losses * (targets @ weights)).mean()

    return weighted


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.float().softmax(dim=1) - targets).square().mean(dim=1)


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0].float(), targets[:, 1], reduction="none")
