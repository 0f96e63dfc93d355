"""Two processes that ask for the very same training, as two tasks of a queue can."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.train_runs import environment, outputs, params_yaml

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("dataset")]


def start() -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline", "train"]
    return subprocess.Popen(command, env=environment(PIPELINE_DEVICE="cpu"), stdout=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}")


def one_and_one_that_waits() -> tuple[subprocess.Popen, subprocess.Popen]:
    """The first stands still until the second waits for it."""
    Path("params.yaml").write_text(params_yaml())
    first = start()
    read_until(first, "epoch 2 of")
    first.send_signal(signal.SIGSTOP)
    second = start()
    read_until(second, "another process trains the very same; waits for it")
    return first, second


def test_it_is_computed_once_and_both_have_the_result():
    first, second = one_and_one_that_waits()
    first.send_signal(signal.SIGCONT)
    assert "epoch 60 of 60" in first.communicate(timeout=300)[0]
    expected = outputs()
    said = second.communicate(timeout=300)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "epoch 61, step 0" in said
    assert " of 60:" not in said
    assert outputs() == expected
    assert not Path(".checkpoints").exists()


def test_when_the_first_is_killed_the_second_goes_on_from_its_checkpoint():
    first, second = one_and_one_that_waits()
    first.kill()
    first.wait()
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0
    assert "train: goes on from" in said
    assert "epoch 1 of 60:" not in said
    assert "epoch 60 of 60:" in said
    resumed = outputs()
    alone = start()
    assert "goes on from" not in alone.communicate(timeout=300)[0]
    assert outputs() == resumed
    assert not Path(".checkpoints").exists()
