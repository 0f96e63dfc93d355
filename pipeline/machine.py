"""What depends on the machine comes from the environment, never from ``params.yaml``.

``PIPELINE_WORKERS``: worker processes (all cores). ``PIPELINE_DEVICE``: torch device (the best there is).
``PIPELINE_CACHE``: folder of fetched archives (the user's cache folder). ``PIPELINE_CHECKPOINT_MINUTES``: between two
checkpoints within an epoch (10). ``PIPELINE_CHECKPOINTS``: folder of the checkpoints (``.checkpoints`` in the
repository). ``PIPELINE_PROCESSES``: that train together on this machine (1). ``PIPELINE_TENSORBOARD``: folder for
TensorBoard's files, relative to the repository (none, nothing is written).
"""

import os
from pathlib import Path

from pipeline.common.paths import repository_root
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
    """How many worker processes to use. The results never depend on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _whole_number("PIPELINE_WORKERS", cores)


def process_count() -> int:
    """How many processes of this machine train together."""
    return _whole_number("PIPELINE_PROCESSES", 1)


def _whole_number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise PipelineError(f"{name}: got {value!r}, allowed is a whole number ≥ 1; unset it for {default}")
    return int(value)


def checkpoint_minutes() -> float:
    """Minutes between two checkpoints within an epoch; each epoch's end has one anyway."""
    value = os.environ.get("PIPELINE_CHECKPOINT_MINUTES", "10")
    try:
        minutes = float(value)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise PipelineError(f"PIPELINE_CHECKPOINT_MINUTES: got {value!r}, allowed is a number ≥ 0; unset it for 10")
    return minutes


def checkpoint_folder() -> Path | None:
    """Where checkpoints shall lie, None where nobody said."""
    value = os.environ.get("PIPELINE_CHECKPOINTS")
    return Path(value).absolute() if value else None


def tensorboard_folder(run: str) -> Path | None:
    """Where a run's files for TensorBoard go, if they are wanted: in a folder of the experiment's name, else ``run``.

    DVC names each experiment (``dvc exp run``); a relative folder is that of the repository around its workspace.
    """
    value = os.environ.get("PIPELINE_TENSORBOARD")
    if value is None:
        return None
    if not value:
        raise PipelineError("PIPELINE_TENSORBOARD: got '', allowed is a folder; unset it for no files")
    return repository_root() / Path(value).expanduser() / os.environ.get("DVC_EXP_NAME", run)
