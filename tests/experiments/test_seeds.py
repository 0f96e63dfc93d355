"""Experiments under several seeds, run by real DVC."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.experiments.revisions import read_metrics
from pipeline.experiments.sandbox import Sandbox
from pipeline.experiments.seeds import run_seeds
from tests.support.clones import SMALL, Clone
from tests.support.small_repository import SmallRepository

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path, monkeypatch):
    repository = SmallRepository(tmp_path)
    monkeypatch.chdir(tmp_path)
    return repository


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file, except what git and DVC keep for themselves."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {".git", "tmp", "cache"} & {*path.parts}]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def index(repository: SmallRepository) -> str:
    return repository.git("status", "--porcelain") + repository.git("diff") + repository.git("diff", "--cached")


def test_seeds_of_a_changed_workspace_leave_it_alone(repository, capsys):
    """Changes that are staged, not staged, both or new to git count; the files and the index stay as they are."""
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    repository.git("add", "params.yaml")
    repository.replace("params.yaml", "  lr: 0.5 ", "  lr: 0.8 ")
    repository.write("code/more.py", "")
    repository.git("add", "code/more.py")
    repository.replace("code/stage.py", "import json, random", "import json, random, more")
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
    # The experiments stand beside others, with the parameters that they had.
    table = repository.dvc("exp", "show", "--csv")
    assert all(name in table for name in results["experiment"])
    assert read_metrics(results["experiment"][1], "evaluate")["split"] == "valid"
    assert "lr: 0.8 " in repository.git("show", f"refs/exps/{experiment_path(repository, results['experiment'][1])}")


def experiment_path(repository: SmallRepository, name: str) -> str:
    head = repository.git("rev-parse", "HEAD").strip()
    return f"{head[:2]}/{head[2:]}/{name}:params.yaml"


def test_seeds_that_are_there_are_not_run_again_and_other_settings_have_other_names(repository, capsys, monkeypatch):
    first, _ = run_seeds([2], ["train.lr=0.9"])
    ran = []
    original = Sandbox.run
    monkeypatch.setattr(Sandbox, "run", lambda *arguments: ran.append(arguments[1]) or original(*arguments))
    capsys.readouterr()
    again, failures = run_seeds([2], ["train.lr=0.9"])
    assert again.equals(first)
    assert (ran, failures) == ([], [])
    assert capsys.readouterr().out.count("is there already") == 1
    repository.replace("params.yaml", "  epochs: 15 ", "  epochs: 16 ")
    other, _ = run_seeds([2], ["train.lr=0.9"])
    assert ran == list(other["experiment"])
    assert other["experiment"][2] != first["experiment"][2]
    assert other["accuracy"][2] == first["accuracy"][2]


def test_a_seed_that_fails_is_told_the_others_go_on_and_the_command_ends_with_1(repository):
    command = [sys.executable, "-m", "pipeline", "seeds", "--n", "2", "--first", "2", "-S", "train.lr=3"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "seed 2: failed: params.yaml: what a stage says" in result.stdout
    assert result.stderr == "error: seed 2: params.yaml: what a stage says\n"
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["seed", "experiment", "accuracy", "valid_accuracy"] in rows
    assert ["mean", "1.0000", "1.0000"] in rows


def test_what_dvc_refuses_is_one_line(repository):
    repository.replace("dvc.yaml", "outs: [results/evaluation]", "outs: [results/evaluation, results/evaluation/x]")
    (line,) = run_seeds([1], [])[1]
    assert line.startswith("seed 1: The output paths: 'results/evaluation'")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.lr", "-S: got 'train.lr', allowed is key=value, such as train.lr=3e-4"),
        ("seed=3", "-S: got 'seed=3'; the seeds are those of --first and --n"),
        ("params.yaml:seed=3", "-S: got 'params.yaml:seed=3'; the seeds are"),
    ],
)
def test_a_wrong_override_is_refused_before_any_work(repository, override, line):
    with pytest.raises(PipelineError) as error:
        run_seeds([1], [override])
    assert str(error.value).startswith(line)
    assert repository.experiments() == []


def test_files_that_git_does_not_know_are_named(repository, capsys):
    repository.write("pipeline/new.py", "")
    run_seeds([1], [])
    assert "git does not know pipeline/new.py: the experiments run without" in capsys.readouterr().out


def test_a_shallow_clone_without_identity_of_a_user_will_do(repository, tmp_path, monkeypatch):
    shallow = tmp_path / "shallow"
    repository.git("clone", "-q", "--depth", "1", f"file://{tmp_path}", str(shallow))
    params = shallow / "params.yaml"
    params.write_text(params.read_text().replace("  lr: 0.001 ", "  lr: 0.7 "))
    monkeypatch.chdir(shallow)
    monkeypatch.setenv("HOME", str(tmp_path))
    results, failures = run_seeds([1], [])
    assert not failures
    assert results["accuracy"][1] > 0.4


@pytest.mark.parametrize("prepare", ["nothing", "git init", "inside"])
def test_experiments_need_a_repository_with_a_commit(prepare, workspace, monkeypatch):
    if prepare != "nothing":
        subprocess.run(["git", "init", "-q"], check=True)
    if prepare == "inside":
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x", "--allow-empty"])
        Path("folder").mkdir()
        monkeypatch.chdir("folder")
    with pytest.raises(PipelineError, match=r"^experiments need "):
        run_seeds([1], [])


def test_ctrl_c_stops_a_training_which_goes_on_in_the_next_call(tmp_path):
    """The real pipeline in a clone of this repository; then the two networks are compared."""
    clone = Clone(tmp_path, {**SMALL, "augment.views": 0, "train.epochs": 2, "evaluate.bootstrap": 0})
    command = [sys.executable, "-m", "pipeline", "seeds", "--n", "2", "--first", "3"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    before = clone.run("git", "status", "--porcelain", "-uall")
    # Its own group of processes, which Ctrl-C in a terminal reaches as a whole.
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
