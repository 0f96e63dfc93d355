"""Results of the revisions and experiments of a real DVC repository, read and compared."""

import json
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.paths import DETAILS, METRICS
from pipeline.errors import PipelineError
from pipeline.experiments.revisions import compare_revisions, read_predictions, read_text
from tests.support.small_repository import IDENTITY


@pytest.fixture(scope="module")
def repository(stages_origin, tmp_path_factory):
    """Commits before and after the stage ran, and experiments on both: one of them without its files."""
    repository = stages_origin.copy_to(tmp_path_factory.mktemp("revisions") / "repository")
    repository.git("tag", "never-ran")
    repository.write(".gitignore", "results/*\n!results/metrics\n!results/live\n")
    for split, measure in product(("train", "valid"), ("loss", "accuracy")):
        repository.write(f"results/live/plots/metrics/{split}/{measure}.tsv", f"step\t{measure}\n0\t0.5\n")
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.6 ")
    repository.dvc("repro", "-q", "evaluate")
    repository.commit("main")
    repository.dvc("exp", "run", "-q", "--name", "better", "-S", "train.lr=1", "evaluate")
    repository.git("checkout", "-q", ".")
    repository.git("branch", "side/line")
    repository.dvc("exp", "run", "-q", "--name", "lost", "-S", "train.lr=0.9", "evaluate")
    for file in (repository.folder / ".dvc/cache/files/md5").rglob("*"):
        if file.is_file() and file.read_bytes() == predictions_file(repository).read_bytes():
            file.unlink()
    repository.git("checkout", "-q", ".")
    repository.dvc("checkout", "-q", "--force")
    return repository


def predictions_file(repository) -> Path:
    return repository.folder / "results/evaluation/predictions.csv"


@pytest.fixture(autouse=True)
def _inside(repository, monkeypatch):
    monkeypatch.chdir(repository.folder)


@pytest.mark.parametrize("revision", ["HEAD", "main", "side/line", "workspace", ".", "commit"])
def test_every_name_of_a_revision_gives_its_predictions(repository, revision):
    revision = repository.git("rev-parse", "--short", "HEAD").strip() if revision == "commit" else revision
    table = read_predictions(revision)
    expected = pd.read_csv(predictions_file(repository), dtype={"id": str})
    assert list(table["id"]) == list(expected["id"])
    assert (table["predicted_class"] == table["class"]).mean() == expected["correct"].mean()
    assert json.loads(read_text(revision, METRICS / "evaluate.json")) == {"accuracy": expected["correct"].mean()}
    assert json.loads(read_text(revision, DETAILS / "evaluate.json")) == {"split": "auto"}


def test_the_workspace_is_the_file_as_it_is_now(repository):
    path = predictions_file(repository)
    text = path.read_text()
    path.unlink()
    try:
        with pytest.raises(
            PipelineError, match=r"^workspace: results/evaluation/predictions.csv does not exist; run dvc repro"
        ):
            read_predictions("workspace")
        path.write_text(text.replace("0001,", "9999,"))
        assert read_predictions(".")["id"][1] == "9999"
        assert read_predictions("HEAD")["id"][1] == "0001"
    finally:
        path.write_text(text)


@pytest.mark.parametrize("model", [None, "new"])
def test_predictions_of_an_earlier_network_in_the_workspace_are_refused(repository, model):
    """The network has been trained again, or is being trained."""
    lock = repository.folder / "dvc.lock"
    text, path = lock.read_text(), repository.folder / "results/model.safetensors"
    locked = "\n  evaluate:\n    deps: [{path: results/model.safetensors, md5: old}]"
    trained = f"\n  train:\n    outs: [{{path: results/model.safetensors, md5: {model or 'old'}}}]"
    try:
        lock.write_text(f"schema: '2.0'\nstages:{trained}{locked}\n")
        if model:
            path.write_text(model)
        line = "predictions.csv are not those of its results/model" if model else "model.safetensors is missing; run"
        with pytest.raises(PipelineError, match=rf"^workspace: \S+{line}"):
            read_predictions("workspace")
        lock.write_text(lock.read_text().replace("md5: new", "md5: old"))
        path.write_text("old")
        assert len(read_predictions("workspace"))
    finally:
        lock.write_text(text)
        path.unlink(missing_ok=True)


def test_an_experiment_is_compared_by_name(repository):
    comparison, pairs, split = compare_revisions("main", "better")
    assert (comparison.images, split) == (40, "auto")
    assert comparison.accuracy.b == 1.0
    assert comparison.only_b_right == (~pairs["right_a"]).sum() == 40 * (1 - comparison.accuracy.a)
    assert comparison.p_value < 0.05


