"""Writing files so that a final path never holds half a file: write beside it, then rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write a file or a folder to; on success it takes ``path``'s place.

    On any error, Ctrl-C included, what was written is removed and ``path`` keeps what it held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays last: matplotlib and pandas choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    for leftover in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
        if not _is_running(leftover.name.removesuffix(f".part{path.suffix}").rpartition(".")[2]):
            _remove(leftover)
    try:
        yield beside
        beside.stat()  # where nothing was written, the old content stays
        old = beside.with_name(f"{beside.name}.old{beside.suffix}")
        if path.exists() and (beside.is_dir() or path.is_dir()):
            # A folder cannot be renamed over another one: the old one steps aside until the new one stands.
            path.rename(old)
            beside.rename(path)
            _remove(old)
        else:
            beside.replace(path)
    finally:
        _remove(beside)


def _is_running(pid: str) -> bool:
    """Whether a process other than this one has the number: what a killed one left behind is nobody's."""
    if not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with replacing(path) as beside:
        beside.write_text(text, "utf-8")


def write_table(path: Path, table: "pd.DataFrame", float_format: str | None = None) -> None:
    """Write a table as CSV, without its index."""
    with replacing(path) as beside:
        table.to_csv(beside, index=False, float_format=float_format)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON, floats to six decimals: enough to compare, few enough to read."""
    write_text(path, json.dumps(_rounded(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
