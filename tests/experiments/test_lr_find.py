"""The learning rate range test."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app, main
from pipeline.errors import PipelineError
from pipeline.experiments.lr_find import DIVERGED, SMOOTHING, lr_find, range_test, suggest
from pipeline.params.schema import ModelParams
from tests.support.sections import MODEL
from tests.support.tiny_datasets import train_params, write_dataset
from tests.support.trainers import build, linear_model

ROOT = Path(__file__).parents[2]


def test_the_learning_rate_grows_by_a_constant_factor_from_low_to_high(tmp_path):
    trainer = build(tmp_path, model=linear_model(), optimizer="sgd")
    table = range_test(trainer, steps=15, low=1e-9, high=1e-5)
    assert list(table.columns) == ["lr", "loss", "smoothed"]
    # More steps than an epoch has.
    np.testing.assert_allclose(table["lr"], np.geomspace(1e-9, 1e-5, 15), rtol=1e-9)


def test_smoothed_is_the_moving_average_without_the_bias_of_its_start(tmp_path):
    table = range_test(build(tmp_path), steps=12, low=1e-5, high=1e-2)
    losses = table["loss"].to_numpy()
    for step, smoothed in enumerate(table["smoothed"]):
        weights = SMOOTHING ** np.arange(step, -1, -1)
        assert smoothed == pytest.approx(weights @ losses[: step + 1] / weights.sum())


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_every_group_of_every_optimizer_gets_the_learning_rate(tmp_path, optimizer):
    trainer = build(tmp_path, optimizer=optimizer, norm_weight_decay=0.1)
    range_test(trainer, steps=10, low=1e-6, high=1e-3)
    # torch's Muon makes updates of 0.2 lr.
    sizes = [0.2 if isinstance(one, torch.optim.Muon) else 1.0 for one in trainer.optimizers for _ in one.param_groups]
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    assert np.multiply(rates, sizes) == pytest.approx([1e-3] * len(rates))


def test_with_layer_decay_each_layer_keeps_its_share_of_the_learning_rate(tmp_path):
    trainer = build(tmp_path, layer_decay=0.5)
    range_test(trainer, steps=10, low=1e-6, high=1e-3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**7)
    assert trainer.optimizers[0].param_groups[-1]["lr"] == pytest.approx(1e-3)


def test_the_test_stops_when_the_loss_diverges(tmp_path):
    # From a rate of 2 on the decay itself makes the weights grow.
    trainer = build(tmp_path, model=linear_model(), optimizer="sgd", weight_decay=1.0, clip_norm=0.0)
    table = range_test(trainer, steps=60, low=1e-4, high=1e6)
    assert 5 < len(table) < 60
    assert np.isfinite(table).all(axis=None)
    assert (table["smoothed"] <= DIVERGED * table["smoothed"].cummin()).all()


@pytest.mark.parametrize("best", [1e-4, 3e-3, 0.1])
def test_the_suggestion_is_where_the_loss_falls_most_steeply(best):
    lr = np.geomspace(1e-6, 10, 400)
    # A logistic fall is steepest at its middle.
    loss = 2.0 - 1.5 / (1 + np.exp(-2 * (np.log(lr) - np.log(best))))
    table = pd.DataFrame({"lr": lr, "loss": loss, "smoothed": loss})
    assert suggest(table) == pytest.approx(best, rel=0.05)


def test_the_first_steps_are_not_suggested():
    lr = np.geomspace(1e-6, 1, 100)
    loss = 2 - 0.05 * np.log(lr / 1e-6)
    loss[:2] += [5, 2]
    assert suggest(pd.DataFrame({"lr": lr, "loss": loss, "smoothed": loss})) >= lr[5]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a packed dataset and parameters for a tiny network, the current one while the test runs."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params |= {"model": MODEL, "train": train_params().model_dump()}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    write_dataset(tmp_path / "data/dataset", train=24, valid=6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    return tmp_path


def test_the_command_writes_a_table_and_a_plot_and_suggests_a_rate(folder):
    result = CliRunner().invoke(app, ["lr-find", "--steps", "20"])
    assert result.exit_code == 0, result.output
    plots = folder / "results/plots"
    assert sorted(path.name for path in plots.iterdir()) == ["lr_find.csv", "lr_find.png"]
    table = pd.read_csv(plots / "lr_find.csv")
    assert table["lr"].iloc[0] == pytest.approx(1e-6)
    assert (plots / "lr_find.png").stat().st_size > 5_000
    assert "suggests train.lr " in result.stdout
    suggested = float(result.stdout.split("suggests train.lr ")[1].split()[0])
    assert table["lr"].min() <= suggested * 1.1
    assert suggested <= table["lr"].max() * 1.1


def test_wrong_rates_are_one_line_and_exit_code_1(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipeline", "lr-find", "--low", "1", "--high", "0.1"])
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    error = capsys.readouterr().err
    assert error.startswith("error: lr-find: got --low 1 and --high 0.1, allowed is ")
    assert error.count("\n") == 1
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("low", "high"),
    # With the last two the loss is not finite at the second step already.
    [(0.1, 0.1), (1e-6, math.nan), (math.nan, 1.0), (1e-6, math.inf), (1e25, 1e30), (1e18, 1e19)],
)
def test_rates_that_suggest_nothing_are_rejected_in_one_line(folder, low, high):
    with pytest.raises(PipelineError, match=r"^lr-find: .*low") as error:
        lr_find(ModelParams(**MODEL), train_params(clip_norm=0.0, optimizer="sgd"), 1, 20, low, high)
    assert "\n" not in str(error.value)
    assert not (folder / "results").exists()