def test_the_command_prints_a_report_and_writes_the_changed_images_and_the_plots(tmp_path):
    csv, png = tmp_path / "changed.csv", tmp_path / "both.png"
    options = ["--top", "2", "--csv", str(csv), "--plots", str(png)]
    result = CliRunner().invoke(app, ["compare", "main", "better", *options])
    assert result.exit_code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert result.stdout.startswith("A is main, B is better: 40 images of the auto split\n")
    assert "B is better: of the" in result.stdout
    changed = pd.read_csv(csv, dtype={"id": str})
    assert set(changed["change"]) == {"wrong -> right"}
    assert list(changed["predicted_class_b"]) == list(changed["class"])
    figures = json.loads(CliRunner().invoke(app, ["compare", "main", "better", "--json"]).stdout)
    assert figures["only_b_right"] == len(changed)


@pytest.mark.parametrize(
    ("revision", "line"),
    [
        ("", "a revision is empty; allowed are"),
        ("beter", "beter: no commit, branch, tag or experiment has this name; there are better"),
        ("sideline", "sideline: no commit, branch, tag or experiment has this name; there are side/line"),
        ("never-ran", "never-ran: has no results/evaluation/predictions.csv; its stage evaluate never ran, or"),
        (
            "lost",
            "lost: its results/evaluation/predictions.csv is neither in DVC's cache nor in a remote storage; restore",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(revision, line):
    with pytest.raises(PipelineError) as error:
        compare_revisions("main", revision)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_name_of_several_experiments_is_refused(repository):
    repository.git("update-ref", f"refs/exps/{'1' * 2}/{'1' * 38}/twice", "HEAD")
    repository.git("update-ref", f"refs/exps/{'2' * 2}/{'2' * 38}/twice", "HEAD")
    try:
        with pytest.raises(
            PipelineError, match=r"^twice: experiments of several commits have this name; use the commit"
        ):
            read_predictions("twice")
    finally:
        for digit in "12":
            repository.git("update-ref", "-d", f"refs/exps/{digit * 2}/{digit * 38}/twice")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("predicted_class,", "guess,", "is not a table of predictions: "),
        ("test/1.png,", "test/0.png,", "has two rows for the image test/0.png"),
        (",1,1,0,0,1", ",1,,0,0,1", "is not a table of predictions: "),
        (",1,1,0,0,1", ",1,inf,0,0,1", "is not a table of predictions: a confidence or a loss is not finite"),
    ],
)
def test_a_damaged_table_is_refused(repository, old, new, line):
    path = predictions_file(repository)
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(old, new))
    try:
        with pytest.raises(PipelineError, match=f"^workspace: results/evaluation/predictions.csv {line}"):
            read_predictions("workspace")
    finally:
        path.write_text(text)


def test_another_split_is_refused(repository):
    path = repository.folder / DETAILS / "evaluate.json"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("auto", "valid"))
    try:
        with pytest.raises(PipelineError, match=r"^main was evaluated on the auto split and workspace on the valid"):
            compare_revisions("main", "workspace")
    finally:
        path.write_text(text)


def test_a_folder_without_git_is_one_line(workspace):
    with pytest.raises(PipelineError) as error:
        compare_revisions("HEAD", "workspace")
    assert str(error.value).startswith("experiments need a git repository with a commit (git rev-parse: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["clone", "worktree"])
def test_results_that_are_not_in_the_cache_are_one_line(repository, tmp_path, monkeypatch, kind):
    command = ["clone", "-q", "."] if kind == "clone" else ["worktree", "add", "-q", "--detach"]
    repository.git(*command, str(tmp_path / "copy"))
    monkeypatch.chdir(tmp_path / "copy")
    with pytest.raises(PipelineError) as error:
        compare_revisions("HEAD", "workspace")
    line = (
        "HEAD: its results/evaluation/predictions.csv is neither in DVC's cache nor in a remote storage; restore it: "
    )
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_subdirectory_of_a_larger_repository_is_one_line(repository, tmp_path, monkeypatch):
    shutil.copytree(repository.folder, tmp_path / "project", ignore=shutil.ignore_patterns(".git"))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", tmp_path, *IDENTITY, "commit", "-qm", "first", "--allow-empty"], check=True)
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(PipelineError, match=r"^experiments need the root of a git repository with a folder .dvc; "):
        compare_revisions("HEAD", "workspace")


def test_a_repository_of_another_user_is_one_line_with_the_command_that_helps(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests use it
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(PipelineError) as error:
        compare_revisions("main", "better")
    folder = Path.cwd()
    assert (
        f"{folder} belongs to another user, so git does not trust it; if you trust that user: git config --global --add"
        in str(error.value)
    )
    subprocess.run(["git", "config", "--global", "--add", "safe.directory", str(folder)], check=True)
    assert compare_revisions("main", "better")[0].images == 40
