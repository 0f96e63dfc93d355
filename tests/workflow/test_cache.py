"""Outputs are links into DVC's cache, and nothing ever writes through one."""

import hashlib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import DATASET, MODEL
from tests.support.clones import ROOT, stages_run
from tests.support.commands import run_command

STAGES = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


@pytest.fixture
def clone(experiment, tmp_path):
    """A clone of the repository and of its experiment."""
    clone = experiment.clone_with_cache(tmp_path / "clone")
    clone.run("git", "fetch", "-q", "origin", "refs/exps/*:refs/exps/*")
    return clone


def damaged(cache: Path) -> list[str]:
    """The files of a cache that have another hash than their name says."""
    found = []
    for path in (cache / "files/md5").rglob("*"):
        name = path.parent.name + path.name.removesuffix(".dir")
        if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() != name:
            found.append(str(path))
    return found


def test_outputs_share_the_files_of_the_cache_and_cannot_be_written_by_mistake(origin):
    cached = {path.stat().st_ino for path in (origin.folder / ".dvc/cache/files").rglob("*") if path.is_file()}
    for path in (MODEL, DATASET / "train.npy"):
        assert (origin.folder / path).stat().st_ino in cached
        assert not (origin.folder / path).stat().st_mode & 0o222


def test_stages_that_run_without_dvc_write_new_files_and_none_of_the_cache(clone, monkeypatch):
    # DVC removes the outputs of a stage before it runs; without DVC they are still the links.
    clone.change({"train.lr": 0.004, "augment.resize": "crop", "augment.views": 2, "data.test_fraction": 0.3})
    monkeypatch.chdir(clone.folder)
    for name, value in clone.environment.items():
        monkeypatch.setenv(name, value)
    for stage in STAGES:
        assert run_command(stage).code == 0
    assert damaged(clone.folder / ".dvc/cache") == []
    clone.undo_changes()
    assert stages_run(clone.run("dvc", "repro")) == []


def test_plots_and_apply_of_an_experiment_leave_the_cache_as_it_was(clone):
    clone.run("dvc", "exp", "apply", "lower")
    clone.run("dvc", "plots", "diff", "HEAD")
    clone.undo_changes()
    clone.run("dvc", "exp", "apply", "lower")
    assert damaged(clone.folder / ".dvc/cache") == []
