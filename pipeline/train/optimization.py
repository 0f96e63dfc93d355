"""The losses, optimizers and learning rate schedules by name."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pipeline.errors import PipelineError
from pipeline.params.schema import TrainParams
from pipeline.train.fine_tuning import layers_of
from pipeline.train.muon import FilterMuon, hidden_matrices
from pipeline.train.phases import is_mixed, schedule_params

Loss = Callable[[Tensor, Tensor], Tensor]
ParamGroup = dict[str, Any]
# The default of torch and of the paper for the rising part of onecycle.
ONECYCLE_RISE = 0.3


def outputs_for(loss: str, classes: int) -> int:
    """The number of outputs that a loss needs: one per class, or a single one for ``bce``.

    Raises:
        PipelineError: ``bce`` without exactly two classes.
    """
    if loss != "bce":
        return classes
    if classes != 2:
        raise PipelineError(
            f"params.yaml: train.loss: got bce, which needs 2 classes, not {classes}; use cross_entropy"
        )
    return 1


def class_weights(labels: Tensor, classes: int, params: TrainParams, device: torch.device) -> Tensor | None:
    """Weights ``(classes,)``, inverse to the share of each class in ``labels``; their mean over the images is 1. None
    if ``train.class_weights`` is ``none``."""
    if params.class_weights == "none":
        return None
    counts = torch.bincount(labels.to(device), minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts.float())


def build_loss(params: TrainParams, weights: Tensor | None) -> Loss:
    """Build the loss: the mean over a batch of outputs ``(n, outputs)`` and class probabilities ``(n, classes)``.

    An image has the weight of its label. torch's ``label_smoothing`` would multiply the share of each other class by
    the weight of that class, and so favour rare classes, even above the label (pytorch/pytorch#104776).
    """

    def smoothed(targets: Tensor) -> Tensor:
        smooth = params.label_smoothing
        return targets * (1 - smooth) + targets.sum(1, keepdim=True) * (smooth / targets.shape[1])

    if params.loss == "cross_entropy":
        return lambda outputs, targets: functional.cross_entropy(
            outputs, smoothed(targets if weights is None else targets * weights)
        )
    each = _squared_error if params.loss == "mse" else _binary_cross_entropy

    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = each(outputs, smoothed(targets))
        return (losses if weights is None else losses * (targets @ weights)).mean()

    return weighted


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.float().softmax(dim=1) - targets).square().mean(dim=1)


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0].float(), targets[:, 1], reduction="none")


def build_optimizers(
    model: nn.Module, params: TrainParams, device: torch.device, report: Callable[[str], None] = lambda line: None
) -> list[Optimizer]:
    """Build the optimizer that ``train.optimizer`` names, for the weights that require a gradient; for ``muon``, Muon
    and AdamW. ``report`` gets a line if a GPU cannot take Muon's steps as one CUDA graph.

    Biases and the weights of normalisation layers have their own ``norm_weight_decay``, as in torchvision's references:
    decaying them does not regularise (He et al. 2019, Bag of Tricks).
    """
    chosen: dict[str, set[Tensor]] = {params.optimizer: set(model.parameters())}
    if params.optimizer == "muon":
        matrices = hidden_matrices(model)
        chosen = {"muon": matrices, "adamw": chosen["muon"] - matrices}
    groups = {name: _param_groups(model, params, weights) for name, weights in chosen.items()}
    built = [_BUILDERS[name](group, params, _fused(device)) for name, group in groups.items() if group]
    for optimizer in built:
        if isinstance(optimizer, FilterMuon):
            optimizer.report = lambda line: report(f"Muon: {line}")
    return built


_BUILDERS: dict[str, Callable[[list[ParamGroup], TrainParams, bool], Optimizer]] = {
    "sgd": lambda groups, p, fused: torch.optim.SGD(
        groups, lr=p.lr, momentum=p.momentum, nesterov=p.nesterov and p.momentum > 0, fused=fused
    ),
    "adagrad": lambda groups, p, fused: torch.optim.Adagrad(groups, lr=p.lr),
    # alpha as in the lecture: each new squared gradient has the weight 0.1.
    "rmsprop": lambda groups, p, fused: torch.optim.RMSprop(groups, lr=p.lr, alpha=0.9, momentum=p.momentum),
    "adam": lambda groups, p, fused: torch.optim.Adam(groups, lr=p.lr, fused=fused),
    "adamw": lambda groups, p, fused: torch.optim.AdamW(groups, lr=p.lr, fused=fused),
    "muon": lambda groups, p, fused: FilterMuon(groups, momentum=p.momentum, nesterov=p.nesterov),
}


def _fused(device: torch.device) -> bool:
    """Whether torch has a kernel that updates all weights at once."""
    return device.type in ("cpu", "cuda")


def _param_groups(model: nn.Module, params: TrainParams, chosen: set[Tensor]) -> list[ParamGroup]:
    """The chosen weights that require a gradient, by learning rate and weight decay; those of the last layer, whose
    learning rate is ``train.lr``, are the last."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    layers = layers_of(model)
    for depth, layer in enumerate(layers, start=1):
        lr = params.lr * params.layer_decay ** (len(layers) - depth)
        for weights in layer:
            if weights.requires_grad and weights in chosen:
                decay = params.weight_decay if weights.ndim > 1 else params.norm_weight_decay
                groups.setdefault((lr, decay), []).append(weights)
    return [{"params": weights, "lr": lr, "weight_decay": decay} for (lr, decay), weights in groups.items()]


def warmup_epochs(params: TrainParams) -> float:
    """The epochs of warm-up: ``train.warmup_epochs``, or half of the epochs if it would leave none for the schedule."""
    return params.warmup_epochs if params.warmup_epochs < params.epochs else params.epochs / 2


def notes(params: TrainParams) -> list[str]:
    """One line for each parameter that another one limits, or deprives of its effect."""
    p = schedule_params(params, head_only=False)
    lines = []
    if warmup_epochs(p) < p.warmup_epochs:
        lines.append(
            f"train.warmup_epochs is {warmup_epochs(p):g} instead of {p.warmup_epochs:g}: half of {p.epochs} epochs"
        )
    if p.schedule in ("linear", "cosine", "flat_cosine") and p.lr_min > p.lr:
        lines.append(f"train.lr_min is {p.lr:g} instead of {p.lr_min:g}: it cannot be above train.lr")
    after = p.epochs - warmup_epochs(p)
    if p.schedule == "step" and p.lr_step_size >= after:
        lines.append(f"train.lr_step_size {p.lr_step_size} has no effect: the schedule has only {after:g} epochs")
    if p.schedule == "onecycle" and p.warmup_epochs and p.warmup_method == "constant":
        lines.append("train.warmup_method constant has no effect: onecycle has a warm-up of its own")
    if p.optimizer == "sgd" and p.nesterov and not p.momentum:
        lines.append("train.nesterov has no effect: train.momentum is 0")
    if is_mixed(params) and params.unmixed_epochs >= params.epochs:
        lines.append(f"train.unmixed_epochs {p.unmixed_epochs}: no image is mixed in the {params.epochs} epochs")
    unmixable = {"unmixed_epochs": p.unmixed_epochs > 0, "mix_probability": p.mix_probability < 1}
    if not is_mixed(p):
        no_effect = [f"train.{name} {getattr(p, name)}" for name, found in unmixable.items() if found]
        lines += [f"{name} has no effect: train.mixup_alpha and train.cutmix_alpha are 0" for name in no_effect]
    if p.start_size is None and p.full_size_epochs:
        lines.append(f"train.full_size_epochs {p.full_size_epochs} has no effect: train.start_size is null")
    if p.start_size is not None and not p.full_size_epochs:
        lines.append(f"train.start_size {p.start_size}: train.full_size_epochs is 0, so that no epoch is at full size")
    if p.start_size is not None and p.full_size_epochs >= params.epochs:
        lines.append(f"train.start_size {p.start_size} has no effect: all {params.epochs} epochs are at full size")
    return lines


def build_schedule(optimizer: Optimizer, params: TrainParams, steps_per_epoch: int) -> LRScheduler:
    """Build the schedule of one optimizer: warm-up, then what ``train.schedule`` names, for the learning rate of each
    of its groups.

    ``onecycle`` (Smith & Topin 2018) has its own warm-up: its learning rate rises for ``warmup_epochs``, or for 30 % of
    the epochs if that is 0.
    """
    total = params.epochs * steps_per_epoch
    # At least one step is left for the schedule.
    warmup = min(round(warmup_epochs(params) * steps_per_epoch), total - 1)
    rise = warmup / total if warmup else ONECYCLE_RISE

    def factor(step: int) -> float:
        if params.schedule == "onecycle":
            return _onecycle(step, total, rise)
        if step >= warmup:
            return _MAIN[params.schedule](params, step - warmup, total - warmup, steps_per_epoch)
        risen = step / warmup if params.warmup_method == "linear" else 0.0
        return params.warmup_decay + (1 - params.warmup_decay) * risen

    return LambdaLR(optimizer, factor)


def _onecycle(step: int, total: int, rise: float) -> float:
    """The factor of torch's ``OneCycleLR``, which makes one step more than the training, at its end."""
    peak = rise * (total + 1) - 1
    start, end, share = (1 / 25, 1.0, step / peak) if step < peak else (1.0, 4e-6, (step - peak) / (total - peak))
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _falling(p: TrainParams, share: float) -> float:
    """The factor of ``train.lr`` at a share of the way from it to ``train.lr_min``."""
    return 1 - share * (1 - min(p.lr_min / p.lr, 1.0))


def _half_cosine(share: float) -> float:
    """From 0 to 1 along half a period."""
    return (1 - math.cos(math.pi * share)) / 2


# The factors of ``train.lr`` by the name of the schedule, at a step after the warm-up.
_MAIN: dict[str, Callable[[TrainParams, int, int, int], float]] = {
    "constant": lambda p, step, steps, per_epoch: 1.0,
    "step": lambda p, step, steps, per_epoch: p.lr_gamma ** (step // (p.lr_step_size * per_epoch)),
    "exponential": lambda p, step, steps, per_epoch: p.lr_gamma ** (step / per_epoch),
    "linear": lambda p, step, steps, per_epoch: _falling(p, step / steps),
    "cosine": lambda p, step, steps, per_epoch: _falling(p, _half_cosine(step / steps)),
    "flat_cosine": lambda p, step, steps, per_epoch: _falling(
        p, _half_cosine(max(0.0, step / steps - p.lr_flat_fraction) / (1 - p.lr_flat_fraction))
    ),
}
