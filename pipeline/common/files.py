"""Atomic writing: a path never contains half a file. Write to a temporary path in the same folder, then rename."""

import errno
import glob
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, unnamed_full_disk

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder, which replaces ``path`` when the block succeeds.

    On any error, Ctrl-C included, the temporary path is removed and ``path`` keeps its old content. If the process is
    killed, the next call for the same path cleans up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean_up(path)
    # The suffix stays last: matplotlib and pandas choose the format by it.
    temporary, old = (path.with_name(f".{path.stem}.{os.getpid()}.{kind}{path.suffix}") for kind in ("part", "old"))
    try:
        yield temporary
        temporary.stat()  # if nothing was written, the old content stays
        if path.exists() and (temporary.is_dir() or path.is_dir()):
            # A folder cannot replace another path in one step.
            path.rename(old)
            temporary.rename(path)
        else:
            temporary.replace(path)
    except Exception as error:
        if unnamed_full_disk(error):
            number = error.errno if isinstance(error, OSError) else None
            raise OSError(number or errno.ENOSPC, os.strerror(number or errno.ENOSPC), str(path)) from error
        raise
    finally:
        _clean_up(path)


def _clean_up(path: Path) -> None:
    """Remove what this process and killed ones left; old content without a successor is restored."""
    for kind in ("old", "part"):
        for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.{kind}{glob.escape(path.suffix)}"):
            pid = leftover.name.removeprefix(f".{path.stem}.").removesuffix(f".{kind}{path.suffix}")
            if not pid.isdigit() or _is_running_elsewhere(int(pid)):
                continue
            with suppress(FileNotFoundError):  # another process cleans up at the same time
                if kind == "old" and not path.exists():
                    leftover.rename(path)
                elif leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()


def _is_running_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
