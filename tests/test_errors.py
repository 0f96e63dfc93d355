"""Text in messages: lists stay short, text from outside cannot disturb the terminal or show a password; and errors of
the machine in one line."""

import errno
import os
import re
import signal
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.common.text import listed, one_line, printable, shown_name
from pipeline.errors import explained


@pytest.mark.parametrize(
    ("items", "limit", "text"),
    [
        ([], 5, ""),
        (["a"], 5, "a"),
        (["a", 2, None], 3, "a, 2, None"),
        ("abcdef", 5, "a, b, c, d, e and 1 more"),
        (range(1234), 2, "0, 1 and 1,232 more"),
        ({"train": 1, "test": 2}, 5, "train, test"),
    ],
)
def test_listed_joins_the_first_items_and_counts_the_others(items, limit, text):
    assert listed(items, limit) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [("a  b", "a b"), (" two\r\nlines\t", "two lines"), ("\x1b[1mbold\u2028größe 图", "[1mbold größe 图"), ("\n", "")],
)
def test_one_line_replaces_what_is_not_printable(text, line):
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:80/a?b=c", "https://host:80/a?b=c"),
        ("https://me:sec@ret@host/a", "https://host/a"),
        ("https://me:sec/ret@host/a", "https://host/a"),
        ("https://me:1ecret/x@host/a", "https://host/a"),
        ("https://secret@host/a", "https://host/a"),
        ("https://host/@scope/a@1.zip", "https://host/@scope/a@1.zip"),
        ("https://host:8080/@scope/a.zip", "https://host:8080/@scope/a.zip"),
        ("https://[::1]:8080/@scope/a.zip", "https://[::1]:8080/@scope/a.zip"),
        ("Invalid URL 'http://me:secret@': No host", "Invalid URL 'http://': No host"),
        ("two\nlines\x1b[1m\u2028and more", "two lines [1m and more"),
    ],
)
def test_printable_shows_a_url_in_one_line_without_a_password(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [("größe 图.png", "größe 图.png"), (Path("a/b.png"), "a/b.png"), ("two\nlines\x1b[1m", "two?lines?[1m")],
)
def test_shown_name_replaces_what_is_not_printable(name, shown):
    assert shown_name(name) == shown


def test_shown_name_accepts_names_that_are_not_utf_8():
    assert shown_name(os.fsdecode(b"\xff.png")) == "\ufffd.png"


def test_an_error_of_a_file_is_its_name_and_the_reason():
    with pytest.raises(OSError, match="No such file") as error:
        Path("no\nwhere").read_bytes()
    assert explained(error.value) == "no?where: No such file or directory"
    assert explained(OSError("6400 requested and 12 written")) == "6400 requested and 12 written"


def test_a_full_disk_is_named_with_its_free_space(tmp_path):
    mount = next(folder for folder in (tmp_path, *tmp_path.parents) if os.path.ismount(folder))
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "not/there"))
    line = f"{tmp_path}/not/there: No space left on device; the disk at {mount} has "
    assert re.fullmatch(rf"{re.escape(line)}[\d,]+\.\d MB free", explained(error))


def test_the_disks_that_are_full_are_named_if_the_file_is_not_known(monkeypatch):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert explained(error) == "No space left on device; it may be the disk of the file that the output is written to"
    monkeypatch.setattr("pipeline.errors.NEARLY_FULL", float("inf"))
    assert explained(error).startswith("No space left on device; the disk at /")
    assert explained(RuntimeError("I/O error: No space left on device (os error 28)")).count("; the disk at /") >= 1


def test_too_little_memory_is_said_with_what_to_lower():
    with pytest.raises(MemoryError) as error:
        np.empty(2**60, np.uint8)
    assert explained(error.value).startswith("out of memory (Unable to allocate 1.00 EiB for an array with shape")
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert explained(error.value).startswith("out of memory (")
    assert explained(MemoryError()).startswith("out of memory (MemoryError); close other programs, or lower ")


def test_a_killed_worker_is_said():
    with pytest.raises(BrokenExecutor) as error, ProcessPoolExecutor(1) as workers:
        workers.submit(signal.raise_signal, signal.SIGKILL).result()
    assert explained(error.value).startswith(
        "a worker process was killed, probably because there was too little memory"
    )


def test_a_file_that_ends_too_early_is_said(tmp_path):
    (tmp_path / "empty.npy").touch()
    with pytest.raises(EOFError) as error:
        np.load(tmp_path / "empty.npy")
    assert explained(error.value).startswith("a file, or what another process sends, ends too early (No data left in ")


def test_an_error_of_the_code_is_not_explained():
    assert explained(ValueError("x")) is None
