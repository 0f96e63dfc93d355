"""Checkpoints: with its last one, a training run that was stopped resumes to the same bits.

DVC removes the outputs of a stage before it runs, so a checkpoint is not an output. It lies in a folder that git
ignores, under a fingerprint of everything that decides the result, and is removed when the run is complete. If several
processes start the same run, one of them trains and the others wait for it.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from pipeline.common.code import code_digest
from pipeline.common.files import replacing
from pipeline.common.paths import repository_root
from pipeline.errors import MachineError
from pipeline.machine import checkpoint_folder, checkpoint_minutes
from pipeline.progress import TrainingProgress
from pipeline.train.distributed import ProcessGroup
from pipeline.train.trainer import Trainer

# A file ends with the BLAKE2b hash of what torch wrote: torch itself does not notice changed weights.
HASH, HASH_BYTES = "blake2b", 64
READ_BYTES = 2**20
# Much shorter than the timeout of the processes that train together.
LOCK_TIMEOUT = 20.0
STEPS_BETWEEN_MESSAGES = 20
COST = 20.0


def fingerprint(**facts: Any) -> str:
    """Identify a run by the facts (parameters, dataset, device ...), the version of torch and the stage's code."""
    content = json.dumps({**facts, "torch": torch.__version__, "code": code_digest("train")}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def checkpoint_path(name: str) -> Path:
    """The path of the checkpoint of a fingerprint.

    In the folder that the environment names, or in the user's repository: the temporary workspace of an experiment
    is removed when it fails.
    """
    return checkpoint_folder(repository_root()) / f"{name}.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint, after the new one is on the disk.

    Raises:
        MachineError: the disk is full, or the folder is not writable; the old checkpoint is kept.
    """
    try:
        with replacing(path) as temporary, temporary.open("w+b") as file:
            torch.save(state, file)
            file.seek(0)
            file.write(hashlib.file_digest(file, HASH).digest())
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch raises the latter when a write fails
        reason = str(error).splitlines()[0]
        raise MachineError(
            f"{path}: could not be written ({reason}); free some space and run the same command to resume"
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint into the memory of the CPU, None if it is damaged; only tensors and plain values are loaded."""
    with path.open("rb") as file:
        digest, rest = hashlib.new(HASH), path.stat().st_size - HASH_BYTES
        while rest > 0 and (block := file.read(min(rest, READ_BYTES))):
            digest.update(block)
            rest -= len(block)
        if rest or file.read() != digest.digest():
            return None
    # Torch looks for the end of its archive from the end of the file, and skips the hash.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def resume(trainer: Trainer, path: Path) -> None:
    """Load the run's checkpoint into its trainer, if there is one; a damaged one is renamed, and not used."""
    # Read by the process that wrote it: the others may run on hosts with their own disks.
    state = None
    if trainer.group.is_main and path.exists():
        state = load_checkpoint(path)
        if state is None:
            path.replace(set_aside(path))
            trainer.progress.damaged(path, set_aside(path))
    state = trainer.group.broadcast(state)
    if state is not None:
        threads = torch.get_num_threads()
        trainer.load_state_dict(state)
        trainer.progress.resumed(path, trainer.epoch, trainer.step)
        if torch.get_num_threads() != threads:
            trainer.progress.note(
                f"uses {torch.get_num_threads()} threads instead of {threads}, as before it was stopped: another "
                f"number would end in other weights; to train with {threads} from the beginning, remove {path}"
            )


def set_aside(path: Path) -> Path:
    """The new path of a checkpoint that turned out to be damaged."""
    return path.with_suffix(".damaged")


class Checkpointer:
    """Saves a run at the end of an epoch, after some minutes within an epoch, and when it is interrupted.

    The end of an epoch is skipped if the time since the last save is less than ``COST`` times what that save took:
    saving takes at most a twentieth of the time, however short the epochs. The first and the last epoch are saved.

    Args:
        trainer: the run.
        path: of its checkpoint.
        interrupted: whether a signal has arrived.
        clock: returns seconds.
    """

    def __init__(
        self,
        trainer: Trainer,
        path: Path,
        interrupted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trainer, self.path, self.interrupted, self.clock = trainer, path, interrupted, clock
        self.seconds, self.saved, self.cost = checkpoint_minutes() * 60, clock(), 0.0
        # Several processes have to agree on a save, and each of these messages takes time.
        self.interval = 1 if trainer.group.world == 1 else STEPS_BETWEEN_MESSAGES

    def save_if_due(self, at_epoch_end: bool = False) -> None:
        """Save the run if it is time; called after each step.

        Raises:
            KeyboardInterrupt: a signal has arrived; the checkpoint is written.
        """
        group, device = self.trainer.group, self.trainer.device
        if not at_epoch_end and self.trainer.step % self.interval:
            return
        stop = group.any(self.interrupted(), device)
        if not (stop or group.any(group.is_main and self._due(at_epoch_end), device)):
            return
        start = self.clock()
        state = self.trainer.state_dict()
        if group.is_main:
            save_checkpoint(self.path, state)
        self.saved = self.clock()
        self.cost = self.saved - start
        if stop:
            self.trainer.progress.stopped(self.path, self.trainer.epoch)
            raise KeyboardInterrupt

    def _due(self, at_epoch_end: bool) -> bool:
        elapsed = self.clock() - self.saved
        return elapsed >= self.seconds or (at_epoch_end and (elapsed >= COST * self.cost or self.trainer.complete))


@contextmanager
def exclusive(path: Path, group: ProcessGroup, progress: TrainingProgress) -> Iterator[None]:
    """Reserve a run for this group of processes, and remove its checkpoint when the run is complete.

    If another process has the same run, wait for it. Its checkpoint is still there then: the last one after an error or
    a kill, or that of the complete run.
    """
    lock, timeout = RunLock(path, progress), 0.0
    while not group.broadcast(lock.acquire(timeout) if group.is_main else None):
        if not timeout:
            progress.waiting(path)
        timeout = LOCK_TIMEOUT
    try:
        yield
        if group.is_main and not lock.has_waiter():
            for file in (path, set_aside(path)):
                file.unlink(missing_ok=True)
    finally:
        if group.is_main:
            lock.release()
            # Fails as long as the folder contains files of other runs.
            with suppress(OSError):
                path.parent.rmdir()


class RunLock:
    """The lock of a run. It is freed when its process ends for any reason, and its files are removed on release.

    A waiting process has a second lock, by which the owner of the first knows that its checkpoint is still needed.

    Args:
        path: of the checkpoint, in the folder of the lock files.
        progress: prints a warning if the file system has no locks.
    """

    def __init__(self, path: Path, progress: TrainingProgress) -> None:
        self._folder, self._progress = path.parent, progress
        self._run, self._waiter = (FileLock(path.with_suffix(suffix)) for suffix in (".lock", ".waiter"))

    def acquire(self, timeout: float) -> bool:
        """Try for ``timeout`` seconds; return whether this process has the run. May be called again.

        A file system without locks lets every process have the run.
        """
        try:
            for lock in (self._waiter, self._run):
                if not lock.is_locked:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=timeout)
        except (Timeout, FileNotFoundError):  # the latter if another process has just removed the empty folder
            return False
        except OSError as error:
            self._progress.unlocked(self._folder, error.strerror or str(error))
        self._waiter.release()
        return True

    def has_waiter(self) -> bool:
        """Whether another process waits for the run; if not, no process can start to wait until the release."""
        try:
            self._waiter.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            pass
        return False

    def release(self) -> None:
        """Free the run for the next process; the last one removes the files."""
        # A process that has opened a removed file notices it, and opens the file again.
        if not self.has_waiter():
            for lock in (self._run, self._waiter):
                Path(lock.lock_file).unlink(missing_ok=True)
        self._run.release()
        self._waiter.release(force=True)
