"""Event files of TensorBoard, read back by its own reader."""

import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.machine import tensorboard_folder
from pipeline.tensorboard import event_log
from pipeline.train.live import curve_values

ROWS = [
    {"epoch": epoch, "train_loss": 2.0 / epoch, "train_gradient_norm": 0.1, "valid_accuracy": epoch / 4, "lr": 1e-3}
    for epoch in (1, 2, 3)
]
# Two steps per epoch.
STEPS = [[{"loss": 10.0 * epoch + step, "gradient_norm": 0.5 * step} for step in (0, 1)] for epoch in (1, 2, 3)]
SETTINGS = {"seed": 1, "train.lr": 1e-3, "train.optimizer": "adam", "train.deterministic": True, "model.name": "a"}


def write(folder: Path, epochs: int, complete: bool = True) -> None:
    """Log the first epochs; an incomplete run ends in an error."""
    with event_log(folder, SETTINGS) as log:
        for row, steps in list(zip(ROWS, STEPS, strict=True))[:epochs]:
            log(row["epoch"], curve_values(row), steps)
        if not complete:
            raise KeyboardInterrupt


def read(folder: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0 keeps all points; a server keeps a sample.
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value)) for point in read(folder).Scalars(tag)]


def test_curves_have_the_names_of_those_of_dvclive_and_the_epoch_as_their_step(tmp_path):
    write(tmp_path / "run", 3)
    tags = set(read(tmp_path / "run").Tags()["scalars"])
    assert tags == {
        *("train/loss", "train/gradient_norm", "valid/accuracy", "lr"),
        *("step/loss", "step/gradient_norm"),
    }
    assert points(tmp_path / "run", "train/loss") == [(1, 2.0), (2, 1.0), (3, 2 / 3)]


def test_curves_by_step_continue_over_the_epochs(tmp_path):
    write(tmp_path / "run", 3)
    assert points(tmp_path / "run", "step/loss") == [(1, 10), (2, 11), (3, 20), (4, 21), (5, 30), (6, 31)]


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_resumed_run_has_every_point_once(tmp_path, stopped):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "run", stopped, complete=False)
    write(tmp_path / "run", 3)
    assert [step for step, _ in points(tmp_path / "run", "train/loss")] == [1, 2, 3]
    assert [step for step, _ in points(tmp_path / "run", "step/loss")] == [1, 2, 3, 4, 5, 6]


def test_server_that_has_read_the_stopped_run_has_every_point_once(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        write(folder, 2, complete=False)
    server = read(folder)
    assert len(server.Scalars("step/loss")) == 4
    write(folder, 3)
    server.Reload()
    assert [point.step for point in server.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]


def test_other_files_in_the_folder_are_kept_and_git_ignores_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    write(tmp_path / "run", 1)
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert (tmp_path / "run/.gitignore").read_text() == "*\n"
    assert not (tmp_path / ".gitignore").exists()


def test_table_of_runs_has_the_parameters_by_the_names_of_params_yaml(tmp_path):
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    write(tmp_path / "run", 1)
    metadata = read(tmp_path / "run").SummaryMetadata(SESSION_START_INFO_TAG)
    found = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert found["train.lr"].number_value == pytest.approx(1e-3)
    assert found["train.optimizer"].string_value == "adam"
    assert found["train.deterministic"].string_value == "True"
    assert set(found) == set(SETTINGS)


def test_missing_tensorboard_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PipelineError, match=r"^PIPELINE_TENSORBOARD: is set, but TensorBoard is not installed; run "):
        write(tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workspace", [".", ".dvc/tmp/exps/standalone/abc", ".dvc/tmp/seeds/0123456"])
def test_relative_folder_is_in_the_repository_around_a_temporary_workspace(tmp_path, monkeypatch, workspace):
    (tmp_path / workspace).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / workspace)
    monkeypatch.setenv("PIPELINE_TENSORBOARD", "runs")
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert tensorboard_folder("train-0123456") == tmp_path / "runs/train-0123456"
    monkeypatch.setenv("DVC_EXP_NAME", "tall-ship")
    assert tensorboard_folder("train-0123456") == tmp_path / "runs/tall-ship"
    monkeypatch.setenv("PIPELINE_TENSORBOARD", "/elsewhere")
    assert tensorboard_folder("train-0123456") == Path("/elsewhere/tall-ship")


def test_no_folder_is_written_unless_the_variable_is_set(monkeypatch):
    monkeypatch.delenv("PIPELINE_TENSORBOARD", raising=False)
    assert tensorboard_folder("run") is None
    monkeypatch.setenv("PIPELINE_TENSORBOARD", "")
    with pytest.raises(PipelineError, match=r"^PIPELINE_TENSORBOARD: got '', allowed is a folder; unset it for "):
        tensorboard_folder("run")
