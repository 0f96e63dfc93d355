"""What depends on the machine comes from the environment, never from ``params.yaml``.

- ``PIPELINE_WORKERS``: number of worker processes (default: one per usable core).
- ``PIPELINE_DEVICE``: torch device (default: the best one).
- ``PIPELINE_CACHE``: folder for downloads (default: in the user's cache folder).
- ``PIPELINE_CHECKPOINT_MINUTES``: time between two checkpoints within an epoch (default: 10).
- ``PIPELINE_CHECKPOINTS``: folder for checkpoints (default: ``.checkpoints`` in the repository).
- ``PIPELINE_PROCESSES``: number of processes that train together on this machine (default: 1).
- ``PIPELINE_TENSORBOARD``: folder for TensorBoard's files, relative to the repository (default: none are written).
"""

import os
from pathlib import Path

from pipeline.common.paths import expanded, repository_root
from pipeline.errors import PipelineError

VARIABLES = (
    "PIPELINE_WORKERS",
    "PIPELINE_DEVICE",
    "PIPELINE_CACHE",
    "PIPELINE_CHECKPOINT_MINUTES",
    "PIPELINE_CHECKPOINTS",
    "PIPELINE_PROCESSES",
    "PIPELINE_TENSORBOARD",
)


def worker_count() -> int:
    """The number of worker processes, which never changes a result.

    Raises:
        PipelineError: ``PIPELINE_WORKERS`` is not a whole number ≥ 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _whole_number("PIPELINE_WORKERS", cores)


def process_count() -> int:
    """The number of processes that train together on this machine.

    Raises:
        PipelineError: ``PIPELINE_PROCESSES`` is not a whole number ≥ 1.
    """
    return _whole_number("PIPELINE_PROCESSES", 1)


def _whole_number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise PipelineError(f"{name}: got {value!r}, allowed is a whole number ≥ 1; unset it for {default}")
    return int(value)


def checkpoint_minutes() -> float:
    """Minutes between two checkpoints within an epoch; each epoch ends with one in any case.

    Raises:
        PipelineError: ``PIPELINE_CHECKPOINT_MINUTES`` is not a number ≥ 0.
    """
    value = os.environ.get("PIPELINE_CHECKPOINT_MINUTES", "10")
    try:
        minutes = float(value)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:  # also if it is NaN
        raise PipelineError(f"PIPELINE_CHECKPOINT_MINUTES: got {value!r}, allowed is a number ≥ 0; unset it for 10")
    return minutes


def checkpoint_folder(root: Path) -> Path:
    """The folder for checkpoints: ``PIPELINE_CHECKPOINTS``, or ``.checkpoints`` in the repository at ``root``.

    Raises:
        PipelineError: ``PIPELINE_CHECKPOINTS`` is in a home folder that does not exist.
    """
    value = os.environ.get("PIPELINE_CHECKPOINTS")
    return expanded(value, "PIPELINE_CHECKPOINTS").absolute() if value else root / ".checkpoints"


def tensorboard_folder(run: str) -> Path | None:
    """The folder for a run's TensorBoard files, or None if ``PIPELINE_TENSORBOARD`` is not set.

    Args:
        run: the name of the folder within ``PIPELINE_TENSORBOARD``, unless ``dvc exp run`` has named the experiment.

    Raises:
        PipelineError: ``PIPELINE_TENSORBOARD`` is empty, or in a home folder that does not exist.
    """
    value = os.environ.get("PIPELINE_TENSORBOARD")
    if value is None:
        return None
    if not value:
        raise PipelineError("PIPELINE_TENSORBOARD: got '', allowed is a folder; unset it for no files")
    return repository_root() / expanded(value, "PIPELINE_TENSORBOARD") / os.environ.get("DVC_EXP_NAME", run)
