"""Event files, read back by TensorBoard's own reader."""

import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.machine import tensorboard_folder
from pipeline.tensorboard import event_log

ROWS = [
    {"epoch": epoch, "train_loss": 2.0 / epoch, "train_gradient_norm": 0.1, "valid_accuracy": epoch / 4, "lr": 1e-3}
    for epoch in (1, 2, 3)
]
STEPS = [torch.arange(8.0).view(2, 4) + 10 * epoch for epoch in (1, 2, 3)]
SETTINGS = {"seed": 1, "train.lr": 1e-3, "train.optimizer": "adam", "train.deterministic": True, "model.name": "a"}


def write(folder: Path, epochs: int, complete: bool = True) -> None:
    """Log the first epochs; an incomplete run ends by an error."""
    with event_log(folder, SETTINGS) as log:
        for row, steps in list(zip(ROWS, STEPS, strict=True))[:epochs]:
            log(row, steps)
        if not complete:
            raise KeyboardInterrupt


def read(folder: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0 keeps all points, where a server draws a sample.
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value)) for point in read(folder).Scalars(tag)]


def test_an_epochs_curves_have_the_names_of_the_live_ones_and_the_epoch_as_their_step(tmp_path):
    write(tmp_path / "run", 3)
    tags = set(read(tmp_path / "run").Tags()["scalars"])
    assert tags == {
        *("train/loss", "train/gradient_norm", "valid/accuracy", "lr"),
        *("step/loss", "step/accuracy", "step/gradient_norm", "step/lr"),
    }
    assert points(tmp_path / "run", "train/loss") == [(1, 2.0), (2, 1.0), (3, 2 / 3)]


def test_a_steps_curves_go_on_over_the_epochs(tmp_path):
    write(tmp_path / "run", 3)
    assert points(tmp_path / "run", "step/gradient_norm") == [(1, 12), (2, 16), (3, 22), (4, 26), (5, 32), (6, 36)]


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_a_run_that_goes_on_has_every_point_once(tmp_path, stopped):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "run", stopped, complete=False)
    write(tmp_path / "run", 3)
    assert [step for step, _ in points(tmp_path / "run", "train/loss")] == [1, 2, 3]
    assert [step for step, _ in points(tmp_path / "run", "step/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_server_that_has_read_a_stopped_run_has_every_point_once_too(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        write(folder, 2, complete=False)
    server = read(folder)
    assert len(server.Scalars("step/loss")) == 4
    write(folder, 3)
    server.Reload()
    assert [point.step for point in server.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]


def test_what_others_keep_in_the_folder_stays_and_git_ignores_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    write(tmp_path / "run", 1)
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert (tmp_path / "run/.gitignore").read_text() == "*\n"
    assert not (tmp_path / ".gitignore").exists()


def test_the_table_of_runs_has_the_parameters_by_their_names_in_dvc(tmp_path):
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    write(tmp_path / "run", 1)
    metadata = read(tmp_path / "run").SummaryMetadata(SESSION_START_INFO_TAG)
    found = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert found["train.lr"].number_value == pytest.approx(1e-3)
    assert found["train.optimizer"].string_value == "adam"
    assert found["train.deterministic"].string_value == "True"
    assert set(found) == set(SETTINGS)


def test_tensorboard_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PipelineError, match=r"^PIPELINE_TENSORBOARD: is set, but TensorBoard is not installed; run "):
        write(tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workspace", [".", ".dvc/tmp/exps/standalone/abc", ".dvc/tmp/seeds/0123456"])
def test_a_relative_folder_is_that_of_the_repository_around_a_temporary_workspace(tmp_path, monkeypatch, workspace):
    (tmp_path / workspace).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / workspace)
    monkeypatch.setenv("PIPELINE_TENSORBOARD", "runs")
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert tensorboard_folder("train-0123456") == tmp_path / "runs/train-0123456"
    monkeypatch.setenv("DVC_EXP_NAME", "tall-ship")
    assert tensorboard_folder("train-0123456") == tmp_path / "runs/tall-ship"
    monkeypatch.setenv("PIPELINE_TENSORBOARD", "/elsewhere")
    assert tensorboard_folder("train-0123456") == Path("/elsewhere/tall-ship")


def test_no_folder_is_wanted_unless_one_is_named(monkeypatch):
    monkeypatch.delenv("PIPELINE_TENSORBOARD", raising=False)
    assert tensorboard_folder("run") is None
    monkeypatch.setenv("PIPELINE_TENSORBOARD", "")
    with pytest.raises(PipelineError, match=r"^PIPELINE_TENSORBOARD: got '', allowed is a folder; unset it for "):
        tensorboard_folder("run")
