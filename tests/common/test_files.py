"""Tests of atomic writing: a path never contains half a file."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors import SafetensorError

from pipeline.common import files
from pipeline.common.files import clean_up, replacing, restoring, write_json, write_table, write_text
from pipeline.errors import PipelineError, explained

ROOT = Path(__file__).parents[2]


def write_file(path, content):
    path.write_text(content)


def write_folder(path, content):
    path.mkdir()
    (path / "part.npy").write_text(content)


def content(path):
    return (path / "part.npy" if path.is_dir() else path).read_text()


KINDS = pytest.mark.parametrize("write", [write_file, write_folder], ids=["file", "folder"])


@KINDS
def test_what_was_written_replaces_the_path(tmp_path, write):
    path = tmp_path / "data.npy"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            write(temporary, text)
        assert content(path) == text
        assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_file_but_no_file_replaces_a_folder(tmp_path):
    path = tmp_path / "data"
    write_file(path, "old")
    with replacing(path) as temporary:
        write_folder(temporary, "new")
    with pytest.raises(IsADirectoryError) as error:
        write_text(path, "newer")
    assert explained(error.value) == f"{path}: is a folder, which no file replaces; name a file"
    assert content(path) == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_replaces_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PipelineError, match="pipe: is a device or a pipe, allowed is a file; name a file"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "照" * 83 + ".csv"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


def test_an_error_names_the_path_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(FileNotFoundError) as error, replacing(path) as temporary:
        temporary.read_text()
    assert error.value.filename == str(path)


@KINDS
def test_the_old_content_stays_until_the_block_ends(tmp_path, write):
    path = tmp_path / "data"
    write(path, "old")
    with replacing(path) as temporary:
        write(temporary, "new")
        assert content(path) == "old"


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_content_and_no_temporary_path(tmp_path, write, error):
    path = tmp_path / "data.npy"
    write(path, "old")
    with pytest.raises(error), replacing(path) as temporary:
        write(temporary, "half")
        raise error
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_if_there_was_no_old_content(tmp_path, write, error):
    with pytest.raises(error), replacing(tmp_path / "data.npy") as temporary:
        write(temporary, "half")
        raise error
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_the_old_content_stays_if_nothing_was_written(tmp_path, write):
    path = tmp_path / "data"
    write(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert content(path) == "old"


KILLED = """
import os, pathlib, signal, sys
from pipeline.common import files

