"""Paths of the torch optimizers down an error surface of two weights: flat along the first, steep along the second."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

# A factor for the learning rate as a function of the steps already taken: the lr_lambda of LambdaLR.
Factor = Callable[[int], float]

# Far from the minimum along the flat weight, but only a step or two of an adaptive optimizer from the floor of the
# valley. So AdaGrad accumulates little gradient of the steep weight, and leaps sideways on its way to the minimum.
START = (25.0, 1.0)


def surface_error(weights: Tensor, condition_number: float) -> Tensor:
    """The error ``(w1² / condition_number + w2²) / 2`` of weights ``(..., 2)``: a long valley with minimum 0 at (0, 0).

    Its curvature is 1 / condition_number along w1, and 1 along w2, so gradient descent diverges with learning rates of
    2 and more.
    """
    w1, w2 = weights.unbind(-1)
    return (w1**2 / condition_number + w2**2) / 2


def descend(
    make_optimizer: Callable[[list[Tensor]], Optimizer], factor: Factor, steps: int, condition_number: float
) -> NDArray[np.float64]:
    """Minimize the error from ``START`` on; ``factor`` multiplies the learning rate of each step.

    Returns:
        The weights before the first step and after each step, ``(steps + 1, 2)``, float64; if the path diverges, they
        overflow to inf or NaN.
    """
    weights = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer([weights])
    scheduler = LambdaLR(optimizer, factor)
    path = [weights.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        surface_error(weights, condition_number).backward()
        optimizer.step()
        scheduler.step()
        path.append(weights.detach().clone())
    return torch.stack(path).numpy()


def constant() -> Factor:
    """The same learning rate at every step."""
    return lambda step: 1.0


def inverse_sqrt(decay_steps: int) -> Factor:
    """Decay as ``1 / sqrt(1 + t / decay_steps)``; ``decay_steps`` 1 is the ``1 / sqrt(t)`` of AdaGrad's analysis."""
    return lambda step: 1 / sqrt(1 + step / decay_steps)


def warmed_up(warmup_steps: int, then: Factor) -> Factor:
    """Increase linearly to the full rate at step ``warmup_steps`` (Goyal et al. 2017), then follow ``then``."""
    return lambda step: (step + 1) / warmup_steps if step < warmup_steps else then(step + 1 - warmup_steps)


def root_mean(factor: Factor) -> Factor:
    """Turn AdaGrad's root of the sum of all squared gradients into the root of their mean.

    ``lr * sqrt(t) / sqrt(sum)`` equals ``lr / sqrt(sum / t)``: torch's AdaGrad with a growing learning rate.
    """
    return lambda step: factor(step) * sqrt(step + 1)


@dataclass(frozen=True)
class Method:
    """An optimizer with its learning rate and its name in the figure and the table."""

    name: str
    lr: float
    make: Callable[[list[Tensor]], Optimizer]
    adapt: Callable[[Factor], Factor] = lambda factor: factor


def methods(lr: float, gd_lr_large: float, gd_lr_small: float) -> tuple[Method, ...]:
    """The optimizers, the simplest first.

    There are two versions of AdaGrad. Courses that introduce RMSProp through it divide by the root of the *mean* of all
    squared gradients. As published (Duchi et al. 2011) and in torch, it divides by the root of their *sum*, which has a
    decay of 1 / sqrt(t) built in. RMSProp (Hinton 2012) uses alpha 0.9, Adam (Kingma & Ba 2015) torch's defaults.
    """
    return (
        Method("gradient descent (large)", gd_lr_large, partial(SGD, lr=gd_lr_large)),
        Method("gradient descent (small)", gd_lr_small, partial(SGD, lr=gd_lr_small)),
        Method("AdaGrad (mean)", lr, partial(Adagrad, lr=lr), root_mean),
        Method("AdaGrad (sum)", lr, partial(Adagrad, lr=lr)),
        Method("RMSProp", lr, partial(RMSprop, lr=lr, alpha=0.9)),
        Method("Adam", lr, partial(Adam, lr=lr)),
    )


def schedules(decay_steps: int, warmup_steps: int) -> dict[str, Factor]:
    """The learning rate schedules by name."""
    decay = inverse_sqrt(decay_steps)
    return {"constant": constant(), "decay": decay, "warm-up and decay": warmed_up(warmup_steps, decay)}
