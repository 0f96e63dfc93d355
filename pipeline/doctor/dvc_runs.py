"""Checks of what runs, waits or was left behind: DVC's locks, the queue, experiments and checkpoints."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.git import age
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import listed

TEMPORARY = Path(".dvc/tmp")
CHECKPOINTS = Path(".checkpoints")  # pipeline.train.checkpoint has it too, but imports torch


def lock(_: Surroundings) -> Iterator[Finding]:
    """No other command of DVC holds the repository, and none that was killed does so still."""
    held = _holder(TEMPORARY / "lock")
    if held:
        yield note("lock", f"another DVC command runs: {_process(held)}; a second one stops", "wait for it")
    path = TEMPORARY / "rwlock"
    if not path.is_file() or not path.read_bytes().strip():
        yield from [] if held else [ok("lock", "free")]
        return
    try:
        content = json.loads(path.read_text("utf-8"))
        holders = {int(one["pid"]): str(one["cmd"]) for one in _entries(content)}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        yield error("lock", f"{path} is damaged ({problem}): every dvc repro stops", f"`rm {path}`")
        return
    yield from _judge(holders, path, held is not None)


def _entries(content: dict) -> Iterator[dict]:  # type: ignore[type-arg]
    yield from content.get("write", {}).values()
    for readers in content.get("read", {}).values():
        yield from readers


def _judge(holders: dict[int, str], path: Path, told: bool) -> Iterator[Finding]:
    """A number of a process may have passed on to another program, which DVC then waits for for ever."""
    import psutil

    alive = {pid: command for pid, command in holders.items() if psutil.pid_exists(pid)}
    others = [pid for pid in alive if not _is_dvc(pid)]
    if others:
        yield error(
            "lock",
            f"{path} names the process {others[0]}, which is {_process(others[0])} and not DVC: dvc repro stops",
            f"`rm {path}`",
        )
    elif alive:
        pid, command = next(iter(alive.items()))
        yield note("lock", f"`{command}` runs as process {pid}: another one on the same files stops", "wait for it")
    elif holders:
        yield ok("lock", f"free; a command that was killed ({next(iter(holders.values()))}) left it, DVC takes it over")
    elif not told:
        yield ok("lock", "free")


def _holder(path: Path) -> int | None:
    """The process that holds DVC's lock now; the file itself always stays."""
    try:
        import fcntl

        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text.isdigit() else 0
            fcntl.flock(file, fcntl.LOCK_UN)
    except (OSError, ImportError):
        pass
    return None


def _process(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        since = age(time.time() - process.create_time())
        return f"{process.name()} (process {pid}, since {since})"
    except psutil.Error:
        return f"process {pid}"


def _is_dvc(pid: int) -> bool:
    import psutil

    try:
        return any("dvc" in Path(part).name for part in psutil.Process(pid).cmdline())
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def queue(here: Surroundings) -> Iterator[Finding]:
    """Experiments of the queue that wait, run or failed."""
    counts = {name: _entries_of(here, f"refs/exps/celery/{name}") for name in ("stash", "failed")}
    workers = _workers()
    if workers:
        line = f"experiments run beside this (worker {listed(workers)}) and share the machine"
        yield note("queue", line, "`dvc queue status`; `dvc queue stop` ends them after their experiment")
    elif counts["stash"]:
        yield note(
            "queue",
            f"{counts['stash']} experiments wait, and no worker runs",
            "`dvc queue start`, or `dvc queue remove --queued`",
        )
    if counts["failed"]:
        mend = "`dvc queue status`, `dvc queue logs NAME`; `dvc queue remove --failed` forgets them"
        yield note("queue", f"{counts['failed']} experiments failed", mend)
    if not workers and not any(counts.values()):
        yield ok("queue", "empty")


def _entries_of(here: Surroundings, reference: str) -> int:
    """How many entries a stash has."""
    answer = here.git("reflog", "show", "--format=%H", reference, "--")
    return len(answer.text.split()) if answer else 0


def _workers() -> list[int]:
    """The processes that work on this repository's queue; DVC names them by its folder's hash."""
    import hashlib

    import psutil

    folder = hashlib.sha256(str((TEMPORARY / "exps/celery").absolute()).encode()).hexdigest()[:6]
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if "queue-worker" in command and any(part.startswith(f"dvc-exp-{folder}-") for part in command):
            found.append(process.info["pid"])
    return found


def leftovers(_: Surroundings) -> Iterator[Finding]:
    """Temporary workspaces of experiments that are running, or were killed."""
    folders = [path for path in TEMPORARY.glob("exps/tmp*") if path.is_dir()]
    folders += [path for path in TEMPORARY.glob("exps/standalone/tmp*") if path.is_dir()]
    folders += [path for path in TEMPORARY.glob("seeds/*") if path.is_dir()]
    if folders:
        size = sum(file.lstat().st_size for folder in folders for file in folder.rglob("*") if not file.is_dir())
        yield note(
            "experiments",
            f"{len(folders)} temporary workspaces ({size / 1e6:,.0f} MB), of experiments that run or were killed",
            "if none runs: " + f"`rm -r {' '.join(shell_path(folder) for folder in folders[:3])}`",
        )


def checkpoints(_: Surroundings) -> Iterator[Finding]:
    """Trainings that were stopped wait to go on."""
    files = sorted(CHECKPOINTS.glob("*.pt"), key=lambda path: -path.stat().st_mtime)
    for path in [path for path in files if not path.name.startswith(".")][:5]:
        state = path.stat()
        yield note(
            "checkpoint",
            f"{path}, {state.st_size / 1e6:,.1f} MB, {age(time.time() - state.st_mtime)} old: of a training that runs "
            "or was stopped",
            f"`dvc repro` goes on from it if parameters, data and code are still the same; else `rm {path}`",
        )