path, call = pathlib.Path(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "renames":
    files._exchange = lambda one, other: False
renames = 0

def counted(rename):
    def rename_and_die(*arguments):
        global renames
        done = rename(*arguments)
        renames += 1
        if renames == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return rename_and_die

pathlib.Path.rename, files._exchange = counted(pathlib.Path.rename), counted(files._exchange)
with files.replacing(path) as temporary:
    temporary.mkdir()
    (temporary / "part.npy").write_text("new")
"""


@pytest.mark.parametrize(
    ("way", "call", "there", "kept"),
    [
        ("exchange", 1, True, "new"),
        ("renames", 1, True, "old"),
        ("renames", 2, False, "old"),
        ("renames", 3, True, "old"),
        ("renames", 4, True, "new"),
    ],
)
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, way, call, there, kept):
    path = tmp_path / "data"
    write_folder(path, "old")
    command = [sys.executable, "-c", KILLED, str(path), str(call), way]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert path.exists() == there
    assert any(leftover.name.startswith(".") for leftover in tmp_path.iterdir())
    clean_up(tmp_path)
    assert content(path) == kept
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_between_two_renames_restores_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "data"
    write_folder(path, "old")
    rename = Path.rename

    def interrupted(source, target):
        if target == path and ".part" in source.name:
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        write_folder(temporary, "new")
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def leftover(path, pid, start, host=None):
    """A file that this host, or another one, would leave for a path."""
    return path.with_name(f".{path.stem}.{host or files._host()}-{pid}-{start}.part{path.suffix}")


def test_what_running_processes_write_and_files_of_other_names_are_left_alone(tmp_path):
    parent, own = (files._start_time(pid) for pid in (os.getppid(), os.getpid()))
    others = [
        leftover(tmp_path / "data.npy", os.getppid(), parent),
        leftover(tmp_path / "more", os.getpid(), own),
        leftover(tmp_path / "data.npy", 2**22 + 1, 5, host="0123ab"),
        *(tmp_path / name for name in (".data.x.part.npy", ".data.1.part.npy", "data.part.npy", ".part")),
    ]
    for path in others:
        path.touch()
    clean_up(tmp_path)
    assert set(tmp_path.iterdir()) == set(others)


def test_what_a_process_in_another_container_with_the_same_host_name_writes_is_left_alone(tmp_path, monkeypatch):
    path = leftover(tmp_path / "data.npy", 2**22 + 1, 5)
    path.touch()
    monkeypatch.setattr(Path, "readlink", lambda self: Path("pid:[1]"))
    clean_up(tmp_path)
    assert path.exists()
    monkeypatch.undo()
    clean_up(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["data.npy", "other.csv", "folder", "a.b.zip"])
def test_what_ended_processes_left_for_any_path_of_the_folder_is_removed(tmp_path, name):
    path, start = tmp_path / name, files._start_time(os.getppid())
    leftover(path, 2**22 + 1, 5).touch()
    # Another process has the number now.
    write_folder(leftover(path, os.getppid(), int(start) - 1), "half")
    abandoned = leftover(path, 1, 1, host="0123ab")
    write_folder(abandoned, "half")
    for file in (abandoned, abandoned / "part.npy"):
        os.utime(file, (0, 0))
    with replacing(tmp_path / "data.npy") as temporary:
        temporary.touch()
    assert list(tmp_path.iterdir()) == [tmp_path / "data.npy"]


def test_a_process_that_has_ended_but_is_not_yet_waited_for_does_not_run(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    path = leftover(tmp_path / "data.npy", process.pid, files._start_time(process.pid))
    path.touch()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    clean_up(tmp_path)
    assert list(tmp_path.iterdir()) == []
    process.communicate()


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_content_that_a_failed_block_changed_is_restored(tmp_path, write, error):
    path = tmp_path / "curve.tsv"
    write(path, "old")
    with pytest.raises(error), restoring(path):
        files._remove(path)
        write(path, "half")
        raise error
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@KINDS
def test_content_that_a_block_changed_or_created_stays(tmp_path, write):
    path = tmp_path / "curve.tsv"
    for text in ("first", "second"):
        with restoring(path):
            files._remove(path)
            write(path, text)
        assert content(path) == text
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="half"), restoring(tmp_path / "new"):
        write(tmp_path / "new", "new")
        raise ValueError("half")
    assert content(tmp_path / "new") == "new"


@KINDS
def test_content_that_a_killed_block_changed_is_restored_by_the_next_command(tmp_path, write):
    path = tmp_path / "curve.tsv"
    write(path, "old")
    killed = multiprocessing.get_context("fork").Process(target=change_and_die, args=(path,))
    killed.start()
    killed.join()
    assert content(path) == "half"
    clean_up(tmp_path)
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def change_and_die(path: Path) -> None:
    with restoring(path):
        (path / "part.npy" if path.is_dir() else path).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_parent_folders_are_created(tmp_path):
    write_text(tmp_path / "results/metrics/train.txt", "é")
    assert (tmp_path / "results/metrics/train.txt").read_bytes() == "é".encode()


@pytest.mark.parametrize("name", ["curve.png", "train.csv", "train.npy"])
def test_the_temporary_path_has_the_same_suffix_and_folder(tmp_path, name):
    path = tmp_path / name
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)
        temporary.touch()


def test_json_floats_are_rounded_to_six_decimals_at_any_depth(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"accuracy": 2 / 3, "images": 3, "classes": {"crème": [1 / 3, (0.5,), None]}, "auto": True})
    assert json.loads(path.read_text("utf-8")) == {
        "accuracy": 0.666667,
        "images": 3,
        "classes": {"crème": [0.333333, [0.5], None]},
        "auto": True,
    }
    assert "crème" in path.read_text("utf-8")
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_with_a_float_that_is_not_finite_is_rejected_and_the_old_content_stays(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": value})
    assert json.loads(path.read_text()) == {"loss": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_is_written_without_its_index(tmp_path):
    write_table(tmp_path / "table.csv", pd.DataFrame({"x": [1, 2], "y": [1 / 3, 0.5]}), "%.2f")
    assert (tmp_path / "table.csv").read_text() == "x,y\n1,0.33\n2,0.50\n"


def test_a_full_disk_names_the_path_that_was_to_be_written(tmp_path):
    path = tmp_path / "results/table.csv"
    with pytest.raises(OSError, match="No space left on device") as error, replacing(path) as temporary:
        # The device that is always full.
        temporary.symlink_to("/dev/full")
        temporary.write_text("text")
    assert error.value.filename == str(path)
    assert explained(error.value).startswith(f"{path}: No space left on device; the disk at /")


def test_a_library_that_finds_the_disk_full_is_explained_too(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space left on device") as error, replacing(path):
        # As safetensors says it, which maps a file into memory and needs a real disk.
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert error.value.filename == str(path)
