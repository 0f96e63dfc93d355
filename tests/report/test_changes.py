"""What changed since the last commit."""

import subprocess

import pytest

from pipeline.common.files import write_json
from pipeline.common.paths import METRICS, PARAMS
from pipeline.report.changes import Change, changes_since_head, flattened

OLD_PARAMS = {"seed": 1, "train": {"lr": 0.001, "hflip": 0, "nesterov": True}}
OLD_METRICS = {"evaluate": {"accuracy": 0.5, "interval": {"accuracy": {"low": 0.4}}, "split": "test"}}


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(workspace):
    """A commit with parameters and metrics; the pipeline lies in a folder below the root."""
    (workspace / "below").mkdir()
    git("init", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace / "below")
        PARAMS.write_text("seed: 1\ntrain:\n  lr: 1e-3\n  hflip: 0\n  nesterov: true\n")
        write_json(METRICS / "evaluate.json", OLD_METRICS["evaluate"])
        git("add", ".")
        git("commit", "--quiet", "--message", "A <b>first</b> run", "--date", "2026-01-31T12:00:00")
        yield workspace / "below"


def test_nothing_changed(repository):
    changes = changes_since_head(OLD_PARAMS, OLD_METRICS)
    assert (changes.params, changes.metrics, changes.unknown, changes.dirty) == ([], [], [], False)
    assert changes.subject == "A <b>first</b> run"
    assert len(changes.commit) == 40


def test_changed_added_and_removed_values_are_told_with_their_difference(repository):
    params = {"seed": 1, "train": {"lr": 0.003, "hflip": 0.0, "nesterov": 1, "loss": "mse"}}
    metrics = {"evaluate": {"accuracy": 0.75, "interval": {}, "split": "test"}}
    changes = changes_since_head(params, metrics)
    assert [(change.name, change.old, change.new) for change in changes.params] == [
        ("train.lr", 0.001, 0.003),
        ("train.nesterov", True, 1),
        ("train.loss", None, "mse"),
    ]
    assert [(change.name, change.difference) for change in changes.metrics] == [
        ("evaluate: accuracy", 0.25),
        ("evaluate: interval", None),
        ("evaluate: interval.accuracy.low", None),
    ]
    assert changes.params[1].difference is None


def test_a_changed_file_makes_the_run_one_with_changes_unless_the_pipeline_wrote_it(repository):
    write_json(METRICS / "evaluate.json", {"accuracy": 1.0})
    assert not changes_since_head(OLD_PARAMS, OLD_METRICS).dirty
    PARAMS.write_text("seed: 2\n")
    assert changes_since_head(OLD_PARAMS, OLD_METRICS).dirty


def test_files_that_head_lacks_or_nobody_can_read_are_named(repository):
    PARAMS.write_text("seed: [1\n")
    git("commit", "--quiet", "--all", "--message", "broken")
    changes = changes_since_head(OLD_PARAMS, {**OLD_METRICS, "tsne": {"images": 3}})
    assert changes.unknown == ["params.yaml", "results/metrics/tsne.json"]
    assert changes.params == changes.metrics == []


def test_without_a_repository_or_a_commit_the_reason_is_told(workspace, monkeypatch):
    assert changes_since_head({}, {}).problem == "this folder is in no git repository"
    git("init", "--quiet")
    assert changes_since_head({}, {}).problem == "the git repository has no commit yet"
    monkeypatch.setenv("PATH", "")
    assert changes_since_head({}, {}).problem == "git is not installed"


def test_tables_are_flattened_by_class():
    content = {"a": {"b": 1, "c": {}}, "classes": [{"class": "x", "train": 2}], "list": [1, 2]}
    assert flattened(content) == {"a.b": 1, "a.c": {}, "classes.x.train": 2, "list": [1, 2]}


def test_only_numbers_have_a_difference():
    assert Change("a", 1, 3).difference == 2
    assert Change("a", True, 3).difference is None
    assert Change("a", None, 3).difference is None
