"""Tests of the paths: they follow the published formulas and show the effects that courses teach."""

import numpy as np
import pytest
import torch

from pipeline.learning_rates.descent import (
    START,
    constant,
    descend,
    inverse_sqrt,
    methods,
    root_mean,
    schedules,
    surface_error,
    warmed_up,
)

CONDITION_NUMBER, STEPS, LR = 1000.0, 200, 0.6
METHODS = {method.name: method for method in methods(LR, gd_lr_large=1.99, gd_lr_small=0.02)}
SCHEDULES = schedules(decay_steps=10, warmup_steps=10)
CURVATURE = np.array([1 / CONDITION_NUMBER, 1.0])


def path_of(name, schedule="constant"):
    """The path of an optimizer, (steps + 1, 2)."""
    method = METHODS[name]
    return descend(method.make, method.adapt(SCHEDULES[schedule]), STEPS, CONDITION_NUMBER)


def error_of(path):
    """The error at each point of a path."""
    return surface_error(torch.from_numpy(path), CONDITION_NUMBER).numpy()


def stepped(direction):
    """The path with a constant rate in NumPy; ``direction(t, gradients)`` is step t, from 1 on, over the rate."""
    path, gradients = [np.array(START)], []
    for step in range(1, STEPS + 1):
        gradients.append(CURVATURE * path[-1])
        path.append(path[-1] - LR * direction(step, np.array(gradients)))
    return np.array(path)


def averaged(values, beta):
    """The exponential moving average of values, ``(steps, 2)``, initialized with zero."""
    weights = (1 - beta) * beta ** np.arange(len(values))[::-1]
    return weights @ values


def adagrad(step, gradients):
    """Duchi et al. 2011, with torch's epsilon."""
    return gradients[-1] / (np.sqrt((gradients**2).sum(axis=0)) + 1e-10)


def adagrad_mean(step, gradients):
    """The same with the mean instead of the sum."""
    return gradients[-1] / np.sqrt((gradients**2).mean(axis=0))


def rmsprop(step, gradients):
    """Hinton 2012."""
    return gradients[-1] / (np.sqrt(averaged(gradients**2, 0.9)) + 1e-8)


def adam(step, gradients):
    """Kingma & Ba 2015, algorithm 1."""
    mean = averaged(gradients, 0.9) / (1 - 0.9**step)
    square = averaged(gradients**2, 0.999) / (1 - 0.999**step)
    return mean / (np.sqrt(square) + 1e-8)


@pytest.mark.parametrize(
    ("name", "formula"),
    [("AdaGrad (sum)", adagrad), ("AdaGrad (mean)", adagrad_mean), ("RMSProp", rmsprop), ("Adam", adam)],
)
def test_a_path_follows_the_published_formula(name, formula):
    # Leaps amplify rounding errors: a step of the steep weight can multiply them by more than 2.
    np.testing.assert_allclose(path_of(name)[:60], stepped(formula)[:60], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lr", [1.99, 0.02])
def test_gradient_descent_shrinks_each_weight_by_its_own_factor(lr):
    path = path_of("gradient descent (large)" if lr > 1 else "gradient descent (small)")
    expected = np.array(START) * (1 - lr * CURVATURE) ** np.arange(STEPS + 1)[:, None]
    np.testing.assert_allclose(path, expected, rtol=1e-10)


def test_the_gradient_of_the_surface_is_the_curvature_times_the_weights():
    weights = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    surface_error(weights, CONDITION_NUMBER).sum().backward()
    np.testing.assert_allclose(weights.grad.numpy(), CURVATURE * weights.detach().numpy())
    assert surface_error(torch.zeros(2), CONDITION_NUMBER) == 0


def test_gradient_descent_with_a_large_rate_oscillates_across_the_valley():
    steep = path_of("gradient descent (large)")[:, 1]
    assert (np.sign(steep[1:]) == -np.sign(steep[:-1])).all()
    assert abs(steep[100]) > 0.3


def test_gradient_descent_with_a_small_rate_hardly_moves_along_the_flat_weight():
    flat, steep = path_of("gradient descent (small)").T
    assert flat[-1] > 0.99 * flat[0]
    assert (np.diff(steep) < 0).all()
    assert abs(steep[-1]) < 0.02


def test_adagrad_with_the_mean_leaps_sideways_halfway_and_returns():
    flat, steep = path_of("AdaGrad (mean)").T
    assert np.abs(steep[10:28]).max() < 0.03
    leap = 28 + np.abs(steep[28:60]).argmax()
    assert abs(steep[leap]) > START[1]
    assert 0.1 * START[0] < flat[leap] < 0.9 * START[0]
    assert np.abs(steep[leap + 20 : leap + 40]).max() < 0.1


@pytest.mark.parametrize("schedule", ["decay", "warm-up and decay"])
def test_decay_prevents_the_leaps_of_adagrad(schedule):
    assert np.abs(path_of("AdaGrad (mean)", schedule)[28:, 1]).max() < 1e-3


def test_adagrad_with_the_sum_equals_the_mean_with_a_decay_of_one_over_root_t():
    method = METHODS["AdaGrad (mean)"]
    path = descend(method.make, root_mean(inverse_sqrt(1)), STEPS, CONDITION_NUMBER)
    np.testing.assert_allclose(path, path_of("AdaGrad (sum)"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["AdaGrad (mean)", "RMSProp"])
@pytest.mark.parametrize("schedule", ["decay", "warm-up and decay"])
def test_with_decay_the_path_ends_closer_to_the_minimum_and_stays_close(name, schedule):
    without, with_decay = error_of(path_of(name)), error_of(path_of(name, schedule))
    assert with_decay[-1] < 0.1 * without[-1]
    assert with_decay[100:].max() < 0.1 * without[100:].max()


def test_rmsprop_with_a_constant_rate_ends_in_oscillations_of_half_the_rate():
    np.testing.assert_allclose(np.abs(path_of("RMSProp")[-20:, 1]), LR / 2, rtol=0.03)


def test_warm_up_prevents_the_first_leap_of_rmsprop_over_the_valley():
    # The moving average starts at 0, so the first step is lr / sqrt(1 - alpha) for any gradient.
    first = np.diff(path_of("RMSProp")[:2], axis=0)
    np.testing.assert_allclose(first, -LR / np.sqrt(0.1), rtol=1e-5)
    assert path_of("RMSProp")[1, 1] < -0.8
    assert path_of("RMSProp", "warm-up and decay")[1, 1] > 0.8


def test_schedules_increase_to_the_full_rate_and_then_decay():
    factors = [warmed_up(4, inverse_sqrt(2))(step) for step in range(10)]
    np.testing.assert_allclose(factors[:4], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(factors[4:], 1 / np.sqrt(1 + np.arange(1, 7) / 2))
    assert inverse_sqrt(10)(0) == constant()(123) == 1


def test_torch_applies_the_factor_of_each_step_to_that_step():
    path = descend(lambda weights: torch.optim.SGD(weights, lr=1.0), lambda step: 0.1 * step, 3, 1.0)
    shrink = np.cumprod([1, 1 - 0.0, 1 - 0.1, 1 - 0.2])
    np.testing.assert_allclose(path, shrink[:, None] * START)


def test_a_path_has_one_point_more_than_steps_and_is_reproducible():
    path = path_of("Adam", "warm-up and decay")
    assert path.shape == (STEPS + 1, 2)
    assert path.dtype == np.float64
    np.testing.assert_array_equal(path[0], START)
    np.testing.assert_array_equal(path, path_of("Adam", "warm-up and decay"))
