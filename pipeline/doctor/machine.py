"""Checks of the machine: cores, memory, open files, disks; in a container its limits count."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.paths import PARAMS
from pipeline.doctor.data import dataset_bytes
from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import PipelineError, listed
from pipeline.machine import process_count, worker_count

CGROUP = Path("/sys/fs/cgroup")
GB = 1e9
LEAST_MEMORY = 1.0e9  # bytes; torch and a training take some 0.6 GiB beside the page cache
LEAST_DISK = 1.0e9
LEAST_FILES = 1024
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "drvfs", "fuse.sshfs", "afs", "lustre", "gpfs", "beegfs", "ceph")


def cores(_: Surroundings) -> Iterator[Finding]:
    """As many workers as there are cores that this process may use."""
    try:
        workers = worker_count()
    except PipelineError:
        return
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    line = f"{os.cpu_count()} cores" + (f", {allowed} of them for this process" if allowed != os.cpu_count() else "")
    if quota is not None and quota < allowed:
        line += f", a container's limit of {quota:g}"
    threads = os.environ.get("OMP_NUM_THREADS")
    line += f"; {workers} worker processes" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    usable = max(1, int(min(allowed, quota or allowed)))
    if workers > usable:
        mend = f"`export PIPELINE_WORKERS={usable} OMP_NUM_THREADS={usable}`"
        yield note("cores", f"{line}: more than cores, so they wait for one another", mend)
    else:
        yield ok("cores", line)


def cpu_quota() -> float | None:
    """The cores that a container may use, as a number with a fraction; None where there is no limit."""
    for folder in _cgroups():
        text = _read(folder / "cpu.max")
        if text:
            quota, period = text.split()
            return None if quota == "max" else int(quota) / int(period)
    quota, period = (_read(CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _cgroups() -> list[Path]:
    """This process's control group, and the one that a container sees as its root."""
    lines = _read(Path("/proc/self/cgroup")).splitlines()
    own = [CGROUP / line.split(":", 2)[2].lstrip("/") for line in lines if line.startswith("0::")]
    return [*own, CGROUP]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""


def memory_limit() -> tuple[int, int] | None:
    """A container's limit of memory and what it uses of it, in bytes; None where there is no limit."""
    pairs = [(folder / "memory.max", folder / "memory.current") for folder in _cgroups()]
    pairs.append((CGROUP / "memory/memory.limit_in_bytes", CGROUP / "memory/memory.usage_in_bytes"))
    for limit, used in pairs:
        text = _read(limit)
        # The old form of control groups writes "no limit" as a number beyond any machine's.
        if text.isdigit() and int(text) < 2**60:
            return int(text), int(_read(used) or 0)
    return None


def memory(here: Surroundings) -> Iterator[Finding]:
    """There is memory for torch, and best for the dataset too."""
    import psutil

    state = psutil.virtual_memory()
    total, free = state.total, state.available
    line = f"{free / GB:,.1f} GB free of {total / GB:,.1f}"
    limit = memory_limit()
    if limit is not None and limit[0] < total:
        # What the page cache holds counts as used there, but is given back.
        free = min(free, max(limit[0] - limit[1], 0) + _page_cache())
        line = f"{free / GB:,.1f} GB free of a container's limit of {limit[0] / GB:,.1f}"
    needed = dataset_bytes(here)
    if free < LEAST_MEMORY:
        mend = "close other programs; or lower train.batch_size or model.width, and `export PIPELINE_WORKERS=1`"
        yield note("memory", f"{line}: little for torch, a process may be killed", mend)
    elif needed and needed > free:
        yield note("memory", f"{line}; the dataset, {needed / GB:,.1f} GB, is read from the disk in each epoch")
    else:
        yield ok("memory", line + (f"; the dataset takes {needed / GB:,.2f} GB" if needed else ""))


def _page_cache() -> int:
    for folder in _cgroups():
        for line in _read(folder / "memory.stat").splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0


