"""Checkpoints: their fingerprint, their path, and the lock of a run between processes."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

from pipeline.progress import TrainingProgress
from pipeline.train.checkpoint import (
    Checkpointer,
    RunLock,
    checkpoint_path,
    exclusive,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from pipeline.train.distributed import ProcessGroup
from tests.support.sections import TRAIN
from tests.support.train_runs import ROOT, environment
from tests.support.trainers import build

FORK = multiprocessing.get_context("fork")
PROGRESS = TrainingProgress(1, 1, 1, False, torch.device("cpu"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".checkpoints/name.pt"


def test_fingerprint_depends_on_parameters_data_and_seed():
    names = {
        fingerprint(train={**TRAIN, **change}, data=data, seed=seed)
        for change in ({}, {"lr": 0.1}, {"epochs": 9})
        for data in ("a", "b")
        for seed in (1, 2)
    }
    assert len(names) == 12


# Prints the fingerprint after each edit of a copy of the project.
EDITS = """
import json, sys
from pathlib import Path
from pipeline.train.checkpoint import fingerprint
names = [fingerprint()]
for path in sys.argv[1:]:
    Path(path).write_text(Path(path).read_text("utf-8") + "# edited\\n", "utf-8")
    names.append(fingerprint())
print(json.dumps(names))
"""


def test_fingerprint_depends_on_the_code_that_decides_the_result_and_on_no_other(tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    without_effect = ["pipeline/progress.py", "pipeline/report/stage.py", "pipeline/params/schema.py"]
    with_effect = ["pipeline/train/trainer.py", "pipeline/network/models.py", "pipeline/common/dataset.py"]
    command = [sys.executable, "-c", EDITS, *without_effect, *with_effect]
    variables = environment(PYTHONPATH=str(tmp_path))
    result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    first, progress, report, params, *others = json.loads(result.stdout)
    assert first == progress == report == params
    assert len({first, *others}) == 4


def test_checkpoint_is_in_the_repository(workspace):
    assert checkpoint_path("name") == workspace / ".checkpoints/name.pt"


def test_checkpoint_of_a_temporary_experiment_is_in_the_repository_around_it(tmp_path, monkeypatch):
    workspace = tmp_path / ".dvc/tmp/exps/standalone/abc"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert checkpoint_path("name") == tmp_path / ".checkpoints/name.pt"


def test_environment_can_name_the_folder_of_the_checkpoints(workspace, monkeypatch):
    monkeypatch.setenv("PIPELINE_CHECKPOINTS", "scratch/checkpoints")
    assert checkpoint_path("name") == workspace / "scratch/checkpoints/name.pt"


def fail_to_save(path: Path) -> None:
    # The kernel refuses to write more than this number of bytes to a file.
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        save_checkpoint(path, {"weights": torch.ones(1_000_000)})
    except Exception as error:
        path.with_name("error").write_text(f"{type(error).__name__}: {error}")


def test_full_disk_keeps_the_last_checkpoint(path):
    save_checkpoint(path, {"position": (1, 2), "weights": torch.ones(3)})
    process = FORK.Process(target=fail_to_save, args=(path,))
    process.start()
    process.join(60)
    assert path.with_name("error").read_text().startswith(f"MachineError: {path}: could not be written (")
    assert load_checkpoint(path)["position"] == (1, 2)
    assert sorted(file.name for file in path.parent.iterdir()) == ["error", "name.pt"]


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if kind == "one bit":
        content[middle] ^= 1
    elif kind == "64 zero bytes":
        content[middle : middle + 64] = bytes(64)
    elif kind == "first byte":
        content[0] ^= 255
    elif kind == "last byte":
        content[-1] ^= 255
    elif kind == "one byte more":
        content.append(0)
    else:
        del content[int(kind) :]
    path.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    ["0", "1", "64", "1000", "-1", "-64", "one byte more", "one bit", "64 zero bytes", "first byte", "last byte"],
)
def test_a_damaged_checkpoint_is_not_loaded(path, kind):
    # Ones, so that zeros in the middle, which is that of the tensor, change it.
    save_checkpoint(path, {"position": (1, 2), "weights": torch.ones(100_000)})
    assert load_checkpoint(path)["weights"].sum() == 100_000
    damage(path, kind)
    assert load_checkpoint(path) is None


@pytest.fixture
def trainer(tmp_path):
    """A run of four epochs with three steps each."""
    return build(tmp_path, epochs=4)


def saved_at(trainer, path, monkeypatch, step_seconds: float, save_seconds: float) -> list[tuple[int, int]]:
    """The positions (epochs done, steps) at which a run is saved if steps and saves take so long."""
    now, saved = [0.0], []

    def save(path, state):
        now[0] += save_seconds
        saved.append((state["position"][0] - 1, state["position"][1]))

    monkeypatch.setattr("pipeline.train.checkpoint.save_checkpoint", save)
    checkpointer = Checkpointer(trainer, path, lambda: False, clock=lambda: now[0])

    def on_step():
        now[0] += step_seconds
        checkpointer.save_if_due()

    def on_epoch(row):
        now[0] += step_seconds
        checkpointer.save_if_due(at_epoch_end=True)

    trainer.fit(on_step, on_epoch)
    return saved


@pytest.mark.parametrize(
    ("step_seconds", "save_seconds", "expected"),
    [
        (10, 1, [(1, 0), (2, 0), (3, 0), (4, 0)]),
        # A save takes a tenth of an epoch: every second epoch is too early.
        (10, 3, [(1, 0), (3, 0), (4, 0)]),
        (0.1, 1, [(1, 0), (4, 0)]),
        (300, 30, [(0, 2), (1, 1), (2, 0), (2, 2), (3, 1), (4, 0)]),
    ],
)
def test_run_is_saved_when_that_takes_at_most_a_twentieth_of_the_time(
    trainer, path, monkeypatch, step_seconds, save_seconds, expected
):
    assert saved_at(trainer, path, monkeypatch, step_seconds, save_seconds) == expected


def test_minutes_of_0_save_after_each_step(trainer, path, monkeypatch):
    monkeypatch.setenv("PIPELINE_CHECKPOINT_MINUTES", "0")
    saved = saved_at(trainer, path, monkeypatch, 0.1, 1)
    assert saved == [(step // 3, step % 3) for step in range(1, 13)]


def hold_lock(path: Path, acquired, may_end) -> None:
    lock = RunLock(path, PROGRESS)
    while not lock.acquire(0.1):
        pass
    acquired.set()
    may_end.wait()
    lock.release()


class Process:
    """Another process that takes the lock as soon as possible and keeps it until ``finish``."""

    def __init__(self, path: Path) -> None:
        self.acquired, self.may_end = FORK.Event(), FORK.Event()
        self.process = FORK.Process(target=hold_lock, args=(path, self.acquired, self.may_end), daemon=True)
        self.process.start()

    def wait_until_acquired(self) -> None:
        assert self.acquired.wait(30)

    def finish(self) -> None:
        self.may_end.set()
        self.process.join(30)
        assert self.process.exitcode == 0


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def wait_for_waiter(path: Path) -> None:
    """Return when another process waits."""
    while True:
        try:
            FileLock(path.with_suffix(".waiter")).acquire(timeout=0)
        except Timeout:
            return
        time.sleep(0.01)


def test_released_lock_leaves_no_file(path):
    lock = RunLock(path, PROGRESS)
    assert lock.acquire(0)
    assert not lock.has_waiter()
    lock.release()
    assert files(path) == []


def test_second_process_waits_for_the_release_and_the_owner_knows_it(path):
    lock = RunLock(path, PROGRESS)
    assert lock.acquire(0)
    other = Process(path)
    wait_for_waiter(path)
    assert lock.has_waiter()
    assert not other.acquired.is_set()
    lock.release()
    other.wait_until_acquired()
    assert not RunLock(path, PROGRESS).acquire(0)
    other.finish()
    assert files(path) == []


def test_lock_of_a_killed_process_is_free_at_once(path):
    other = Process(path)
    other.wait_until_acquired()
    assert not RunLock(path, PROGRESS).acquire(0)
    other.process.kill()
    other.process.join()
    assert other.process.exitcode == -signal.SIGKILL
    lock = RunLock(path, PROGRESS)
    assert lock.acquire(0)
    lock.release()
    assert files(path) == []


def count_up(path: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        lock = RunLock(path, PROGRESS)
        while not lock.acquire(0.1):
            pass
        counter.write_text(str(int(counter.read_text()) + 1))
        lock.release()


def test_processes_that_come_and_go_never_have_the_lock_at_the_same_time(path, tmp_path):
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


def test_file_system_without_locks_is_reported_and_does_not_stop_the_training(path, monkeypatch, capsys):
    # The error of a network file system without a lock service; the test cannot mount one.
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    lock = RunLock(path, PROGRESS)
    assert lock.acquire(0)
    assert "cannot be locked (No locks available); do not start the same" in capsys.readouterr().out
    assert not lock.has_waiter()
    lock.release()
    assert files(path) == []


def run_after_another(path: Path, found: Path) -> None:
    with exclusive(path, ProcessGroup(), PROGRESS):
        found.write_text(path.read_text())


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_process_that_waits_for_a_run_gets_its_checkpoint_and_removes_it(path, tmp_path, error):
    other = FORK.Process(target=run_after_another, args=(path, tmp_path / "found"))
    try:
        with exclusive(path, ProcessGroup(), PROGRESS):
            other.start()
            wait_for_waiter(path)
            path.write_text("state")
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    other.join(60)
    assert other.exitcode == 0
    assert (tmp_path / "found").read_text() == "state"
    assert not path.parent.exists()


def test_checkpoint_of_a_run_that_failed_is_kept_without_lock_files(path):
    with pytest.raises(ZeroDivisionError), exclusive(path, ProcessGroup(), PROGRESS):
        path.write_text("state")
        raise ZeroDivisionError
    assert files(path) == ["name.pt"]
