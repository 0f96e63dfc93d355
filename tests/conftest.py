"""What several test modules share."""

import pytest

from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from tests.support.sections import AUGMENT, DATA, MODEL, TRAIN, write_photos


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder, and the current one while the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data_params():
    """Build a section ``data`` from what matters to the test."""

    def build(source, **changes):
        unset = {
            "location": None,
            "mirrors": (),
            "revision": None,
            "sha256": None,
            "classes": None,
            "valid_fraction": 0.2,
            "test_fraction": 0.2,
            "split_seed": 0,
            "on_bad_image": "error",
            "on_leak": "warn",
        }
        return DataParams(source=source, **{**unset, **changes})

    return build


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A temporary working folder with ``photos/``, a folder a class."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def dataset(photos):
    """The packed dataset of the photos, in the working folder."""
    from pipeline.augment.stage import augment
    from pipeline.download.stage import download

    download(DataParams(**DATA))
    augment(AugmentParams(**AUGMENT), seed=1, on_bad_image="error", on_leak="warn")


@pytest.fixture
def trained(dataset):
    """A network trained on the packed dataset, in the working folder."""
    from pipeline.train.stage import train

    train(ModelParams(**MODEL), TrainParams(**TRAIN), seed=1)
