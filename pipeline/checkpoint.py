"""Checkpoints: what a training run needs to go on as if it had never been stopped.

They are no output of the stage, since DVC removes outputs before it runs: they lie in a folder that git ignores,
under a fingerprint of all that decides the result, and are removed when the run is complete.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.paths import repository_root

FOLDER = Path(".checkpoints")


def fingerprint(**facts: Any) -> str:
    """A name for a run: the facts (parameters, dataset, device ...), torch's version and the pipeline's loaded code."""
    code = {
        name: hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "pipeline" and getattr(module, "__file__", None)
    }
    content = json.dumps({**facts, "torch": torch.__version__, "code": code}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def checkpoint_path(name: str) -> Path:
    """Where the checkpoint of a fingerprint lies: where it outlives an experiment's temporary workspace."""
    return repository_root() / FOLDER / f"{name}.pt"


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
    return torch.load(path, map_location="cpu", weights_only=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a complete run's checkpoint, and the folder with the last one."""
    path.unlink(missing_ok=True)
    if path.parent.exists() and not any(path.parent.iterdir()):
        path.parent.rmdir()
