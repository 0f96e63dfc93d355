"""What depends on the machine comes from the environment, never from ``params.yaml``.

``PIPELINE_WORKERS``: worker processes (all cores). ``PIPELINE_DEVICE``: torch device (the best there is).
``PIPELINE_CACHE``: folder of fetched archives (the user's cache folder).
"""

import os

from pipeline.errors import PipelineError


def worker_count() -> int:
    """How many worker processes to use. The results never depend on it."""
    value = os.environ.get("PIPELINE_WORKERS")
    if value is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not value.isdigit() or int(value) < 1:
        raise PipelineError(f"PIPELINE_WORKERS: got {value!r}, allowed is a whole number ≥ 1; unset it for all cores")
    return int(value)
