"""What several test modules share."""

import pytest

from pipeline.params.data import DataParams


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
