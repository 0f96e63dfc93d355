"""What depends on the machine comes from the environment, never from ``params.yaml``.

- ``PIPELINE_WORKERS``: number of worker processes (default: one per usable core).
- ``PIPELINE_DEVICE``: torch device (default: the best one).
- ``PIPELINE_CACHE``: folder for downloads (default: in the user's cache folder).
- ``PIPELINE_CHECKPOINT_MINUTES``: time between two checkpoints within an epoch (default: 10).
- ``PIPELINE_CHECKPOINTS``: folder for checkpoints (default: ``.checkpoints`` in the repository).
- ``PIPELINE_PROCESSES``: number of processes that train together on this machine (default: 1).
- ``PIPELINE_RAY``: address of a Ray cluster for experiments and ``augment``, or ``local`` (default: none).
- ``PIPELINE_DEBUG``: any text prints the traceback of an error (default: only one line).
- ``PIPELINE_TENSORBOARD``: folder for TensorBoard's files, relative to the repository (default: none are written).

Each is read by a function of this module; ``cli`` calls :func:`check_variables` before any work.
"""

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.common.paths import expanded, repository_root
from pipeline.common.text import shortened
from pipeline.errors import PipelineError

FOLDERS = ("PIPELINE_CACHE", "PIPELINE_CHECKPOINTS", "PIPELINE_TENSORBOARD")
VARIABLES = (
    "PIPELINE_WORKERS",
    "PIPELINE_DEVICE",
    "PIPELINE_CHECKPOINT_MINUTES",
    "PIPELINE_PROCESSES",
    "PIPELINE_RAY",
    "PIPELINE_DEBUG",
    *FOLDERS,
)
# Those of torchrun, which are also read here.
RANKS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
READ_ONLY = (errno.EACCES, errno.EROFS)
MOST_PROCESSES, MOST_MINUTES = 1024, 1_000_000
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def check_variables() -> None:
    """Check all variables, also whether the folders can be written to.

    Raises:
        PipelineError: a value is not allowed. One line for each variable.
    """
    problems = list(variable_problems())
    if problems:
        raise PipelineError("\n".join(problems))


def variable_problems() -> Iterator[str]:
    """One line for each variable whose value is not allowed."""
    for read in (worker_count, process_count, world_size, checkpoint_minutes, ray_address, check_device_name):
        try:
            read()
        except PipelineError as error:
            yield str(error)
    for name in FOLDERS:
        try:
            folder = folder_variable(name)
            if folder is not None:
                _check_writable(folder, name)
        except PipelineError as error:
            yield str(error)


def worker_count() -> int:
    """The number of worker processes, which never changes a result.

    Raises:
        PipelineError: ``PIPELINE_WORKERS`` is not such a number.
    """
    return _whole_number("PIPELINE_WORKERS", int(min(len(_usable_cores()), _core_limit())))


def _usable_cores() -> set[int]:
    """The numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _core_limit() -> float:
    """How many cores a container may use, as ``docker run --cpus=1.5`` and Kubernetes limit it: 2; else infinity."""
    first_version = (control_group(f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    quota, period = control_group("cpu.max").split() or first_version
    # Without a limit, max or -1.
    return math.ceil(int(quota) / int(period)) if quota.isdecimal() and period.isdecimal() else math.inf


def control_group(name: str) -> str:
    """A file of this process's control group, which limits a container; empty if there is none."""
    own = Path("/proc/self/cgroup")
    group = own.read_text("utf-8").rpartition("::")[2].strip("/\n") if own.exists() else ""
    for path in (CONTROL_GROUPS / group / name, CONTROL_GROUPS / name):
        with suppress(OSError):
            return path.read_text("utf-8").strip()
    return ""


def crowded(threads: int) -> str:
    """One line if other processes leave too few cores for the threads of this one, which then wait for each other;
    empty if not. Measures for 0.2 s.
    """
    if threads == 1:
        return ""
    import psutil

    shares = dict(enumerate(psutil.cpu_percent(interval=0.2, percpu=True)))
    usable = _usable_cores()
    used = sum(shares.get(core, 0.0) for core in usable) / 100
    if used + threads <= len(usable) + 0.5:
        return ""
    return (
        f"other processes use {used:.1f} of {len(usable)} cores, and torch {threads} threads: with OMP_NUM_THREADS=1 "
        "it can be several times faster"
    )


def process_count() -> int:
    """The number of processes that train together on this machine.

    Raises:
        PipelineError: ``PIPELINE_PROCESSES`` is not such a number.
    """
    return _whole_number("PIPELINE_PROCESSES", 1)


