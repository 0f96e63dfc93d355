"""The lock of a training, between processes."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from pipeline.train.checkpoint import RunLock

FORK = multiprocessing.get_context("fork")


def holder(path: Path, has_it, may_end) -> None:
    lock = RunLock(path)
    while not lock.acquire(0.1):
        pass
    has_it.set()
    may_end.wait()
    lock.release()


class Process:
    """Another process, which takes the lock as soon as it can and holds it until it is told."""

    def __init__(self, path: Path) -> None:
        self.has_it, self.may_end = FORK.Event(), FORK.Event()
        self.process = FORK.Process(target=holder, args=(path, self.has_it, self.may_end), daemon=True)
        self.process.start()

    def takes_it(self) -> None:
        assert self.has_it.wait(30)

    def ends(self) -> None:
        self.may_end.set()
        self.process.join(30)
        assert self.process.exitcode == 0


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".checkpoints/name.pt"


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def wait_for_line(path: Path) -> None:
    """Until another process waits."""
    while True:
        try:
            FileLock(path.with_suffix(".line")).acquire(timeout=0)
        except Timeout:
            return
        time.sleep(0.01)


def test_one_process_has_it_and_leaves_no_file(path):
    lock = RunLock(path)
    assert lock.acquire(0)
    assert not lock.is_awaited()
    lock.release()
    assert files(path) == []


def test_another_one_waits_until_it_is_released_and_the_holder_knows(path):
    lock = RunLock(path)
    assert lock.acquire(0)
    other = Process(path)
    wait_for_line(path)
    assert lock.is_awaited()
    assert not other.has_it.is_set()
    lock.release()
    other.takes_it()
    assert not RunLock(path).acquire(0)
    other.ends()
    assert files(path) == []


def test_the_lock_of_a_killed_process_is_free_at_once(path):
    other = Process(path)
    other.takes_it()
    assert not RunLock(path).acquire(0)
    other.process.kill()
    other.process.join()
    assert other.process.exitcode == -signal.SIGKILL
    lock = RunLock(path)
    assert lock.acquire(0)
    lock.release()
    assert files(path) == []


def count_up(path: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        lock = RunLock(path)
        while not lock.acquire(0.1):
            pass
        counter.write_text(str(int(counter.read_text()) + 1))
        lock.release()


def test_many_processes_that_come_and_go_never_have_it_together(path, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [FORK.Process(target=count_up, args=(path, counter, 40), daemon=True) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 5
    assert counter.read_text() == "200"
    assert files(path) == []


def test_a_file_system_without_locks_is_told_and_does_not_stop_the_training(path, monkeypatch, capsys):
    # The kernel's own answer on a network file system whose lock service is off; no such one can be mounted here.
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    lock = RunLock(path)
    assert lock.acquire(0)
    assert "No locks available" in capsys.readouterr().out
    assert not lock.is_awaited()
    lock.release()
    assert files(path) == []