def shared_memory(_: Surroundings) -> Iterator[Finding]:
    """Processes that train together exchange gradients through ``/dev/shm``, which a container makes small."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return
    usage = shutil.disk_usage(place)
    line = f"{usage.free / GB:,.2f} GB free in /dev/shm"
    try:
        several = process_count() > 1
    except PipelineError:
        several = False
    if several and usage.free < GB:
        yield note(
            "shared memory", f"{line}: little for PIPELINE_PROCESSES", "`docker run --shm-size=8g`, or --ipc=host"
        )
    else:
        yield ok("shared memory", line)


def open_files(_: Surroundings) -> Iterator[Finding]:
    """Each worker and each array holds files open."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_FILES:
        raised = LEAST_FILES if hard < 0 else min(hard, 4096)
        yield note("open files", f"at most {soft:,}: many workers may need more", f"`ulimit -n {raised}`")
    else:
        yield ok("open files", f"at most {soft:,}" if soft >= 0 else "no limit")


def disks(here: Surroundings) -> Iterator[Finding]:
    """There is room where the workspace, DVC's cache, what is fetched and temporary files lie."""
    needed = dataset_bytes(here) or 0
    for uses, place in _disks(here).values():
        name, line = "disk", f"{_room(place)} for {listed(uses)} ({_file_system(place)})"
        usage, state = shutil.disk_usage(place), os.statvfs(place) if hasattr(os, "statvfs") else None
        least = max(LEAST_DISK, 1.5 * needed) if {"workspace", "DVC's cache"} & {*uses} else LEAST_DISK / 4
        if state is not None and state.f_flag & getattr(os, "ST_RDONLY", 0):
            yield error(name, f"{line} is read-only", "clone the project, or move what lies there, to another disk")
        elif not os.access(place, os.W_OK):
            user = f"`sudo chown -R $(id -un) {shell_path(place)}`"
            yield error(name, f"{line}: {shell_path(place)} may not be written to", user)
        elif usage.free < least:
            want = f"; the dataset takes {needed / GB:,.1f} GB" if needed > LEAST_DISK else ""
            mend = "make room there; `dvc gc --workspace` drops what no current file needs"
            yield (error if usage.free < least / 4 else note)(name, f"{line}: little{want}", mend)
        elif state is not None and state.f_files and state.f_favail < 10_000:
            yield note(name, f"{line}, but only {state.f_favail:,} more files (inodes)", "remove small files there")
        else:
            yield ok(name, line)


def _disks(here: Surroundings) -> dict[int, tuple[list[str], Path]]:
    """What lies on each disk, and a folder on it, which exists."""
    places = {"workspace": Path.cwd(), "DVC's cache": here.cache_folder, "temporary files": Path(tempfile.gettempdir())}
    try:
        from pipeline.download.http import cache_folder

        places["fetched archives"] = cache_folder()
    except ImportError:  # the check of the packages says so
        pass
    found: dict[int, tuple[list[str], Path]] = {}
    for use, place in places.items():
        place = existing(place)
        found.setdefault(place.stat().st_dev, ([], place))[0].append(use)
    return found


def existing(place: Path) -> Path:
    """The place itself, or the nearest folder above it that exists."""
    return next(parent for parent in [place, *place.absolute().parents] if parent.exists())


def _room(place: Path) -> str:
    usage = shutil.disk_usage(place)
    return f"{usage.free / GB:,.1f} GB free of {usage.total / GB:,.1f}"


def _file_system(place: Path) -> str:
    """The kind of the file system that holds a folder."""
    try:
        import psutil

        mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    except (ImportError, OSError):
        return "unknown"
    place = place.resolve()
    return next((mounts[parent] for parent in [place, *place.parents] if mounts.get(parent)), "unknown")


def file_system(_: Surroundings) -> Iterator[Finding]:
    """The workspace's file system is fit for locks and databases, and tells names apart by their case."""
    kind = _file_system(Path.cwd())
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        yield note(
            "file system",
            f"the workspace is on {kind}, a network or guest file system: slow, and its locks may fail",
            "keep the project on a local disk; or `dvc config --local core.hardlink_lock true`",
        )
    if PARAMS.exists() and Path(PARAMS.name.upper()).exists():
        yield note("file system", "does not tell Name from name: folders of two such classes would be one")
