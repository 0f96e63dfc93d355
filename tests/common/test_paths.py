"""Tests of paths in the repository and in the temporary workspace of an experiment."""

from pathlib import Path

import pytest

from pipeline.common.paths import repository_root, user_path


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
