"""Sweeps: their trials without DVC, and the whole with real DVC."""

import json
import math
import signal
import sys
import time
from contextlib import suppress

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.errors import MachineError, PipelineError
from pipeline.experiments.dvc_command import DvcError
from pipeline.experiments.sweep import run_sweep
from tests.support.clones import SMALL, Clone, stages_run

LR = """
seed: {seed}
sampler: {{name: tpe, startup_trials: 3}}
pruner: {{name: median, startup_trials: 2, warmup_epochs: 1}}
space:
  train.lr: {{low: 1e-4, high: 1e-1, log: true}}
  train.optimizer: [sgd, 'adam']
"""


# Without DVC.


@pytest.fixture
def sweep(fake_dvc, repository, capsys):
    """Run the sweep of a text or of the file as it is; return its output."""

    def run(text: str = "", trials: int = 2, *overrides: str, hours: float = math.inf) -> str:
        if text:
            repository.write("sweeps/lr.yaml", text)
        capsys.readouterr()
        run_sweep((repository.folder / "sweeps/lr.yaml").relative_to(repository.folder), trials, overrides, hours)
        return capsys.readouterr().out

    return run


def name_of(output: str) -> str:
    return output.split(":")[0].removeprefix("sweep ")


def test_an_interrupted_sweep_tries_the_same_as_an_uninterrupted_one(sweep, fake_dvc, repository):
    state = repository.git("status", "--porcelain")
    assert "resumes" not in sweep(LR.format(seed=1), 3, "train.epochs=4")
    assert "resumes after 3 trials" in sweep("", 6, "train.epochs=4")
    assert repository.git("status", "--porcelain") == state + "?? sweeps/\n"
    pieces = repository.trials()
    (folder,) = repository.folder.glob(".sweeps/*/")
    assert (folder / "sweep.png").stat().st_size > 20_000
    facts = json.loads((folder / "sweep.json").read_text())
    assert (facts["file"], facts["overrides"], facts["sampler"]["name"]) == (
        "sweeps/lr.yaml",
        ["train.epochs=4"],
        "tpe",
    )
    complete = pieces[pieces["state"] == "complete"]
    assert set(complete["experiment"]) == set(fake_dvc.experiments)
    # Without its journal, complete trials are read from their experiments, and pruned as they would be.
    (folder / "journal.log").unlink()
    again = sweep("", 6, "train.epochs=4")
    assert again.count("exists already: experiment") == len(complete)
    pd.testing.assert_frame_equal(repository.trials(), pieces)
    # In another place, in one go.
    (folder / "journal.log").unlink()
    fake_dvc.experiments.clear()
    sweep("", 6, "train.epochs=4")
    pd.testing.assert_frame_equal(repository.trials(), pieces)


def test_a_time_budget_lets_the_running_trial_end_and_the_same_command_continues(sweep, repository):
    assert "ends after 0 hours with 1 of 3 trials" in sweep(LR.format(seed=1), 3, hours=0.0)
    assert len(repository.trials()) == 1
    assert "resumes after 1 trial" in sweep("", 3)
    assert len(repository.trials()) == 3


def test_other_code_parameters_images_or_settings_are_other_sweeps(sweep, repository):
    repository.replace("params.yaml", "  source: digits ", "  source: modelscope ")
    repository.replace("params.yaml", "  location: null ", "  location: owner/name ")
    names = [name_of(sweep(LR.format(seed=1), 1))]
    repository.write("pipeline/train/stage.py", "# new")
    names.append(name_of(sweep("", 1)))
    repository.commit("Another optimizer")
    assert name_of(sweep("", 1)) == names[-1]
    repository.write("pipeline/common/stage.py", "# new")
    repository.commit("Another reader")
    names.append(name_of(sweep("", 1)))
    repository.replace("params.yaml", "  batch_size: 64", "  batch_size: 32")
    names.append(name_of(sweep("", 1)))
    repository.write("dvc.lock", "stages: {download: {outs: [{path: data/raw.zip, md5: 12}]}}")
    names.append(name_of(sweep("", 1)))
    output = sweep(LR.format(seed=2), 1)
    names.append(name_of(output))
    assert len(set(names)) == 6
    assert f"new; {', '.join(sorted(names[:-1]))} had other code, data, parameters or settings, and is kept" in output


def test_other_weights_of_a_searched_path_are_another_sweep_and_missing_ones_an_error_at_the_start(
    sweep, fake_dvc, repository
):
    text = "sampler: grid\nspace: {model.pretrained: [false, weights/a.pth]}"
    repository.write("weights/a.pth", "1")
    name = name_of(sweep(text, 2))
    assert name_of(sweep(text, 2)) == name
    repository.write("weights/a.pth", "another")
    assert name_of(sweep(text, 2)) != name
    ran = list(fake_dvc.ran)
    (repository.folder / "weights/a.pth").unlink()
    with pytest.raises(PipelineError, match=r"the file weights/a\.pth is not here"):
        sweep(text, 2)
    assert fake_dvc.ran == ran


