"""Checkpoints: what a training run needs to go on as if it had never been stopped.

They are no output of the stage, since DVC removes outputs before it runs: they lie in a folder that git ignores,
under a fingerprint of all that decides the result, and are removed when the run is complete. Of several processes that
ask for the same run, one trains and the others wait for it.
"""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout

from pipeline.common.code import code_digest
from pipeline.common.files import replacing
from pipeline.common.paths import repository_root
from pipeline.errors import PipelineError
from pipeline.machine import checkpoint_folder
from pipeline.progress import say
from pipeline.train.distributed import Group

FOLDER = Path(".checkpoints")
# Far less than the processes of a group wait for one another.
SECONDS_OF_WAITING = 20.0


def fingerprint(**facts: Any) -> str:
    """A name for a run: the facts (parameters, dataset, device ...), torch's version and the code of the stage."""
    content = json.dumps({**facts, "torch": torch.__version__, "code": code_digest("train")}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def checkpoint_path(name: str) -> Path:
    """Where the checkpoint of a fingerprint lies: in the folder that the environment names, or in the repository; an
    experiment's temporary workspace is removed when it fails."""
    return (checkpoint_folder() or repository_root() / FOLDER) / f"{name}.pt"


@contextmanager
def reserved(path: Path, group: Group) -> Iterator[None]:
    """Keep a run's checkpoint for this group of processes, and remove it at the end, when the run is complete.

    Another process that trains the same is waited for; then this one goes on from the checkpoint that it left: from
    the last one after an error or a kill, at the end if it was complete.
    """
    lock, seconds = RunLock(path), 0.0
    while not group.broadcast(lock.acquire(seconds) if group.is_main else None):
        if group.is_main and not seconds:
            say(f"train: another process trains the very same; waits for it, then goes on from {path}")
        seconds = SECONDS_OF_WAITING
    try:
        yield
        if group.is_main and not lock.is_awaited():
            path.unlink(missing_ok=True)
    finally:
        if group.is_main:
            lock.release()
            # The folder goes with the last one.
            with suppress(OSError):
                path.parent.rmdir()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, bring it to the disk, and put it in the old one's place.

    Raises:
        PipelineError: the disk is full, or the folder cannot be written to; the old checkpoint stays.
    """
    try:
        with replacing(path) as beside, beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter
        reason = str(error).splitlines()[0]
        raise PipelineError(
            f"{path}: could not be written ({reason}); make room and run the same command again, it goes on"
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint into the CPU's memory, None where there is none; only tensors and plain values are loaded."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class RunLock:
    """Lock of a training; it ends with its process, however that dies, and leaves no file when it is released.

    Who waits holds a second lock, his place in the line. So the one before knows that what he leaves is wanted.

    Args:
        path: of the checkpoint; the locks lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._run, self._line = (FileLock(path.with_suffix(suffix)) for suffix in (".lock", ".line"))

    def acquire(self, seconds: float) -> bool:
        """Try for so many seconds, and again if called again; whether the training is this process's now.

        Where the file system has no locks, it is, and the user is told.
        """
        try:
            for lock in (self._line, self._run):
                if not lock.is_locked:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=seconds)
        except (Timeout, FileNotFoundError):  # the latter when another process has just removed the empty folder
            return False
        except OSError as error:
            say(f"train: no lock in {self._folder} ({error.strerror}); let no other process train the very same")
        self._line.release()
        return True

    def is_awaited(self) -> bool:
        """Whether another process waits for this one's end; if not, whoever comes from now on waits for its release."""
        try:
            self._line.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            pass
        return False

    def release(self) -> None:
        """Let the next one train; the files go with the last one."""
        # A file may go while its lock is held: who opened it just before finds out, and tries again.
        if not self.is_awaited():
            for lock in (self._run, self._line):
                Path(lock.lock_file).unlink(missing_ok=True)
        self._run.release()
        self._line.release(force=True)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM has come; a second one ends the process at once."""
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
