"""What ``model.pretrained`` names, as the stage ``source`` notes it."""

import hashlib
from pathlib import Path

import pytest

from pipeline.common.files import write_json
from pipeline.common.paths import PRETRAINED_SOURCE
from pipeline.errors import PipelineError
from pipeline.git import git
from pipeline.source.weights import weights_identity

LOCK = "stages: {train: {cmd: python, outs: [{path: results/model.safetensors, md5: %s}]}}"


@pytest.fixture
def repository(workspace):
    """A repository with one commit and one experiment, whose models have the hashes 1 and 2."""
    git("init", "-q", "-b", "main")
    for number in (1, 2):
        Path("dvc.lock").write_text(LOCK % number)
        git("add", "dvc.lock")
        git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "run")
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/brisk-bike", head)
    git("reset", "-q", "--hard", "HEAD~1")


def test_a_file_is_noted_by_its_content(workspace):
    Path("a.pth").write_bytes(b"weights")
    assert weights_identity("a.pth") == {"weights": "a.pth", "sha256": hashlib.sha256(b"weights").hexdigest()}


def test_the_default_weights_and_none_are_noted():
    assert (weights_identity(True), weights_identity(False)) == ({"weights": "library"}, {})


def test_a_run_is_noted_by_the_hash_of_its_model(repository):
    assert weights_identity("run:brisk-bike") == {"weights": "run:brisk-bike", "md5": "2"}
    assert weights_identity("run:main") == {"weights": "run:main", "md5": "1"}


@pytest.mark.parametrize("name", ["a.pth", "run:brisk-byke"])
def test_weights_that_are_not_here_keep_what_was_noted_and_are_refused_if_nothing_was(repository, name, capsys):
    with pytest.raises(
        PipelineError, match=r"params.yaml: model.pretrained: (the file .* is not here|.*there are brisk-bike)"
    ):
        weights_identity(name)
    noted = {"weights": name, "sha256": "0"}
    write_json(PRETRAINED_SOURCE, noted)
    assert weights_identity(name) == noted
    assert f"{PRETRAINED_SOURCE} stays as it is" in capsys.readouterr().out


def test_a_run_without_a_model_is_one_line(repository):
    Path("dvc.lock").write_text("stages: {}")
    git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-a", "-m", "empty")
    with pytest.raises(PipelineError, match=r"run:main has no results/model.safetensors \(dvc.lock of commit"):
        weights_identity("run:main")