def test_a_commit_or_what_decides_no_result_starts_no_new_sweep(sweep, fake_dvc, repository):
    name = name_of(sweep(LR.format(seed=1), 2))
    head = repository.git("rev-parse", "--short=7", "HEAD").strip()
    ran = list(fake_dvc.ran)
    repository.write("README.md", "new")
    repository.write("pipeline/report/stage.py", "# new")
    assert f"sweep {name}: resumes after 2 trials" in sweep("", 2)
    repository.commit("Another font")
    # A value that the sweep searches, and a comment in its file.
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    output = sweep("# comment\n" + LR.format(seed=1), 2)
    assert f"sweep {name}: resumes after 2 trials" in output
    assert f"is based on {head}: dvc exp apply restores all files of that commit" in output
    # Another sweep takes the trials that it shares, whatever commit they are based on.
    assert sweep(LR.format(seed=1).replace("median, startup_trials: 2", "median, startup_trials: 3"), 2)
    assert fake_dvc.ran == ran


def test_a_hopeless_trial_is_stopped_at_once_and_leaves_nothing(sweep, fake_dvc, repository):
    text = "sampler: grid\nseed: 1\npruner: {name: median, startup_trials: 1}\nspace:\n  train.lr: [0.01, 0.0001]\n"
    output = sweep(text, 2, "train.epochs=4")
    assert "trial 2 of 2: pruned after epoch 1 at 0.2500; best 0.9375 of trial 1" in output
    assert fake_dvc.epochs == [4, 1]
    assert list(repository.trials()["state"]) == ["complete", "pruned"]
    assert len(fake_dvc.experiments) == 1
    assert not list(repository.folder.glob(".sweeps/*/checkpoints"))


def test_a_trial_that_fails_is_reported_and_not_run_again(sweep, fake_dvc, repository):
    output = sweep("sampler: random\nspace:\n  train.lr: [1e-6, 1e-2]\n", 5, "train.epochs=4")
    assert "failed: train: the loss is nan in step 1 of epoch 1; best 0.9375 of trial" in output
    assert output.count("same parameters as trial ") + output.count("exists already") == 3
    assert len(fake_dvc.ran) == 2
    assert set(repository.trials()["state"]) == {"complete", "failed"}


def test_a_sweep_of_which_every_trial_fails_is_an_error(sweep):
    line = r"^sweep lr-\w{7}: no trial is complete; the last that failed: train: the loss is nan .* remove .sweeps/lr-"
    with pytest.raises(PipelineError, match=line):
        sweep("space:\n  train.lr: [1e-6, 1e-7]\n")


@pytest.mark.parametrize(
    ("stage", "exit_code"),
    [(None, 1), ("source", 1), ("download", 1), ("train", MachineError.exit_code)],
)
def test_an_error_that_is_not_the_fault_of_the_parameters_ends_the_sweep_and_is_not_recorded(
    sweep, fake_dvc, repository, stage, exit_code
):
    fake_dvc.error, fake_dvc.stage, fake_dvc.exit_code = "it failed", stage, exit_code
    with pytest.raises(DvcError, match="it failed"):
        sweep(LR.format(seed=1))
    assert not list(repository.folder.glob(".sweeps/*/trials.csv"))


def test_bad_input_of_a_stage_fails_the_trial(sweep, fake_dvc, repository):
    fake_dvc.error, fake_dvc.stage = "model.pretrained: there are no weights of timm/x", "pretrained"
    with pytest.raises(PipelineError, match="no trial is complete"):
        sweep(LR.format(seed=1))
    assert set(repository.trials()["state"]) == {"failed"}


def test_parameters_that_exclude_each_other_fail_before_any_training(sweep, fake_dvc):
    output = sweep("sampler: grid\nspace:\n  model.pretrained: [true, false]\n  train.lr: [0.01, 0.1]\n", 9)
    assert "its grid has 4 points; each is tried once" in output
    assert output.count("failed: params.yaml: model.pretrained: got true, but classifier has no pretrained") == 2
    assert len(fake_dvc.ran) == 2


def test_a_metric_that_is_missing_fails_the_trial(sweep):
    text = "metric: evaluate.macro_f1\nspace:\n  train.lr: [0.01, 0.1]\n"
    with pytest.raises(
        PipelineError, match=r"the last that failed: evaluate.macro_f1 of experiment lr-00\d-\w+ is None"
    ):
        sweep(text, 2, "evaluate.split=valid")


