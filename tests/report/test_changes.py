"""Changes since the last commit."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.common.files import write_json
from pipeline.common.paths import LABEL_FILES, METRICS, PARAMS, SOURCE
from pipeline.report.changes import Change, changes_since_head, flattened

OLD_PARAMS = {"seed": 1, "train": {"lr": 0.001, "hflip": 0, "nesterov": True}}
OLD_METRICS = {"evaluate": {"accuracy": 0.5, "top_2_accuracy": 0.75, "ece": 0.1}}


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(workspace):
    """A commit with parameters and metrics; the pipeline is in a subfolder of the repository."""
    (workspace / "below").mkdir()
    git("init", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace / "below")
        PARAMS.write_text("seed: 1\ntrain:\n  lr: 1e-3\n  hflip: 0\n  nesterov: true\n")
        write_json(METRICS / "evaluate.json", OLD_METRICS["evaluate"])
        git("add", ".")
        git("commit", "--quiet", "--message", "A <b>first</b> run", "--date", "2026-01-31T12:00:00")
        yield workspace / "below"


def test_without_changes_there_are_none(repository):
    changes = changes_since_head(OLD_PARAMS, OLD_METRICS)
    assert (changes.params, changes.metrics, changes.unknown, changes.dirty) == ([], [], [], False)
    assert changes.subject == "A <b>first</b> run"
    assert len(changes.commit) == 40


def test_changed_added_and_removed_values_are_listed_with_their_difference(repository):
    params = {"seed": 1, "train": {"lr": 0.003, "hflip": 0.0, "nesterov": 1, "loss": "mse"}}
    metrics = {"evaluate": {"accuracy": 0.75, "top_3_accuracy": 0.9, "ece": 0.1}}
    changes = changes_since_head(params, metrics)
    assert [(change.name, change.old, change.new) for change in changes.params] == [
        ("train.lr", 0.001, 0.003),
        ("train.nesterov", True, 1),
        ("train.loss", None, "mse"),
    ]
    assert [(change.name, change.difference) for change in changes.metrics] == [
        ("evaluate: accuracy", 0.25),
        ("evaluate: top_3_accuracy", None),
        ("evaluate: top_2_accuracy", None),
    ]
    assert changes.params[1].difference is None


def test_a_changed_file_is_reported_unless_it_is_an_output(repository):
    write_json(METRICS / "evaluate.json", {"accuracy": 1.0})
    assert not changes_since_head(OLD_PARAMS, OLD_METRICS).dirty
    PARAMS.write_text("seed: 2\n")
    assert changes_since_head(OLD_PARAMS, OLD_METRICS).dirty


DATA = {"source": "folder", "location": "photos", "split_seed": 0, "labels": None, "on_bad_image": "error"}


@pytest.mark.parametrize(
    ("data", "listing", "same"),
    [
        ({}, {"sha256": "1"}, True),
        ({"location": "../other/photos", "on_bad_image": "skip", "folds": None}, {"sha256": "1"}, True),
        ({}, {"sha256": "2"}, False),
        ({"split_seed": 1}, {"sha256": "1"}, False),
        ({"source": "digits", "location": None}, {}, False),
    ],
)
def test_metrics_are_compared_only_with_those_of_the_same_data(repository, data, listing, same):
    params = {"data": DATA}
    PARAMS.write_text(json.dumps(params))
    write_json(SOURCE, {"source": "folder", "sha256": "1"})
    write_json(LABEL_FILES, {})
    git("add", ".")
    git("commit", "--quiet", "--message", "data")
    write_json(SOURCE, {"source": "folder"} | listing)
    changes = changes_since_head({"data": DATA | data}, {"evaluate": {"accuracy": 0.75}})
    assert changes.same_data == same
    assert bool(changes.metrics) == same
    write_json(LABEL_FILES, {"pseudo_labels": "3"})
    assert not changes_since_head({"data": DATA | data}, {}).same_data


def test_files_that_are_missing_or_invalid_at_head_are_named(repository):
    PARAMS.write_text("seed: [1\n")
    git("commit", "--quiet", "--all", "--message", "broken")
    changes = changes_since_head(OLD_PARAMS, {**OLD_METRICS, "tsne": {"images": 3}})
    assert changes.unknown == ["params.yaml", "results/metrics/tsne.json"]
    assert changes.params == changes.metrics == []


def test_without_a_repository_or_a_commit_the_reason_is_reported(workspace, monkeypatch):
    assert changes_since_head({}, {}).problem == "this folder is not in a git repository"
    git("init", "--quiet")
    assert changes_since_head({}, {}).problem == "the git repository has no commits"
    monkeypatch.setenv("PATH", "")
    assert changes_since_head({}, {}).problem == "git is not installed"


def test_an_unusual_subject_is_one_line_of_printable_text(repository):
    Path("message").write_bytes(b"caf\xe9 \x1b[31m")
    git("commit", "--quiet", "--allow-empty", "--file", "message")
    changes = changes_since_head(OLD_PARAMS, OLD_METRICS)
    assert changes.subject.startswith("caf")
    assert changes.subject.isprintable()
    git("commit", "--quiet", "--allow-empty", "--allow-empty-message", "--message", "")
    assert changes_since_head(OLD_PARAMS, OLD_METRICS).subject == ""


def test_a_repository_of_another_owner_is_reported(repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert changes_since_head({}, {}).problem == "git does not trust the owner of this folder"


def test_nested_mappings_are_flattened():
    content = {"a": {"b": 1, "c": {}}, "list": [{"name": "x"}, 2]}
    assert flattened(content) == {"a.b": 1, "a.c": {}, "list": [{"name": "x"}, 2]}


def test_only_numbers_have_a_difference():
    assert Change("a", 1, 3).difference == 2
    assert Change("a", True, 3).difference is None
    assert Change("a", None, 3).difference is None
