"""Outputs are links into DVC's cache, and nothing ever writes through one."""

import hashlib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import DATASET, MODEL
from tests.support.clones import ROOT, SMALL, Clone

pytestmark = pytest.mark.slow

STAGES = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    settings = {"OMP_NUM_THREADS": "1", "PIPELINE_DEVICE": "cpu"}
    clone = Clone(tmp_path_factory.mktemp("clone"), {**SMALL, "evaluate.bootstrap": 0}, settings)
    clone.run("dvc", "repro")
    clone.commit("results")
    return clone


def damaged(cache: Path) -> list[str]:
    """The files of a cache whose content is not what their name says."""
    found = []
    for path in (cache / "files/md5").rglob("*"):
        name = path.parent.name + path.name.removesuffix(".dir")
        if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() != name:
            found.append(str(path))
    return found


def test_outputs_share_the_cache_s_files_and_cannot_be_written_by_mistake(clone):
    cached = {path.stat().st_ino for path in (clone.folder / ".dvc/cache/files").rglob("*") if path.is_file()}
    for path in (MODEL, DATASET / "train.npy"):
        assert (clone.folder / path).stat().st_ino in cached
        assert not (clone.folder / path).stat().st_mode & 0o222


def test_a_stage_that_is_run_without_dvc_writes_new_files_and_none_of_the_cache(clone):
    # DVC removes a stage's outputs first; this way they are still the links.
    clone.change({"train.lr": 0.004, "augment.resize": "crop", "augment.views": 2, "data.test_fraction": 0.3})
    for stage in STAGES:
        clone.run("python", "-m", "pipeline", stage)
    assert damaged(clone.folder / ".dvc/cache") == []
    clone.run("git", "checkout", "-q", "--", ".")
    clone.run("dvc", "checkout", "--force")
    assert "up to date" in clone.run("dvc", "repro")


def test_experiments_plots_and_apply_leave_the_cache_as_it_was(clone):
    clone.run("dvc", "exp", "run", "--name", "other", "-S", "train.lr=0.003", "train")
    clone.run("dvc", "plots", "diff", "HEAD")
    clone.run("git", "checkout", "-q", "--", ".")
    clone.run("dvc", "checkout", "--force")
    clone.run("dvc", "exp", "apply", "other")
    assert damaged(clone.folder / ".dvc/cache") == []
