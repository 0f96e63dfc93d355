"""A small real repository that has run once, to copy and break."""

import shutil
from copy import copy
from pathlib import Path

import pytest

from tests.support.small_repository import SmallRepository

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    repository = SmallRepository(tmp_path_factory.mktemp("doctor"))
    for name in ("pyproject.toml", "constraints.txt"):
        repository.write(name, (ROOT / name).read_text("utf-8"))
    repository.dvc("config", "cache.type", "hardlink,symlink,copy")
    repository.dvc("repro", "-q")
    repository.git("config", "user.name", "Ann")
    repository.git("config", "user.email", "ann@localhost")
    repository.commit("results")
    return repository


@pytest.fixture
def repository(template, tmp_path, monkeypatch):
    """A copy of the repository, the current folder, with no other settings of git than its own."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    repository = copy(template)
    repository.folder = tmp_path / "project"
    shutil.copytree(template.folder, repository.folder, symlinks=True)
    monkeypatch.chdir(repository.folder)
    return repository


@pytest.fixture
def project(workspace):
    """The files that checks of the environment and the parameters read, without git and DVC."""
    for name in ("pyproject.toml", "constraints.txt", "params.yaml"):
        shutil.copy(ROOT / name, name)
    return workspace