def world_size() -> int:
    """The number of processes that train together, on all machines; 1 unless torchrun started this one.

    Raises:
        PipelineError: ``WORLD_SIZE`` is not such a number, or other variables of torchrun are not set.
    """
    world = _whole_number("WORLD_SIZE", 1, 2**20)
    missing = [name for name in RANKS if not os.environ.get(name)]
    if world > 1 and missing:
        raise PipelineError(f"WORLD_SIZE: got {world}, but {missing[0]} is not set; unset it, or start with torchrun")
    if world > 1:
        local_rank()
    return world


def local_rank() -> int:
    """The number of this process among those of this machine.

    Raises:
        PipelineError: ``LOCAL_RANK`` is not such a number.
    """
    return _whole_number("LOCAL_RANK", 0, MOST_PROCESSES, least=0)


def _whole_number(name: str, default: int, most: int = MOST_PROCESSES, least: int = 1) -> int:
    value = os.environ.get(name, str(default))
    number = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else -1
    if not least <= number <= max(most, default):
        raise PipelineError(
            f"{name}: got {_shown(value)}, allowed is a whole number from {least} to {most:,}; unset it for {default}"
        )
    return number


def checkpoint_minutes() -> float:
    """Minutes between two checkpoints within an epoch.

    Raises:
        PipelineError: ``PIPELINE_CHECKPOINT_MINUTES`` is not such a number.
    """
    name = "PIPELINE_CHECKPOINT_MINUTES"
    value = os.environ.get(name, "10")
    minutes = float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", value) else -1.0
    if not 0 <= minutes <= MOST_MINUTES:
        raise PipelineError(
            f"{name}: got {_shown(value)}, allowed is a number from 0 to {MOST_MINUTES:,}; unset it for 10"
        )
    return minutes


def ray_address() -> str | None:
    """The address of the Ray cluster for experiments and ``augment``; None if there is none.

    Raises:
        PipelineError: ``PIPELINE_RAY`` cannot be an address.
    """
    value = os.environ.get("PIPELINE_RAY")
    if value is not None and not re.fullmatch(r"[!-~]{1,300}", value):
        raise PipelineError(
            f"PIPELINE_RAY: got {_shown(value)}, allowed is a cluster such as 10.0.0.1:6379, auto, or local, which "
            "starts one on this machine; unset it for none"
        )
    return value


def check_device_name() -> None:
    """Check the form of ``PIPELINE_DEVICE``; only torch knows whether this machine has the device.

    Raises:
        PipelineError: it is no name of a device.
    """
    value = os.environ.get("PIPELINE_DEVICE")
    if value is not None and not re.fullmatch(r"[a-z]{1,20}(:[0-9]{1,4})?", value):
        raise PipelineError(
            f"PIPELINE_DEVICE: got {_shown(value)}, allowed is a device of this machine such as cpu or cuda:0; unset "
            "it for the best one"
        )


def folder_variable(name: str) -> Path | None:
    """The folder that a variable names, relative to the repository of the user; None if it is not set.

    Raises:
        PipelineError: it is empty, or in a home folder that does not exist.
    """
    value = os.environ.get(name)
    if value == "":
        raise PipelineError(f"{name}: got '', allowed is a folder; unset it for the default")
    return None if value is None else repository_root() / expanded(value, name)


def _check_writable(folder: Path, name: str) -> None:
    """Check that a folder can be written to, or created.

    Raises:
        PipelineError: it cannot, as in ``/proc``, below a file, or with a name that is too long.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with suppress(FileNotFoundError):
            folder.stat()
        TemporaryDirectory(prefix=".pipeline-", dir=existing).cleanup()
    except OSError as error:
        # A cache that an administrator filled for everyone; a file that it lacks is reported when it is fetched.
        if name == "PIPELINE_CACHE" and error.errno in READ_ONLY and folder.is_dir():
            return
        raise PipelineError(
            f"{name}: got {_shown(str(folder))}, where nothing can be written ({error.strerror}); set it to another "
            "folder, or unset it for the default"
        ) from None


def _shown(value: str) -> str:
    return shortened(repr(value), 120)


def checkpoint_folder(root: Path) -> Path:
    """The folder for checkpoints: ``PIPELINE_CHECKPOINTS``, or ``.checkpoints`` in the repository at ``root``.

    Raises:
        PipelineError: see :func:`folder_variable`.
    """
    return folder_variable("PIPELINE_CHECKPOINTS") or root / ".checkpoints"


def tensorboard_folder(run: str) -> Path | None:
    """The folder for a run's TensorBoard files, or None if ``PIPELINE_TENSORBOARD`` is not set.

    Args:
        run: the name of the folder within ``PIPELINE_TENSORBOARD``, unless ``dvc exp run`` has named the experiment.

    Raises:
        PipelineError: see :func:`folder_variable`.
    """
    folder = folder_variable("PIPELINE_TENSORBOARD")
    return None if folder is None else folder / os.environ.get("DVC_EXP_NAME", run)
