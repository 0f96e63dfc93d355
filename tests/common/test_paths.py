"""Paths in a workspace and in an experiment's temporary one."""

from pathlib import Path

import pytest

from pipeline.common.paths import repository_root, user_path


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where ``dvc exp run --temp`` and ``--queue`` run a stage."""
    folder = tmp_path / "repository/.dvc/tmp/exps/tmpabc"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_in_the_repository_a_location_is_left_as_the_user_wrote_it(workspace):
    assert repository_root() == workspace
    assert user_path("../photos") == Path("../photos")


def test_in_a_temporary_workspace_a_relative_location_is_that_of_the_repository_around(temporary, tmp_path):
    assert repository_root() == tmp_path / "repository"
    assert user_path("../photos").resolve() == tmp_path / "photos"
    assert user_path("/photos") == Path("/photos")
