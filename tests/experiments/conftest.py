"""A repository for each test, copied from one that is made once; and experiments without DVC."""

import pytest

from pipeline.experiments import series, sweep
from tests.support.fake_sandbox import FakeDvc
from tests.support.small_repository import StagesRepository
from tests.support.sweep_repository import SweepRepository


@pytest.fixture(scope="session")
def stages_origin(tmp_path_factory):
    return StagesRepository(tmp_path_factory.mktemp("origin") / "stages")


@pytest.fixture
def repository(stages_origin, tmp_path, monkeypatch):
    """A small repository, the current folder while the test runs."""
    copy = stages_origin.copy_to(tmp_path / "repository")
    monkeypatch.chdir(copy.folder)
    return copy


@pytest.fixture(scope="session")
def sweep_origin(tmp_path_factory):
    return SweepRepository(tmp_path_factory.mktemp("origin") / "sweep")


@pytest.fixture
def sweep_repository(sweep_origin, tmp_path):
    return sweep_origin.copy_to(tmp_path / "repository")


@pytest.fixture
def fake_dvc(repository, monkeypatch):
    """Seeds, folds and sweeps in the small repository run without DVC."""
    fake = FakeDvc()
    for module in (series, sweep):
        monkeypatch.setattr(module, "open_sandbox", fake.open_sandbox)
    return fake
