"""Atomic writing: a path never contains half a file. Write to a temporary path in the same folder, then rename."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, unnamed_full_disk

if TYPE_CHECKING:
    import pandas as pd

LEFTOVER = re.compile(
    r"\.(?P<stem>.+)\.(?P<process>[0-9a-f]{6}-\d+-\d+)\.(?P<kind>part|old)(?P<suffix>(\.[^.]*)?)", re.DOTALL
)
SECONDS_OF_OTHER_HOST = 86_400


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder, which replaces ``path`` in one step when the block succeeds.

    On any error, Ctrl-C included, the temporary path is removed and ``path`` keeps its old content. If the process is
    killed, the next command cleans up. Errors name ``path``.

    Raises:
        PipelineError: ``path`` is a device or a pipe.
        IsADirectoryError: the block has written a file, but ``path`` is a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise PipelineError(f"{path}: is a device or a pipe, allowed is a file; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_up(path.parent, path)
    temporary = hidden_path(path, "part")
    try:
        yield temporary
        temporary.stat()  # if nothing was written, the old content stays
        _move(temporary, path)
    except Exception as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        if unnamed_full_disk(error):
            number = error.errno if isinstance(error, OSError) else None
            raise OSError(number or errno.ENOSPC, os.strerror(number or errno.ENOSPC), str(path)) from error
        raise
    finally:
        _remove(temporary)


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Give ``path``, a file or a folder, its content back if the block ends in an error, Ctrl-C included.

    If the process is killed, the next command does. A path that does not exist keeps what the block writes.
    """
    clean_up(path.parent, path)
    if not path.exists():
        yield
        return
    old, temporary = hidden_path(path, "old"), hidden_path(path, "part")
    try:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, temporary)
        temporary.rename(old)
        yield
        old.rename(temporary)
    finally:
        _restore(old, path)
        _remove(temporary)


def clean_up(folder: Path, path: Path | None = None) -> None:
    """Remove what killed processes left in a folder, and restore the old content of what they were changing.

    If only ``path`` is about to be written, no other old content is restored: this process may have written it since.

    A process is known by its host, number and start time. Whether one of another host runs cannot be found out: what it
    has not changed for a day is taken for left behind.
    """
    with suppress(OSError):  # no such folder, or no right to change it
        for leftover in list(folder.iterdir()):
            match = LEFTOVER.fullmatch(leftover.name)
            with suppress(OSError):  # another process cleans up at the same time, or it belongs to another user
                if match and not _is_in_use(leftover, match["process"]):
                    changed = folder / f"{match['stem']}{match['suffix']}"
                    if match["kind"] == "part":
                        _remove(leftover)
                    elif path in (None, changed):
                        _restore(leftover, changed)


def hidden_path(path: Path, kind: str) -> Path:
    """The temporary path of this process in the folder of ``path``; ``old`` content is to be restored."""
    # The suffix stays last: matplotlib and pandas choose the format by it. A name has at most 255 bytes, and only that
    # of old content must be known later.
    stem = path.stem if kind == "old" else path.stem.encode("utf-8", "surrogateescape")[:150].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{_host()}-{os.getpid()}-{_start_time(os.getpid())}.{kind}{path.suffix}")


def _is_in_use(leftover: Path, process: str) -> bool:
    host, pid, start = process.split("-")
    if host != _host():
        files: list[Path] = [leftover, *(leftover.rglob("*") if leftover.is_dir() else ())]
        return max(file.lstat().st_mtime for file in files) > time.time() - SECONDS_OF_OTHER_HOST
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _start_time(int(pid)) in (start, "0")


def _host() -> str:
    """Where the numbers of processes mean the same: a host, or a container, which can have its host's name."""
    name = os.uname().nodename
    with suppress(OSError):  # only on Linux
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(name.encode(), digest_size=3).hexdigest()


def _start_time(pid: int) -> str:
    """When a process started, in ticks since the host did; 0 if the system does not say, nothing if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return "0"
    return "" if state == "Z" else fields[18]


def _move(source: Path, target: Path) -> None:
    """Move a file or a folder to a path. In place of a folder, the two are exchanged where the system can do that."""
    if target.is_dir() and not target.is_symlink() and not source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, which no file replaces; name a file", str(target))
    if not os.path.lexists(target) or not (source.is_dir() or target.is_dir()):
        source.replace(target)
    elif not _exchange(source, target):
        old = hidden_path(target, "old")
        target.rename(old)
        try:
            source.rename(target)
        except BaseException:
            old.rename(target)
            raise
        old.rename(source)


def _restore(old: Path, path: Path) -> None:
    """Give a path its old content back, if there is any."""
    if old.exists():
        temporary = hidden_path(path, "part")
        with suppress(FileNotFoundError):
            path.rename(temporary)
        old.rename(path)
        _remove(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return whether the system and the file system can do that."""
    import ctypes

    libc, paths = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        code: int = libc.renameat2(here, paths[0], here, paths[1], exchange)
    elif hasattr(libc, "renamex_np"):
        code = libc.renamex_np(*paths, 2)  # RENAME_SWAP of macOS
    else:
        return False
    return code == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_table(path: Path, table: "pd.DataFrame", float_format: str | None = None) -> None:
    """Write a table as CSV, without its index."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON, with floats rounded to six decimals.

    Raises:
        ValueError: a float is not finite.
    """
    write_text(path, as_json(content))


def as_json(content: dict[str, Any]) -> str:
    """The text of :func:`write_json`; raises what that raises."""
    return json.dumps(_rounded(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def read_small(path: Path, most: int) -> bytes:
    """Read a file that a user wrote.

    Raises:
        FileNotFoundError: there is none.
        PipelineError: it has more than ``most`` bytes, or is a folder or a pipe, whose end may never come.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise PipelineError(f"{path}: is not a regular file; replace it by one")
    if state.st_size > most:
        raise PipelineError(f"{path}: {state.st_size:,} bytes, allowed are {most:,}; shorten it")
    return path.read_bytes()
