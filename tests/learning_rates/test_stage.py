"""Tests of the stage ``learning_rates``."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.common.paths import PLOTS
from pipeline.learning_rates.stage import learning_rates
from pipeline.params.schema import LearningRatesParams

PARAMS = {
    "steps": 30,
    "condition_number": 1000.0,
    "lr": 0.6,
    "gd_lr_large": 1.99,
    "gd_lr_small": 0.02,
    "decay_steps": 10,
    "warmup_steps": 10,
}


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    """The folder with the outputs of the stage for the parameters above."""
    folder = tmp_path_factory.mktemp("learning_rates")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        learning_rates(LearningRatesParams(**PARAMS))
    return folder / PLOTS


@pytest.fixture
def table(plots):
    """The table of the paths."""
    return pd.read_csv(plots / "learning_rates.csv")


def test_the_table_has_every_step_of_every_path(table):
    assert list(table.columns) == ["optimizer", "schedule", "step", "w1", "w2", "error", "lr"]
    for _, path in table.groupby(["optimizer", "schedule"]):
        assert path["step"].tolist() == list(range(31))
    assert table["optimizer"].nunique() == 6
    assert table["schedule"].nunique() == 3
    np.testing.assert_allclose(table["error"], (table["w1"] ** 2 / 1000 + table["w2"] ** 2) / 2, rtol=1e-4, atol=1e-9)


def test_the_rates_in_the_table_follow_the_schedule(table):
    rates = table[table["optimizer"] == "AdaGrad (mean)"].pivot(index="step", columns="schedule", values="lr")
    assert (rates["constant"] == 0.6).all()
    np.testing.assert_allclose(rates["decay"], 0.6 / np.sqrt(1 + np.arange(31) / 10), rtol=1e-5)
    np.testing.assert_allclose(rates["warm-up and decay"][:10], 0.06 * np.arange(1, 11), rtol=1e-5)


def test_the_figure_is_large_enough_to_print(plots):
    with Image.open(plots / "learning_rates.png") as picture:
        assert min(picture.size) > 1000


def test_two_runs_write_the_same_bytes_and_print_one_line(plots, workspace, capsys):
    learning_rates(LearningRatesParams(**PARAMS))
    for name in ("learning_rates.csv", "learning_rates.png"):
        assert (PLOTS / name).read_bytes() == (plots / name).read_bytes()
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_diverging_path_ends_where_its_error_is_not_finite(workspace):
    learning_rates(LearningRatesParams(**{**PARAMS, "steps": 100, "gd_lr_large": 1e6}))
    table = pd.read_csv(PLOTS / "learning_rates.csv")
    assert np.isfinite(table["error"]).all()
    rows = table.groupby(["optimizer", "schedule"]).size()
    assert rows["gradient descent (large)", "constant"] < 101
    assert (rows.drop("gradient descent (large)") == 101).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"gd_lr_small": 2.0}, "got 2.0, allowed is less than gd_lr_large"),
        ({"warmup_steps": 31}, "got 31, allowed is at most learning_rates.steps"),
        ({"condition_number": 0.5}, "greater than or equal to 1"),
        ({"lr": 0.0}, "greater than 0"),
    ],
)
def test_contradictory_parameters_are_rejected(changes, complaint):
    with pytest.raises(ValidationError, match=complaint):
        LearningRatesParams(**{**PARAMS, **changes})
