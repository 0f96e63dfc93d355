"""A run that was stopped ends in the same bits as one that never was."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.paths import MODEL
from tests.support.sections import TRAIN
from tests.support.train_runs import DROPOUT, STATEFUL, environment, outputs, params_yaml


def killed_runs(model: dict, params: dict, kills: int, seed: int, minutes: str) -> dict:
    command = [
        sys.executable,
        "-m",
        "tests.support.killed_runs",
        json.dumps(model),
        json.dumps(params),
        str(kills),
        str(seed),
    ]
    result = subprocess.run(
        command, env=environment(PIPELINE_CHECKPOINT_MINUTES=minutes), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_killed_at_random_moments_it_ends_in_the_same_bits(optimizer):
    params = {**STATEFUL, "optimizer": optimizer}
    assert killed_runs(DROPOUT, params, kills=0, seed=0, minutes="10")["exitcode"] == 0
    expected = outputs()
    # A checkpoint after every step: a good share of the kills falls into its writing.
    report = killed_runs(DROPOUT, params, kills=20, seed=1, minutes="0")
    assert report["exitcode"] == 0
    assert report["killed"] == 20
    assert outputs() == expected
    assert not Path(".checkpoints").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_says_so_and_exits_130(stop):
    (Path("params.yaml")).write_text(params_yaml())
    command = [sys.executable, "-m", "pipeline", "train"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    while "epoch 3" not in process.stdout.readline():
        pass
    process.send_signal(stop)
    output = process.stdout.read()
    assert process.wait() == 130
    assert "the same command goes on from" in output
    assert not MODEL.exists()
    again = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "train: goes on from " in again.stdout
    resumed = outputs()
    MODEL.unlink()
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    assert outputs() == resumed


@pytest.mark.usefixtures("dataset")
def test_a_checkpoint_of_other_parameters_is_never_taken_up(tmp_path):
    from pipeline.train.checkpoint import checkpoint_path, fingerprint

    names = {
        fingerprint(train={**TRAIN, **change}, data=data, seed=seed)
        for change in ({}, {"lr": 0.1}, {"epochs": 9})
        for data in ("a", "b")
        for seed in (1, 2)
    }
    assert len(names) == 12
    assert checkpoint_path(min(names)) == tmp_path / ".checkpoints" / f"{min(names)}.pt"


def test_a_temporary_experiment_keeps_its_checkpoint_with_the_repository_around_it(tmp_path, monkeypatch):
    from pipeline.train.checkpoint import checkpoint_path

    workspace = tmp_path / ".dvc/tmp/exps/standalone/abc"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert checkpoint_path("name") == tmp_path / ".checkpoints/name.pt"


def test_the_environment_can_name_the_folder_of_the_checkpoints(tmp_path, monkeypatch):
    from pipeline.train.checkpoint import checkpoint_path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_CHECKPOINTS", "scratch/here")
    assert checkpoint_path("name") == tmp_path / "scratch/here/name.pt"


def test_a_disk_that_is_full_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    import torch

    from pipeline.train.checkpoint import load_checkpoint, save_checkpoint

    path = tmp_path / ".checkpoints/name.pt"
    save_checkpoint(path, {"position": (1, 2), "weights": torch.ones(3)})
    # The kernel itself refuses to write more than so many bytes to a file.
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from pipeline.train.checkpoint import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "save_checkpoint(Path(sys.argv[1]), {'weights': torch.ones(1_000_000)})"
    )
    result = subprocess.run([sys.executable, "-c", code, path], env=environment(), capture_output=True, text=True)
    assert result.returncode == 1
    assert "name.pt: could not be written (" in result.stderr
    assert load_checkpoint(path)["position"] == (1, 2)
    assert [file.name for file in path.parent.iterdir()] == ["name.pt"]
