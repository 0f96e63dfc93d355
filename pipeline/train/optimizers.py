"""The optimizers by name, all from ``torch.optim``."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from pipeline.errors import PipelineError
from pipeline.params.schema import TrainParams

Group = dict[str, Any]


def build_optimizers(model: nn.Module, params: TrainParams, device: torch.device) -> list[Optimizer]:
    """Build what ``train.optimizer`` names: one optimizer, or for ``muon`` Muon and AdamW.

    The weights of norms and all biases get ``norm_weight_decay``, as in torchvision's references: shrinking them
    has no regularising effect (He et al. 2019, Bag of Tricks).

    Raises:
        PipelineError: ``muon`` for a network without matrices.
    """
    if params.optimizer == "muon":
        matrices = _hidden_matrices(model)
        if not matrices:
            raise PipelineError(
                "params.yaml: train.optimizer: got muon, which is for linear layers before the last, and the network "
                "has none; use adamw"
            )
        muon = torch.optim.Muon(
            matrices,
            lr=params.lr,
            momentum=params.momentum,
            nesterov=params.nesterov,
            weight_decay=params.weight_decay,
            # Makes one learning rate fit both (Liu et al. 2025, Muon is Scalable for LLM Training).
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, _BUILDERS["adamw"](_groups(model, params, set(matrices)), params, _fused(device))]
    return [_BUILDERS[params.optimizer](_groups(model, params, set()), params, _fused(device))]


_BUILDERS: dict[str, Callable[[list[Group], TrainParams, bool], Optimizer]] = {
    "sgd": lambda groups, p, fused: torch.optim.SGD(
        groups, lr=p.lr, momentum=p.momentum, nesterov=p.nesterov and p.momentum > 0, fused=fused
    ),
    "adagrad": lambda groups, p, fused: torch.optim.Adagrad(groups, lr=p.lr),
    # alpha as in the article: a tenth of each new squared gradient.
    "rmsprop": lambda groups, p, fused: torch.optim.RMSprop(groups, lr=p.lr, alpha=0.9, momentum=p.momentum),
    "adam": lambda groups, p, fused: torch.optim.Adam(groups, lr=p.lr, fused=fused),
    "adamw": lambda groups, p, fused: torch.optim.AdamW(groups, lr=p.lr, fused=fused),
}


def _fused(device: torch.device) -> bool:
    """One kernel for all weights, where torch has it."""
    return device.type in ("cpu", "cuda")


def _hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The weights that Muon is made for: of linear layers, all but the last."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)][:-1]


def _groups(model: nn.Module, params: TrainParams, without: set[Tensor]) -> list[Group]:
    """Two groups, with their own weight decay: the weights of layers, and those of norms with all biases."""
    rest = [weights for weights in model.parameters() if weights not in without]
    groups = [
        {"params": [weights for weights in rest if weights.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [weights for weights in rest if weights.ndim <= 1], "weight_decay": params.norm_weight_decay},
    ]
    return [group for group in groups if group["params"]]


# Of a cycle without warm-up of its own: the paper's and torch's share of the rising phase.
ONECYCLE_RISE = 0.3


def build_schedule(optimizer: Optimizer, params: TrainParams, steps_per_epoch: int) -> LRScheduler:
    """Build the schedule of one optimizer: warm-up, then what ``train.schedule`` names.

    ``onecycle`` (Smith & Topin 2018) has its own warm-up: ``warmup_epochs`` is its rising phase, 0 makes that 30 %
    of the epochs.
    """
    total = params.epochs * steps_per_epoch
    # A step is left for the schedule, however few there are.
    warmup = min(round(params.warmup_epochs * steps_per_epoch), total - 1)
    if params.schedule == "onecycle":
        rise = warmup / total if warmup else ONECYCLE_RISE
        # Without the momentum's own cycle, so that it does the same for every optimizer.
        return OneCycleLR(optimizer, params.lr, total_steps=total + 1, pct_start=rise, cycle_momentum=False)
    main = _MAIN[params.schedule](optimizer, params, total - warmup, steps_per_epoch)
    if not warmup:
        return main
    if params.warmup_method == "linear":
        first: LRScheduler = LinearLR(optimizer, start_factor=params.warmup_decay, total_iters=warmup)
    else:
        first = ConstantLR(optimizer, factor=params.warmup_decay, total_iters=warmup)
    with warnings.catch_warnings():
        # SequentialLR itself calls step() in the old way, and warns of it.
        warnings.simplefilter("ignore", UserWarning)
        return SequentialLR(optimizer, [first, main], milestones=[warmup])


_MAIN: dict[str, Callable[[Optimizer, TrainParams, int, int], LRScheduler]] = {
    "constant": lambda optimizer, p, steps, per_epoch: ConstantLR(optimizer, factor=1.0, total_iters=0),
    "step": lambda optimizer, p, steps, per_epoch: StepLR(optimizer, p.lr_step_size * per_epoch, p.lr_gamma),
    "exponential": lambda optimizer, p, steps, per_epoch: ExponentialLR(optimizer, p.lr_gamma ** (1 / per_epoch)),
    "linear": lambda optimizer, p, steps, per_epoch: LinearLR(
        optimizer, start_factor=1.0, end_factor=p.lr_min / p.lr, total_iters=steps
    ),
    "cosine": lambda optimizer, p, steps, per_epoch: CosineAnnealingLR(optimizer, steps, eta_min=p.lr_min),
}
