"""Signals stop a command and its workers, and what a killed process started ends too."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.processes import STOP_SIGNALS, stop_signals

ROOT = Path(__file__).parents[1]
# Writes a file and has a worker sleep, as augment would.
COMMAND = """
import sys, time
from pathlib import Path
from pipeline.common.files import replacing
from pipeline.processes import end_with_parent, stop_signals, worker_processes


def start(number, lock):
    assert number == 5


if __name__ == "__main__":
    try:
        with stop_signals(), replacing(Path("data/dataset")) as folder:
            end_with_parent()
            folder.mkdir()
            with worker_processes(2, start, 5) as run:
                assert list(run(abs, [-1, -2, -3])) == [1, 2, 3]
                print("started", flush=True)
                list(run(time.sleep, [600] * 3))
    except KeyboardInterrupt:
        sys.exit(130)
"""
# Starts the command, and says which process it is.
PARENT = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def hang_up():
    """SIGHUP as on a terminal: it is ignored, also by what the tests start, if these run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    """Start a program of Python; its first line of output has been read when this returns."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def have_ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_ends_a_command_and_its_workers_without_a_message_and_leaves_nothing(workspace, number, whole_group):
    process = start(COMMAND)
    assert process.stdout.readline() == "started\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 130
    assert have_ended(workers)
    assert list(Path("data").iterdir()) == []


def test_workers_of_a_killed_command_end(workspace):
    process = start(COMMAND)
    assert process.stdout.readline() == "started\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert have_ended(workers)


@pytest.mark.parametrize(("variable", "ends"), [("DVC_STAGE", True), ("WORLD_SIZE", True), ("SHLVL", False)])
def test_a_command_ends_with_the_dvc_or_torchrun_that_started_it_but_not_with_a_shell(workspace, variable, ends):
    parent = start(PARENT, COMMAND, **{variable: "1"})
    command = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "started\n"
    parent.kill()
    if ends:
        assert have_ended([command])
        assert list(Path("data").iterdir()) == []
    else:
        time.sleep(1.5)
        assert command.is_running()
        command.kill()
    parent.communicate(timeout=20)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_interrupts_and_only_ctrl_c_does_so_again(number):
    with stop_signals() as arrived:
        assert not arrived()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert arrived()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_block_can_defer_the_first_signal_and_the_outer_block_knows_of_it(number):
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with stop_signals() as outer:
        with stop_signals(deferred=True) as arrived:
            signal.raise_signal(number)
            assert arrived()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert outer()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    with stop_signals() as arrived:
        assert not arrived()


def test_the_end_of_the_terminal_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as arrived:
            signal.raise_signal(signal.SIGHUP)
            assert not arrived()
    finally:
        signal.signal(signal.SIGHUP, before)
