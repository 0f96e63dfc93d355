"""Sweeps of real experiments of DVC."""

import json
import signal
import sys
import time

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.support.clones import SMALL, Clone, stages_run
from tests.support.sweep_repository import SWEEP, SweepRepository

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path):
    return SweepRepository(tmp_path)


def table(repository) -> pd.DataFrame:
    (path,) = repository.folder.glob(".sweeps/*/trials.csv")
    return pd.read_csv(path).drop(columns="seconds")


def test_a_sweep_in_pieces_is_the_one_in_one_piece_and_leaves_the_workspace_alone(repository, tmp_path_factory):
    state = repository.git("status", "--porcelain")
    first = repository.sweep("--trials", "3")
    assert "goes on" not in first
    output = repository.sweep("--trials", "6")
    assert "goes on after 3 trials" in output
    assert repository.git("status", "--porcelain") == state
    pieces = table(repository)
    # Another clone of the same commit, in one go.
    other = SweepRepository(tmp_path_factory.mktemp("other"))
    other.git("fetch", "-q", str(repository.folder), "main")
    other.git("reset", "-q", "--hard", "FETCH_HEAD")
    other.sweep("--trials", "6")
    pd.testing.assert_frame_equal(table(other), pieces)
    complete = pieces[pieces["state"] == "complete"]
    assert set(complete["experiment"]) == set(repository.experiments())
    # The experiments are real: they are shown, and can be applied.
    best = complete.sort_values("value").iloc[-1]
    assert f"dvc exp apply {best['experiment']}" in output
    shown = repository.dvc("exp", "show", "--csv")
    assert all(name in shown for name in complete["experiment"])
    repository.dvc("exp", "apply", best["experiment"])
    params = YAML(typ="safe", pure=True).load(repository.folder / "params.yaml")
    assert (params["train"]["lr"], params["train"]["epochs"]) == (best["train.lr"], 4)
    metrics = json.loads((repository.folder / "results/metrics/train.json").read_text())
    assert metrics["valid_accuracy"] == best["value"]
    # What was applied is part of the sweep, which goes on; it is not another one.
    assert "goes on after 6 trials" in repository.sweep("--trials", "6")
    # Without its journal, what is complete is taken from its experiment.
    (folder,) = repository.folder.glob(".sweeps/*/")
    (folder / "journal.log").unlink()
    again = repository.sweep("--trials", "6")
    assert again.count("is there already: experiment") == len(complete)
    assert table(repository)["value"].equals(pieces["value"])
    assert (folder / "sweep.png").stat().st_size > 20_000


def test_other_code_parameters_or_files_are_other_sweeps(repository):
    names = [repository.sweep("--trials", "1").split(":")[0]]
    repository.replace("code/train.py", "0.05", "0.04")
    names.append(repository.sweep("--trials", "1").split(":")[0])
    repository.replace("params.yaml", "  batch_size: 64", "  batch_size: 32")
    names.append(repository.sweep("--trials", "1").split(":")[0])
    repository.write("sweeps/lr.yaml", SWEEP.format(seed=2))
    output = repository.sweep("--trials", "1")
    names.append(output.split(":")[0])
    assert len(set(names)) == 4
    assert "had another commit, code, parameters or file, and is left as it is" in output
    # A value that the sweep searches, and a comment in its file, change nothing.
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    repository.write("sweeps/lr.yaml", "# comment\n" + SWEEP.format(seed=2))
    assert repository.sweep("--trials", "1").split(":")[0] == names[-1]


def test_a_hopeless_trial_is_stopped_at_once_and_leaves_nothing(repository):
    """Were it not stopped, each of its three epochs would take half a minute."""
    repository.write(
        "sweeps/lr.yaml",
        "sampler: grid\npruner: {name: median, startup_trials: 1}\n"
        "space:\n  train.lr: [0.01, 0.0001]\n  train.weight_decay: [0, 1]\n",
    )
    order = []
    for seed in range(20):
        text = (repository.folder / "sweeps/lr.yaml").read_text()
        repository.write("sweeps/lr.yaml", text.split("seed:")[0].rstrip() + f"\nseed: {seed}\n")
        order = grid_order(repository)
        if order[0] == (0.01, 0) and order[1] == (0.0001, 1):
            break
    assert order[1] == (0.0001, 1)
    start = time.monotonic()
    output = repository.sweep("--trials", "2")
    assert "pruned after epoch 1 at 0.2500; best 0.9375 of trial 1" in output
    assert time.monotonic() - start < 60
    assert list(table(repository)["state"]) == ["complete", "pruned"]
    assert len(repository.experiments()) == 1
    assert not list(repository.folder.glob(".sweeps/*/checkpoints"))
    assert not list(repository.folder.glob(".dvc/tmp/sweeps/*/"))
    assert repository.inside() == []


