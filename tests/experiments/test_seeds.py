"""Several seeds: their experiments, and what their spread says about differences."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind_from_stats

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.experiments.revisions import read_text
from pipeline.experiments.seeds import least_between_means, run_seeds, seed_lines
from pipeline.experiments.series import statistics as series_statistics
from tests.support.clones import SMALL, Clone
from tests.support.small_repository import SmallRepository


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file, except what git and DVC keep for themselves."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {".git", "tmp", "cache"} & {*path.parts}]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def index(repository: SmallRepository) -> str:
    return repository.git("status", "--porcelain") + repository.git("diff") + repository.git("diff", "--cached")


def test_seeds_of_a_changed_workspace_leave_it_alone(repository, capsys):
    """With real DVC. Changes that are staged, not staged, both or new to git count; the workspace and the index do not
    change."""
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    repository.git("add", "params.yaml")
    repository.replace("params.yaml", "  lr: 0.5 ", "  lr: 0.8 ")
    repository.write("pipeline/evaluate/more.py", "")
    repository.git("add", "pipeline/evaluate/more.py")
    repository.replace("pipeline/evaluate/stage.py", "import json, random", "import json, random, more")
    repository.write("notes.txt", "of the user")
    before = state(repository.folder), index(repository)
    results, failures = run_seeds([1, 2], ["evaluate.split=valid"])
    assert (state(repository.folder), index(repository)) == before
    assert repository.git("stash", "list") == ""
    assert not failures
    assert list(results.index) == [1, 2]
    assert repository.experiments() == list(results["experiment"])
    assert results["accuracy"].between(0.5, 1).all()
    assert results["accuracy"].nunique() > 1
    assert list(results["valid_accuracy"]) == [1, 1]
    assert "  evaluate: seed 2" in capsys.readouterr().out
    assert not list(repository.folder.glob(".dvc/tmp/seeds/*/"))
    # DVC lists the experiments, with the parameters that they had.
    table = repository.dvc("exp", "show", "--csv")
    assert all(name in table for name in results["experiment"])
    name, head = results["experiment"][2], repository.git("rev-parse", "HEAD").strip()
    assert json.loads(read_text(name, Path("results/details/evaluate.json")))["split"] == "valid"
    assert "lr: 0.8 " in repository.git("show", f"refs/exps/{head[:2]}/{head[2:]}/{name}:params.yaml")


def test_seeds_that_exist_are_not_run_again(fake_dvc, repository, capsys):
    first, _ = run_seeds([2, 3], ["train.lr=0.02"])
    assert fake_dvc.ran == list(first["experiment"])
    # Of these none decides a result.
    repository.write("README.md", "new")
    repository.write("pipeline/report/stage.py", "# new")
    repository.commit("second")
    repository.replace("params.yaml", "\nseed: 6666 ", "\nseed: 7 ")
    capsys.readouterr()
    again, failures = run_seeds([2, 3], ["train.lr=0.02"])
    assert again.equals(first)
    assert not failures
    assert len(fake_dvc.ran) == 2
    assert capsys.readouterr().out.count("exists already") == 2


@pytest.mark.parametrize("change", ["code", "parameter", "override", "images", "source"])
def test_other_settings_are_other_experiments(fake_dvc, repository, change):
    repository.write("photos/cat/1.png", "one")
    # The archive counts only where nothing else says which images a source has.
    source, location = ("modelscope", "owner/name") if change == "images" else ("folder", "photos")
    repository.replace("params.yaml", "  source: digits ", f"  source: {source} ")
    repository.replace("params.yaml", "  location: null ", f"  location: {location} ")
    first, _ = run_seeds([2], ["train.lr=0.02"])
    if change == "code":
        repository.write("pipeline/train/stage.py", "# new")
    elif change == "parameter":
        repository.replace("params.yaml", "  epochs: 15 ", "  epochs: 16 ")
    elif change == "images":
        repository.write("dvc.lock", "stages: {download: {outs: [{path: data/raw.zip, md5: 12}]}}")
    elif change == "source":
        repository.write("photos/cat/1.png", "two")
    other, _ = run_seeds([2], ["train.lr=0.03" if change == "override" else "train.lr=0.02"])
    assert fake_dvc.ran == [first["experiment"][2], other["experiment"][2]]
    assert len(set(fake_dvc.ran)) == 2


def test_a_seed_that_fails_is_reported_and_the_others_run(fake_dvc, monkeypatch, capsys):
    fake_dvc.failing_seed = 2
    monkeypatch.setattr(sys, "argv", ["pipeline", "seeds", "--n", "2", "--first", "2", "-S", "train.lr=0.01"])
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    output, error = capsys.readouterr()
    assert "seed 2: failed: params.yaml: a message of the stage" in output
    assert error == "error: seed 2: params.yaml: a message of the stage\n"
    rows = [line.split() for line in output.splitlines()]
    assert ["seed", "experiment", "accuracy", "log_loss", "valid_accuracy"] in rows
    assert ["mean", "1.0000", "0.6439", "1.0000"] in rows


@pytest.mark.slow
def test_the_command_reports_what_a_stage_says_and_ends_with_1(repository):
    command = [sys.executable, "-m", "pipeline", "seeds", "--n", "2", "--first", "2", "-S", "train.lr=3"]
    result = subprocess.run(command, env=repository.environment(), capture_output=True, text=True)
    assert result.returncode == 1
    assert "seed 2: failed: params.yaml: a message of the stage" in result.stdout
    assert result.stderr == "error: seed 2: params.yaml: a message of the stage\n"
    assert ["mean", "1.0000", "1.0000"] in [line.split() for line in result.stdout.splitlines()]


def test_seeds_in_a_folder_with_letters_that_are_not_ascii(stages_origin, tmp_path, monkeypatch):
    """DVC alone writes the path of its cache in ASCII."""
    copy = stages_origin.copy_to(tmp_path / "projét 中")
    monkeypatch.chdir(copy.folder)
    results, failures = run_seeds([1], ["train.lr=1"])
    assert not failures
    assert list(results["accuracy"]) == [1]
    assert read_text(results["experiment"][1], Path("results/evaluation/predictions.csv")).startswith("id,")


@pytest.mark.slow
def test_what_dvc_rejects_is_one_line(repository):
    repository.replace("dvc.yaml", "outs: [results/evaluation,", "outs: [results/evaluation, results/evaluation/x,")
    (line,) = run_seeds([1], [])[1]
    assert line.startswith("seed 1: The output paths: 'results/evaluation'")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.lr", "-S: got 'train.lr', allowed is key=value, such as train.lr=3e-4"),
        ("seed=3", "-S: got 'seed=3'; --first and --n set the seeds"),
        ("params.yaml:seed=3", "-S: got 'params.yaml:seed=3'; --first and --n"),
        ("train.lr=0", "-S: train.lr: got 0, allowed is a number"),
    ],
)
def test_a_wrong_override_is_rejected_before_any_work(fake_dvc, override, line):
    with pytest.raises(PipelineError) as error:
        run_seeds([1], [override])
    assert str(error.value).startswith(line)
    assert fake_dvc.ran == []


@pytest.mark.slow
def test_a_shallow_clone_without_an_identity_of_the_user_works(repository, tmp_path, monkeypatch):
    shallow = tmp_path / "shallow"
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(shallow))
    params = shallow / "params.yaml"
    params.write_text(params.read_text().replace("  lr: 0.001 ", "  lr: 0.7 "))
    monkeypatch.chdir(shallow)
    monkeypatch.setenv("HOME", str(tmp_path))
    results, failures = run_seeds([1], [])
    assert not failures
    assert results["accuracy"][1] > 0.4


@pytest.mark.slow
def test_ctrl_c_stops_a_training_which_resumes_in_the_next_call(tmp_path):
    """The real pipeline in a clone of this repository; then the two networks are compared."""
    clone = Clone(tmp_path, {**SMALL, "augment.views": 0, "train.epochs": 2, "evaluate.bootstrap": 0})
    command = [sys.executable, "-m", "pipeline", "seeds", "--n", "2", "--first", "3"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    before = clone.run("git", "status", "--porcelain", "-uall")
    # Its own process group, which Ctrl-C in a terminal reaches as a whole.
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stdout:
            if "epoch 1 of 2" in line:
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130
    assert not list(tmp_path.glob(".dvc/tmp/seeds/*/"))
    output = clone.run(*command)
    assert output.count("resumes from") == 1
    assert "(mean and standard deviation of 2 seeds)" in " ".join(output.split())
    assert clone.run("git", "status", "--porcelain", "-uall") == before
    names = clone.run("git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    report = clone.run(sys.executable, "-m", "pipeline", "compare", *names)
    assert report.startswith(f"A is {names[0]}, B is {names[1]}: 359 images of the test split\n")


# The statistics.


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_seeds_have_the_sample_standard_deviation(values):
    table = series_statistics(pd.DataFrame({"accuracy": values}))["accuracy"]
    expected = (statistics.mean(values), statistics.stdev(values), min(values), max(values))
    assert tuple(table) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0.001, 0.1), st.integers(2, 50))
def test_the_least_difference_of_two_means_has_the_p_value_0_05(deviation, seeds):
    difference = least_between_means(deviation, seeds)
    assert ttest_ind_from_stats(0.5, deviation, seeds, 0.5 + difference, deviation, seeds).pvalue == pytest.approx(0.05)


def test_the_table_of_seeds_has_one_row_per_seed_and_their_mean():
    results = pd.DataFrame(
        {"experiment": ["seed-1-x", "seed-2-x"], "accuracy": [0.9, 0.92], "log_loss": [0.3, None]}, index=[1, 2]
    )
    lines = seed_lines(results)
    assert lines[0].split() == ["seed", "experiment", "accuracy", "log_loss"]
    assert lines[1].split() == ["1", "seed-1-x", "0.9000", "0.3000"]
    assert lines[3].split()[:2] == ["mean", "0.9100"]
    assert " ".join(lines).count("91.00% ± 1.41 points") == 1
    assert max(map(len, lines)) <= 80
    same = seed_lines(results.assign(accuracy=0.9))
    assert same[-1] == "All 2 seeds have the accuracy 90.00%: more seeds may show how much it varies."
    # One seed has no deviation.
    assert seed_lines(results[:1])[-1].split() == ["max", "0.9000", "0.3000"]