def test_ctrl_c_does_not_record_the_trial_which_is_tried_again(sweep, fake_dvc, repository, capsys):
    fake_dvc.interrupt_after = 6
    with suppress(KeyboardInterrupt):
        sweep(LR.format(seed=1), 4, "train.epochs=4")
    assert "stopped with 1 of 4 trials; the same command resumes" in capsys.readouterr().out
    assert list(repository.folder.glob(".sweeps/*/checkpoints"))
    assert "resumes after 1 trial\n" in sweep("", 4, "train.epochs=4")
    assert fake_dvc.ran[1] == fake_dvc.ran[2]
    assert fake_dvc.epochs[:3] == [4, 2, 4]
    assert not list(repository.folder.glob(".sweeps/*/checkpoints"))


# With real DVC.


def kill_in_first_trial(repository, number: int, *arguments: str) -> None:
    """Kill the process of a sweep, and no other, after its first epoch; what it started ends with it."""
    with repository.start(*arguments) as process:
        for line in process.stdout:
            if "train: epoch 1 of 2" in line:
                process.send_signal(number)
                break
        else:
            pytest.fail("it ended before")
        rest = process.stdout.read()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "stopped with 0 of 2 trials; the same command resumes" in rest
    deadline = time.monotonic() + 60
    while repository.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert repository.processes() == []


def test_a_killed_sweep_resumes_its_trial_prunes_the_next_and_the_best_is_applied(sweep_repository):
    repository = sweep_repository
    # The second epoch would take half a minute.
    slow = ("--trials", "2", "-S", "train.epochs=2", "-S", "train.weight_decay=1")
    kill_in_first_trial(repository, signal.SIGKILL, *slow)
    (checkpoint,) = repository.folder.glob(".sweeps/*/checkpoints/*/*.json")
    checkpoint.write_text("[0.5, 0.75]")
    state = repository.git("status", "--porcelain")
    output = repository.sweep(*slow)
    assert f"train: resumes from {checkpoint}, epoch 3" in output
    assert "trial 2 of 2: pruned after epoch 1 at 0.2500; best 0.7500 of trial 1" in output
    assert repository.git("status", "--porcelain") == state
    assert list(repository.trials()["state"]) == ["complete", "pruned"]
    assert not list(repository.folder.glob(".sweeps/*/checkpoints"))
    assert not list(repository.folder.glob(".dvc/tmp/sweeps/*/"))
    assert repository.processes() == []
    (name,) = repository.experiments()
    assert f"dvc exp apply {name}" in output
    repository.dvc("exp", "apply", name)
    params = YAML(typ="safe", pure=True).load(repository.folder / "params.yaml")
    assert (params["train"]["lr"], params["train"]["epochs"]) == (0.01, 2)
    assert json.loads((repository.folder / "results/metrics/train.json").read_text()) == {"valid_accuracy": 0.75}
    # The sweep of the applied files is the same one.
    assert "resumes after 2 trials" in repository.sweep(*slow)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_killed_resumes_the_same_trial_from_its_checkpoint(sweep_repository, number):
    arguments = ("--trials", "2", "-S", "train.epochs=2", "-S", "train.weight_decay=1")
    kill_in_first_trial(sweep_repository, number, *arguments)
    with sweep_repository.start(*arguments) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "resumes from" in line:
                process.kill()
    assert lines[1].startswith("trial 1 of 2: ")
    assert any("train: resumes from" in line and "epoch 2" in line for line in lines)


@pytest.mark.slow
def test_a_failed_stage_fails_its_trial_and_a_failure_of_dvc_ends_the_sweep(sweep_repository):
    repository = sweep_repository
    repository.replace("sweeps/lr.yaml", "0.0001", "0.000001")
    assert "failed: train: the loss is nan in step 1 of epoch 1; best 0.9375" in repository.sweep("--trials", "2")
    repository.replace("dvc.yaml", "outs: [results/live]", "outs: [results/live, results/live/x]")
    repository.write("pipeline/train/more.py", "")
    repository.git("add", "--all")
    assert "error: The output paths: 'results/live'" in repository.sweep("--trials", "2", code=1)


@pytest.mark.slow
def test_a_second_process_with_the_same_sweep_is_rejected(sweep_repository):
    arguments = ("--trials", "1", "-S", "train.weight_decay=1")
    with sweep_repository.start(*arguments) as process:
        for line in process.stdout:
            if "train: epoch 1" in line:
                break
        assert "another process runs the sweep lr-" in sweep_repository.sweep(*arguments, code=1)
        process.terminate()


@pytest.mark.slow
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
    # A trial ends with evaluate: DVC applies it, and reports the missing outputs of later stages.
    assert "results/model.onnx" in clone.run("dvc", "exp", "apply", best["experiment"], fails=True)
    assert clone.metrics("train")["valid_accuracy"] == best["value"]
    assert f"lr: {best['train.lr']}" in (tmp_path / "params.yaml").read_text()
    ran = stages_run(clone.run("dvc", "repro"))
    assert {"predict", "export"} <= set(ran)
    assert not {"download", "augment", "train", "evaluate"} & set(ran)
    assert stages_run(clone.run("dvc", "repro")) == []
