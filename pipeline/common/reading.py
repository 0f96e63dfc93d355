"""Reading the files of other stages: a missing or damaged one ends in one line, with the command that restores it.

What a stage writes for another one has a checksum, CRC-32 as in zip files: changed, lost and exchanged bytes are
noticed before they are used, at 3 GB/s. It is no protection from someone who changes a file on purpose.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.common.code import ROOT
from pipeline.common.text import one_line
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError

CHECKSUM = "checksum"
BLOCK = 2**20


@contextmanager
def reading(path: Path, fix: str = "") -> Iterator[None]:
    """Turn any error of reading a file into one line: the file, what is wrong, and the command that restores it.

    A library can raise anything for a damaged file, so every exception counts as damage; the block should do nothing
    but read, and check what it read.

    Args:
        path: of the file.
        fix: what to do; by default, the commands that restore this output of a stage.

    Raises:
        PipelineError: the block raised an exception, or the path is no regular file, which could block or never end.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("is not a regular file")
        yield
    except (PipelineError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such file; {fix or _made_by(path)}") from error
    except Exception as error:
        text = (error.strerror if isinstance(error, OSError) else "") or str(error)
        if not text or not isinstance(error, OSError | ValueError):
            text = f"{type(error).__name__}: {text}"  # a KeyError is only a key
        raise PipelineError(
            f"{path}: cannot be used ({one_line(text)[:200]}); {fix or restore_commands(path)}"
        ) from error


def restore_commands(path: Path) -> str:
    """The commands that restore a damaged output: from DVC's cache or from git, and by its stage."""
    stage, output, in_git = _output(path)
    if not stage:
        return "use an intact copy"
    return f"run {'git checkout' if in_git else 'dvc checkout --force'} {output}, or dvc repro --force {stage}"


def _made_by(path: Path) -> str:
    stage, *_ = _output(path)
    return f"run dvc repro {stage}" if stage else "check the path"


def _output(path: Path) -> tuple[str, str, bool]:
    """The stage that writes a file, its output in ``dvc.yaml`` and whether git tracks that; empty for another file."""
    return next((output for output in _outputs() if path.is_relative_to(output[1])), ("", "", False))


@cache
def _outputs() -> list[tuple[str, str, bool]]:
    found = []
    for stage, content in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        for output in [*content.get("outs", []), *content.get("metrics", [])]:
            name, options = (output, {}) if isinstance(output, str) else next(iter(output.items()))
            found.append((stage, name, not options.get("cache", True)))
    return found


def checksum(parts: Iterable[bytes | memoryview]) -> str:
    """The checksum of some bytes, one part after the other."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"


def file_checksum(path: Path) -> str:
    """The checksum of a file, which may be larger than the memory."""
    with path.open("rb", buffering=0) as file:
        return checksum(iter(lambda: file.read(BLOCK), b""))


def require_checksum(found: str, expected: Any) -> None:
    """Compare two checksums.

    Raises:
        ValueError: they differ.
    """
    if found != expected:
        raise ValueError("its checksum is wrong")


def checked_bytes(path: Path, expected: Any) -> bytes:
    """Read a file with a checksum.

    Raises:
        ValueError: it has another one.
    """
    content = path.read_bytes()
    require_checksum(checksum([content]), expected)
    return content


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is none.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    return content


def with_checksum(content: dict[str, Any], *others: Any) -> dict[str, Any]:
    """Add the checksum of a mapping for JSON, and of ``others`` that belong to it."""
    return content | {CHECKSUM: _json_checksum(content, *others)}


def checked(text: str, *others: Any) -> dict[str, Any]:
    """The mapping that was given to :func:`with_checksum`, from its text.

    Raises:
        ValueError: it is none, or it has changed.
    """
    content = json_object(text)
    found = content.pop(CHECKSUM, None)
    if _json_checksum(content, *others) != found:
        raise ValueError(f"its checksum is wrong{', or it is from another run than its metrics' if others else ''}")
    return content


def _json_checksum(*contents: Any) -> str:
    # The text of the file may change: git can convert the ends of its lines.
    return checksum([json.dumps(contents).encode("utf-8", "surrogatepass")])
