"""The picture of a sweep, looked at as pixels and axes."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.experiments.sweep_file import Range, Sweep
from pipeline.experiments.sweep_report import _limits, plot_sweep

SPACE = {
    "train.lr": Range(low=1e-4, high=1e-1, log=True),
    "train.optimizer": ("sgd", "adam"),
    "model.dropout": Range(low=0, high=0.6),
    "train.weight_decay": Range(low=1e-6, high=1e-2, log=True),
    "train.mixup_alpha": (0, 0.2, 1),
    "train.random_erase": Range(low=0, high=0.5),
}


def table_of(trials, seed=0):
    """Trials of which each third is pruned and one has failed."""
    draw = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "trial": range(1, trials + 1),
            "state": ["pruned" if number % 3 == 2 else "complete" for number in range(trials)],
            "value": draw.uniform(0.9, 0.99, trials),
            "train.lr": 10 ** draw.uniform(-4, -1, trials),
            "train.optimizer": draw.choice(["sgd", "adam"], trials),
            "model.dropout": draw.uniform(0, 0.6, trials),
            "train.weight_decay": 10 ** draw.uniform(-6, -2, trials),
            "train.mixup_alpha": pd.Series(
                [(0, 0.2, 1)[index] for index in draw.integers(3, size=trials)], dtype=object
            ),
            "train.random_erase": draw.uniform(0, 0.5, trials),
        }
    )
    if trials > 4:
        table.loc[3, ["state", "value"]] = ["failed", None]
        table.loc[0, "value"] = 0.1
    return table


@pytest.mark.parametrize(("trials", "parameters"), [(1, 1), (2, 3), (30, 3), (60, 6)])
@pytest.mark.parametrize("maximize", [True, False])
def test_it_is_drawn_of_one_trial_and_of_many_to_the_same_bytes(tmp_path, trials, parameters, maximize):
    metric = "train.valid_accuracy" if maximize else "train.valid_loss"
    sweep = Sweep(metric=metric, space=dict(list(SPACE.items())[:parameters]))
    shares = dict.fromkeys(sweep.space, 1 / parameters) if trials > 1 else {}
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in pictures:
        plot_sweep(path, sweep, table_of(trials), shares, "lr-1234567")
    first, second = (path.read_bytes() for path in pictures)
    assert first == second
    height = {1: 2, 3: 2, 6: 3}[parameters] * 3.6 * 120
    assert Image.open(pictures[0]).size == (1560, round(height))


def test_trials_that_diverged_do_not_press_the_others_together():
    low, high = _limits(np.array([0.1, 0.1, 0.95, 0.96, 0.97, 0.98, 0.98, 0.985, 0.99]), maximize=True)
    assert low > 0.9
    assert high > 0.99
    low, high = _limits(np.array([9.0, 0.2, 0.21, 0.22, 0.23]), maximize=False)
    assert low < 0.2
    assert high < 1


@pytest.mark.parametrize("maximize", [True, False])
def test_one_value_has_room_around_it(maximize):
    low, high = _limits(np.array([0.5]), maximize)
    assert low < 0.5 < high
    low, high = _limits(np.array([0.0]), maximize)
    assert low < 0.0 < high
