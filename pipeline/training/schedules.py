"""The learning rate schedules by name, composed of those in ``torch.optim.lr_scheduler`` and stepped every batch."""

import warnings
from collections.abc import Callable

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

from pipeline.params.train import TrainParams

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
