"""Settings that come from the environment."""

import os
from pathlib import Path

import pytest

from pipeline.download.cache import cache_folder
from pipeline.errors import PipelineError
from pipeline.machine import checkpoint_folder, checkpoint_minutes, process_count, tensorboard_folder, worker_count

FUNCTIONS = {
    "PIPELINE_WORKERS": worker_count,
    "PIPELINE_PROCESSES": process_count,
    "PIPELINE_CHECKPOINT_MINUTES": checkpoint_minutes,
}


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in FUNCTIONS:
        monkeypatch.delenv(name, raising=False)


def test_without_variables_all_allowed_cores_one_process_and_ten_minutes():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert (worker_count(), process_count(), checkpoint_minutes()) == (cores, 1, 10)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to a core")
def test_workers_are_no_more_than_the_cores_that_the_process_may_use():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert worker_count() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PIPELINE_WORKERS", "3", 3),
        ("PIPELINE_PROCESSES", "12", 12),
        ("PIPELINE_CHECKPOINT_MINUTES", "0", 0),
        ("PIPELINE_CHECKPOINT_MINUTES", "0.5", 0.5),
    ],
)
def test_a_variable_overrides_the_default(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert FUNCTIONS[name]() == expected


WHOLE = ["0", "-1", "1.5", "", "two", "²", "nan"]
MINUTES = ["-1", "nan", "", "ten", "-inf"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("PIPELINE_WORKERS", "PIPELINE_PROCESSES") for value in WHOLE],
        *[("PIPELINE_CHECKPOINT_MINUTES", value) for value in MINUTES],
    ],
)
def test_any_other_value_is_one_line_that_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError) as error:
        FUNCTIONS[name]()
    assert str(error.value).startswith(f"{name}: got {value!r}, allowed is a ")
    assert "; unset it for " in str(error.value)
    assert "\n" not in str(error.value)


FOLDERS = {
    "PIPELINE_CACHE": cache_folder,
    "PIPELINE_CHECKPOINTS": lambda: checkpoint_folder(Path()),
    "PIPELINE_TENSORBOARD": lambda: tensorboard_folder("run").parent,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_may_be_in_a_home_folder_and_one_that_does_not_exist_is_one_line(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "~/folder")
    assert FOLDERS[name]() == tmp_path / "folder"
    monkeypatch.setenv(name, "~nobody-here/folder")
    with pytest.raises(
        PipelineError, match=f"^{name}: got ~nobody-here/folder, but there is no home folder ~nobody-here"
    ):
        FOLDERS[name]()


def test_a_user_without_a_home_folder_has_to_name_that_of_downloads(monkeypatch):
    monkeypatch.delenv("PIPELINE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # of no user, as in many containers
    with pytest.raises(PipelineError, match=r"^PIPELINE_CACHE: not set, and there is no home folder; set it to a fold"):
        cache_folder()
