"""Each schedule's curve against its formula."""

import math
import warnings

import pytest
import torch

from pipeline.params.schema import TrainParams
from pipeline.train.optimizers import build_schedule
from tests.support.sections import TRAIN

EPOCHS, PER_EPOCH, LR, LR_MIN, GAMMA, SIZE = 6, 10, 0.3, 0.03, 0.5, 2
TOTAL = EPOCHS * PER_EPOCH
NAMES = ["constant", "step", "exponential", "linear", "cosine"]

FORMULAS = {
    "constant": lambda t, total: LR,
    "step": lambda t, total: LR * GAMMA ** (t // (SIZE * PER_EPOCH)),
    "exponential": lambda t, total: LR * GAMMA ** (t / PER_EPOCH),
    "linear": lambda t, total: LR + (LR_MIN - LR) * t / total,
    "cosine": lambda t, total: LR_MIN + (LR - LR_MIN) * (1 + math.cos(math.pi * t / total)) / 2,
}


def curve(optimizer: str = "sgd", **changes) -> list[float]:
    """The learning rate of every step."""
    values = {"epochs": EPOCHS, "lr": LR, "lr_min": LR_MIN, "lr_gamma": GAMMA, "lr_step_size": SIZE}
    params = TrainParams(**{**TRAIN, **values, **changes})
    weights = torch.nn.Parameter(torch.zeros(2, 2))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
    built = kinds[optimizer]([weights], lr=LR)
    schedule = build_schedule(built, params, PER_EPOCH)
    rates = []
    for _ in range(TOTAL):
        rates.append(built.param_groups[0]["lr"])
        assert schedule.get_last_lr() == [rates[-1]]
        weights.grad = torch.ones_like(weights)
        built.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", NAMES)
def test_curve_follows_its_formula(name):
    expected = [FORMULAS[name](t, TOTAL) for t in range(TOTAL)]
    assert curve(schedule=name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", [0.5, 2.0])
def test_linear_warm_up_rises_to_the_peak_and_the_schedule_follows(name, warmup):
    steps = round(warmup * PER_EPOCH)
    rising = [LR * (0.1 + 0.9 * t / steps) for t in range(steps)]
    then = [FORMULAS[name](t, TOTAL - steps) for t in range(TOTAL - steps)]
    assert curve(schedule=name, warmup_epochs=warmup) == pytest.approx(rising + then, rel=1e-6)


def test_constant_warm_up_is_the_residual_network_papers():
    """0.01 first, then 0.1."""
    rates = curve(schedule="constant", lr=0.1, warmup_epochs=1.0, warmup_method="constant", warmup_decay=0.1)
    assert rates == pytest.approx([0.03] * PER_EPOCH + [0.3] * (TOTAL - PER_EPOCH))


@pytest.mark.parametrize(("warmup", "peak"), [(0.0, 0.3), (3.0, 0.5)])
def test_onecycle_rises_in_its_warm_up_and_ends_near_nothing(warmup, peak):
    rates = curve(schedule="onecycle", warmup_epochs=warmup)
    assert rates[0] == pytest.approx(LR / 25)
    assert rates.index(max(rates)) == pytest.approx(peak * TOTAL, abs=1)
    assert max(rates) == pytest.approx(LR, rel=0.02)
    assert rates[-1] < LR / 100
    rise = rates[: rates.index(max(rates)) + 1]
    assert rise == sorted(rise)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
@pytest.mark.parametrize("name", [*NAMES, "onecycle"])
def test_every_schedule_drives_every_optimizer_without_a_warning(name, optimizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(curve(optimizer, schedule=name, warmup_epochs=1.0)) == TOTAL
