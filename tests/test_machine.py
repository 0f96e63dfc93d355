"""Settings that come from the environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.download.cache import cache_folder
from pipeline.errors import PipelineError
from pipeline.machine import (
    check_variables,
    checkpoint_folder,
    checkpoint_minutes,
    crowded,
    process_count,
    ray_address,
    tensorboard_folder,
    worker_count,
    world_size,
)
from tests.support.small_disks import ROOT, small_disk

FUNCTIONS = {
    "PIPELINE_WORKERS": worker_count,
    "PIPELINE_PROCESSES": process_count,
    "PIPELINE_CHECKPOINT_MINUTES": checkpoint_minutes,
    "PIPELINE_RAY": ray_address,
}


@pytest.fixture(autouse=True)
def _no_container(monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.machine.CONTROL_GROUPS", tmp_path / "no groups")


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
    ("files", "workers"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_workers_are_no_more_than_the_cores_that_a_container_may_use(monkeypatch, tmp_path, files, workers):
    monkeypatch.setattr("pipeline.machine.CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr("pipeline.machine._usable_cores", lambda: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert worker_count() == workers


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PIPELINE_WORKERS", "3", 3),
        ("PIPELINE_PROCESSES", "12", 12),
        ("PIPELINE_CHECKPOINT_MINUTES", "0", 0),
        ("PIPELINE_RAY", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("PIPELINE_CHECKPOINT_MINUTES", "0.5", 0.5),
    ],
)
def test_a_variable_overrides_the_default(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert FUNCTIONS[name]() == expected


WHOLE = ["0", "-1", "1.5", "", "two", "²", "nan", "٣", "1e30", "1" * 30, "9" * 5000, "1_0", " 1", "1\n", "1025"]
MINUTES = ["-1", "nan", "", "ten", "-inf", "inf", "1e30", "٣", "1_0", "9" * 5000, "1000001", "0x1", "1\x1b[31m"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("PIPELINE_WORKERS", "PIPELINE_PROCESSES") for value in WHOLE],
        *[("PIPELINE_CHECKPOINT_MINUTES", value) for value in MINUTES],
        *[("PIPELINE_RAY", value) for value in ("", "a b", "local\n", "\x1b[31m")],
    ],
)
def test_any_other_value_is_one_line_that_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError) as error:
        FUNCTIONS[name]()
    assert str(error.value).startswith(f"{name}: got {value!r}"[:80])
    assert re.search(r", allowed is a .*; unset it for ", str(error.value))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


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


@pytest.mark.parametrize("name", FOLDERS)
def test_a_relative_folder_is_in_the_repository_of_the_user_also_in_a_temporary_workspace(monkeypatch, tmp_path, name):
    workspace = tmp_path / ".dvc/tmp/seeds/name"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    monkeypatch.setenv(name, "folder")
    assert FOLDERS[name]() == tmp_path / "folder"


def test_a_user_without_a_home_folder_has_to_name_that_of_downloads(monkeypatch):
    monkeypatch.delenv("PIPELINE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # of no user, as in many containers
    with pytest.raises(PipelineError, match=r"^PIPELINE_CACHE: not set, and there is no home folder; set it to a fold"):
        cache_folder()


UNWRITABLE = {
    "empty": ("", "allowed is a folder"),
    "file": ("file", "Not a directory"),
    "below a file": ("file/inside", "Not a directory"),
    "proc": ("/proc", "No such file or directory"),
    "below proc": ("/proc/pipeline/inside", "No such file or directory"),
    "pipe": ("pipe", "Not a directory"),
    "broken link": ("link", "No such file or directory"),
    "link to itself": ("loop", "Too many levels of symbolic links"),
    "long name": ("x" * 256, "File name too long"),
    "long path": ("x/" * 2500, "File name too long"),
    "escape": ("/proc/\x1b[31m", "No such file or directory"),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("value", "reason"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_folder_that_cannot_be_written_to_is_one_line_before_any_work(workspace, monkeypatch, name, value, reason):
    Path("file").touch()
    os.mkfifo("pipe")
    Path("link").symlink_to("nothing")
    Path("loop").symlink_to("loop")
    monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match=f"^{name}: got .*{reason}.*; .*unset it for the default$") as error:
        check_variables()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(("name", "allowed"), [("PIPELINE_CACHE", True), ("PIPELINE_CHECKPOINTS", False)])
def test_a_cache_that_others_filled_may_be_read_only(workspace, name, allowed):
    Path("shared").mkdir()
    code = "from pipeline.machine import check_variables; check_variables()"
    command = [*small_disk("shared", "1M,ro"), sys.executable, "-c", code]
    environment = {**os.environ, name: "shared", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode == 0) == allowed, result.stderr
    assert allowed or "shared', where nothing can be written (Read-only file system); set it" in result.stderr


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("value", ["here", "new/folders", "~", "größe ☃"])
def test_a_folder_that_can_be_written_to_is_not_changed_by_the_check(workspace, monkeypatch, tmp_path, name, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("here").mkdir()
    monkeypatch.setenv(name, value)
    before = sorted(Path().rglob("*"))
    check_variables()
    assert sorted(Path().rglob("*")) == before


def test_each_variable_that_is_wrong_has_a_line(workspace, monkeypatch):
    wrong = {"PIPELINE_WORKERS": "0", "PIPELINE_DEVICE": "cuda: 1", "PIPELINE_CACHE": "/proc", "WORLD_SIZE": "²"}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError) as error:
        check_variables()
    assert {line.partition(":")[0] for line in str(error.value).splitlines()} == set(wrong)


@pytest.mark.parametrize("rank", [None, "", "-1", "one"])
def test_several_processes_without_a_rank_are_refused(monkeypatch, rank):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "::1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(PipelineError, match=r"^(WORLD_SIZE: got 2, but LOCAL_RANK is|LOCAL_RANK: got '.*', allowed)"):
        world_size()


@pytest.mark.parametrize(("load", "threads", "reported"), [(100.0, 4, True), (100.0, 1, False), (0.0, 1, False)])
def test_threads_that_other_processes_leave_no_cores_for_are_reported_with_the_variable(
    monkeypatch, load, threads, reported
):
    monkeypatch.setattr("psutil.cpu_percent", lambda interval, percpu: [load] * os.cpu_count())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    line = f"other processes use {cores:.1f} of {cores} cores, and torch 4 threads: with OMP_NUM_THREADS=1 "
    assert crowded(threads).startswith(line) if reported else crowded(threads) == ""
