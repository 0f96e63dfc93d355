"""Errors of the machine are explained in one line."""

import errno
import os
import re
import signal
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import explained


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
