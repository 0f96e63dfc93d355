"""What depends on the machine comes from the environment, never from ``params.yaml``.

``PIPELINE_WORKERS``: worker processes (all cores). ``PIPELINE_DEVICE``: torch device (the best there is).
``PIPELINE_CACHE``: folder of fetched archives (the user's cache folder). ``PIPELINE_CHECKPOINT_MINUTES``: between two
checkpoints within an epoch (10). ``PIPELINE_PROCESSES``: that train together on this machine (1).
"""

import os

from pipeline.errors import PipelineError

VARIABLES = (
    "PIPELINE_WORKERS",
    "PIPELINE_DEVICE",
    "PIPELINE_CACHE",
    "PIPELINE_CHECKPOINT_MINUTES",
    "PIPELINE_PROCESSES",
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
