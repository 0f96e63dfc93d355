"""Tests of paths in the repository and in the temporary workspace of an experiment."""

import pwd
from pathlib import Path

import pytest

from pipeline.common.paths import expanded, repository_root, user_path
from pipeline.errors import PipelineError


@pytest.fixture
def temporary_workspace(tmp_path, monkeypatch):
    """A folder in which ``dvc exp run --temp`` and ``--queue`` run a stage."""
    folder = tmp_path / "repository/.dvc/tmp/exps/tmpabc"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_in_the_repository_a_location_is_not_changed(workspace):
    assert repository_root() == workspace
    assert user_path("../photos") == Path("../photos")


def test_in_a_temporary_workspace_a_location_is_relative_to_the_repository(temporary_workspace, tmp_path):
    assert repository_root() == tmp_path / "repository"
    assert user_path("../photos").resolve() == tmp_path / "photos"
    assert user_path("/photos") == Path("/photos")


def test_a_tilde_is_the_home_folder_of_the_user_or_of_another_one(workspace, monkeypatch):
    monkeypatch.setenv("HOME", str(workspace / "home"))
    assert user_path("~/photos") == workspace / "home/photos"
    assert user_path("~") == workspace / "home"
    assert user_path("~root/photos") == Path(pwd.getpwnam("root").pw_dir) / "photos"
    assert user_path("photos~/~x") == Path("photos~/~x")


def test_in_a_temporary_workspace_a_tilde_is_the_home_folder_too(temporary_workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_path("~/photos") == tmp_path / "home/photos"


def test_a_home_folder_that_does_not_exist_is_one_line():
    line = "data.location: got ~nobody-here/photos, but there is no home folder ~nobody-here on this machine; "
    with pytest.raises(PipelineError, match=f"^{line}"):
        user_path("~nobody-here/photos")
    with pytest.raises(PipelineError, match=r"^PIPELINE_CACHE: got ~nobody-here, but "):
        expanded("~nobody-here", "PIPELINE_CACHE")