def grid_order(repository) -> list[tuple]:
    from pipeline.experiments.study import Study
    from pipeline.experiments.sweep_file import read_sweep

    base = YAML(typ="safe", pure=True).load(repository.folder / "params.yaml")
    sweep = read_sweep(repository.folder / "sweeps/lr.yaml", base, [])
    path = repository.folder / f".sweeps/order-{sweep.seed}/journal"
    study, order = Study(path, "any", sweep, 4), []
    for _ in range(4):
        trial = study.ask()
        order.append(tuple(trial.parameters.values()))
        study.tell(trial, "failed", None, {"reason": "none", "seconds": 0})
    return order


def test_a_trial_that_fails_is_told_and_when_all_do_the_command_fails(repository):
    repository.write("sweeps/lr.yaml", "sampler: random\nspace:\n  train.lr: [1e-6, 1e-2]\n")
    output = repository.sweep("--trials", "5")
    assert "failed: train: the loss is nan in step 1 of epoch 1; best 0.9375 of trial" in output
    # The same parameters are not run twice.
    assert output.count("as trial ") + output.count("is there already") == 3
    assert set(table(repository)["state"]) == {"complete", "failed"}
    repository.write("sweeps/bad.yaml", "space:\n  train.lr: [1e-6, 1e-7]\n")
    output = repository.sweep("--trials", "2", file="sweeps/bad.yaml", code=1)
    assert "error: sweep bad-" in output
    assert "no trial is complete; the last that failed: train: the loss is nan in step 1" in output


def test_what_no_parameter_is_to_blame_for_ends_the_sweep_and_is_not_remembered(repository):
    repository.replace("dvc.yaml", "outs: [results/live]", "outs: [results/live, results/live/x]")
    output = repository.sweep("--trials", "2", code=1)
    assert "error: The output paths: 'results/live'" in output
    assert not list(repository.folder.glob(".sweeps/*/trials.csv"))


def test_parameters_that_exclude_each_other_fail_before_any_training(repository):
    repository.write("sweeps/lr.yaml", "sampler: grid\nspace:\n  train.loss: [bce, mse]\n  train.lr: [0.01, 0.1]\n")
    output = repository.sweep("--trials", "9")
    assert "its grid has 4 points" in output
    assert output.count("failed: params.yaml: train.label_smoothing: got 0.1, allowed with train.loss bce is 0") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_killed_goes_on_with_the_same_trial_from_its_checkpoint(repository, number):
    """Alone, the process of the sweep is killed; what it started ends with it."""
    arguments = ("--trials", "2", "-S", "train.weight_decay=1", "-S", "train.epochs=2")
    with repository.start(*arguments) as process:
        for line in process.stdout:
            if "train: epoch 1 of 2" in line:
                process.send_signal(number)
                break
        else:
            pytest.fail("it ended by itself")
        rest = process.stdout.read()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "stopped with 0 of 2 trials; the same command goes on" in rest
    deadline = time.monotonic() + 30
    while repository.inside() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert repository.inside() == []
    with repository.start(*arguments) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "resumes from" in line:
                process.kill()
    assert lines[1].startswith("trial 1 of 2: ")
    assert any("train: resumes from" in line and "epoch 2" in line for line in lines)


def test_a_second_process_with_the_same_sweep_is_refused(repository):
    with repository.start("--trials", "1", "-S", "train.weight_decay=1") as process:
        for line in process.stdout:
            if "train: epoch 1" in line:
                break
        output = repository.sweep("--trials", "1", "-S", "train.weight_decay=1", code=1)
        assert "another process runs the sweep lr-" in output
        process.terminate()


def test_the_real_pipeline_is_swept_pruned_shown_and_applied(tmp_path):
    clone = Clone(tmp_path, {**SMALL, "augment.views": 0, "evaluate.bootstrap": 0})
    (tmp_path / "sweeps/tiny.yaml").write_text(
        "sampler: grid\nseed: 1\npruner: {name: median, startup_trials: 1}\nspace:\n  train.lr: [0.003, 0.001, 1e-7]\n"
    )
    output = clone.run(sys.executable, "-m", "pipeline", "sweep", "sweeps/tiny.yaml")
    trials = pd.read_csv(next(tmp_path.glob(".sweeps/*/trials.csv")))
    assert sorted(trials["train.lr"]) == [1e-7, 0.001, 0.003]
    by_rate = trials.set_index("train.lr")
    assert by_rate.loc[1e-7, "state"] == "pruned", output
    assert not (tmp_path / ".checkpoints").exists()
    best = trials.sort_values("value").iloc[-1]
    assert best["experiment"] in clone.run("dvc", "exp", "show", "--csv")
    # A trial ends with evaluate: DVC applies it, and complains of what later stages have never written here.
    assert "results/model.onnx" in clone.run("dvc", "exp", "apply", best["experiment"], fails=True)
    assert clone.metrics("train")["valid_accuracy"] == best["value"]
    assert f"lr: {best['train.lr']}" in (tmp_path / "params.yaml").read_text()
    ran = stages_run(clone.run("dvc", "repro"))
    assert {"predict", "export"} <= set(ran)
    assert not {"download", "augment", "train", "evaluate"} & set(ran)
    assert "up to date" in clone.run("dvc", "repro")
