"""Fixtures that several test modules share."""

import math
import os
import shutil
from pathlib import Path

# Threads of processes that run side by side wait for each other in a busy loop. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from pipeline.machine import VARIABLES
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from tests.support.clones import SMALL, Clone, Workspace, build_once
from tests.support.folders import inside_copy
from tests.support.sections import AUGMENT, DATA, MODEL, TRAIN, write_photos

# Settings of the user that would change what tests find.
for variable in VARIABLES:
    os.environ.pop(variable, None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests with the fixture ``origin`` in the middle, where the second of two workers of pytest-xdist begins:
    at the end, the first one would wait while it is built."""
    shared = [item for item in items if "origin" in getattr(item, "fixturenames", ())]
    others = [item for item in items if item not in set(shared)]
    middle = min(math.ceil(len(items) / 2), len(others))
    items[:] = [*others[:middle], *shared, *others[middle:]]


@pytest.fixture(autouse=True)
def clean_environment():
    """Restore the environment after each test."""
    before = os.environ.copy()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def photographs():
    """Tiles of scikit-learn's two sample photos without plain sky, ``(tiles, 105, 105, 3)``; they do not overlap."""
    from sklearn.datasets import load_sample_images

    side = 105
    tiles = [
        picture[top : top + side, left : left + side]
        for picture in load_sample_images().images
        for top in range(0, 4 * side, side)
        for left in range(0, 6 * side, side)
    ]
    return np.stack([tile for tile in tiles if tile.std() > 30])


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder, the current one while the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data_params():
    """Build a section ``data`` from the values that matter to the test."""

    def build(source, **changes):
        unset = {**DATA, "location": None, "valid_fraction": 0.2, "test_fraction": 0.2}
        return DataParams(**{**unset, "source": source, **changes})

    return build


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A temporary working folder with ``photos/``, one folder per class."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory):
    """A folder with the packed dataset of the photos, to copy."""
    from pipeline.augment.stage import augment
    from pipeline.download.stage import download

    folder = tmp_path_factory.mktemp("dataset")
    write_photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        download(DataParams(**DATA))
        augment(AugmentParams(**AUGMENT), seed=1, on_bad_image="error", on_leak="warn")
    return folder


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory, dataset_folder):
    """A folder with the packed dataset and a network trained on it, to copy."""
    from pipeline.train.stage import train

    with inside_copy(dataset_folder, tmp_path_factory.mktemp("trained")) as folder:
        train(ModelParams(**MODEL), TrainParams(**TRAIN), seed=1)
    return folder


@pytest.fixture
def dataset(photos, dataset_folder):
    """The packed dataset of the photos, in the working folder."""
    shutil.copytree(dataset_folder, photos.parent, dirs_exist_ok=True)


@pytest.fixture
def trained(photos, trained_folder):
    """A network trained on the packed dataset, in the working folder."""
    shutil.copytree(trained_folder, photos.parent, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def chromium():
    """The browser of the system."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory) -> Path:
    """One folder of this session, the same in all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def origin(session_folder) -> Workspace:
    """A clone of the project in which ``dvc repro`` has run once, with small parameters, and its results are committed.

    Do not change it: use ``origin.clone_with_cache(folder)``. The attribute ``output`` is what ``dvc repro`` printed.
    """

    def build(folder: Path) -> str:
        clone = Clone(folder, SMALL)
        output = clone.run("dvc", "repro")
        clone.commit("results")
        return output

    workspace = Workspace(session_folder / "origin")
    workspace.output = build_once(workspace.folder, build)
    return workspace


@pytest.fixture(scope="session")
def experiment(session_folder, origin) -> Workspace:
    """A clone of ``origin`` in which an experiment has run: ``dvc exp run --name lower -S train.lr=3e-4``.

    Do not change it, either.
    """

    def build(folder: Path) -> str:
        clone = origin.clone_with_cache(folder)
        return clone.run("dvc", "exp", "run", "--name", "lower", "-S", "train.lr=3e-4")

    workspace = Workspace(session_folder / "experiment")
    workspace.output = build_once(workspace.folder, build)
    return workspace
