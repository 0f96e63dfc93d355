"""Checkpoints: what a training run needs to go on as if it had never been stopped.

They are no output of the stage, since DVC removes outputs before it runs: they lie in a folder that git ignores,
under a fingerprint of all that decides the result, and are removed when the run is complete. Of several processes that
ask for the same run, one trains and the others wait for it.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.machine import checkpoint_folder
from pipeline.paths import repository_root
from pipeline.progress import say
from pipeline.training.distributed import Group
from pipeline.training.run_lock import RunLock

FOLDER = Path(".checkpoints")
# Far less than the processes of a group wait for one another.
SECONDS_OF_WAITING = 20.0


def fingerprint(**facts: Any) -> str:
    """A name for a run: the facts (parameters, dataset, device ...), torch's version and the pipeline's loaded code."""
    code = {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "pipeline" and (file := getattr(module, "__file__", None))
    }
    content = json.dumps({**facts, "torch": torch.__version__, "code": code}, sort_keys=True)
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
