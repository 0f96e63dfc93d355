"""What is new since the last commit: its parameters and metrics beside those that lie here now."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.common.paths import METRICS, PARAMS

# What the pipeline itself writes says nothing about whether the code and the parameters are those of the commit.
WRITTEN = ("results", "dvc.lock")


@dataclass(frozen=True)
class Change:
    """A value that is not what it was; None stands for one that was not there, or is no more."""

    name: str
    old: Any
    new: Any

    @property
    def difference(self) -> float | None:
        """How much a number grew."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (self.old, self.new))
        return self.new - self.old if numbers else None


@dataclass(frozen=True)
class Changes:
    """The commit and what changed since.

    Attributes:
        problem: why there is nothing to compare with; empty where there is.
        commit, date, subject: of HEAD; the date as ``2026-01-31``.
        dirty: whether tracked files other than the pipeline's own outputs differ from HEAD.
        params, metrics: what changed.
        unknown: files that HEAD does not have, or not in a form that can be read.
    """

    problem: str = ""
    commit: str = ""
    date: str = ""
    subject: str = ""
    dirty: bool = False
    params: list[Change] = field(default_factory=list)
    metrics: list[Change] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def changes_since_head(params: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> Changes:
    """Compare ``params`` and ``metrics`` (by file name) with those in HEAD of the repository around this folder."""
    try:
        commit, date, subject = _git("show", "-s", "--format=%H%n%cs%n%s", "HEAD").split("\n")[:3]
    except FileNotFoundError:
        return Changes("git is not installed")
    except subprocess.CalledProcessError as error:
        return Changes(_reason(error))
    old_params = _parsed(_in_head(PARAMS))
    unknown = [] if old_params is not None else [str(PARAMS)]
    changed = []
    for name, new in metrics.items():
        path = METRICS / f"{name}.json"
        old = _parsed(_in_head(path))
        if old is None:
            unknown.append(path.as_posix())
        else:
            changed += [Change(f"{name}: {key}", *values) for key, values in changed_values(old, new).items()]
    return Changes(
        commit=commit,
        date=date,
        subject=subject,
        dirty=_is_dirty(),
        params=[Change(key, *values) for key, values in changed_values(old_params or params, params).items()],
        metrics=changed,
        unknown=unknown,
    )


def _git(*arguments: str) -> str:
    # In English, because its complaints are read; without locks, which would disturb a git beside this one.
    command, environment = ["git", "--no-optional-locks", *arguments], {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, check=True, encoding="utf-8", errors="replace", env=environment
    ).stdout


def _reason(error: subprocess.CalledProcessError) -> str:
    if "not a git repository" in error.stderr:
        return "this folder is in no git repository"
    if "dubious ownership" in error.stderr:
        return "git does not trust the owner of this folder"
    return "the git repository has no commit yet"


def _in_head(path: Path) -> str | None:
    try:
        return _git("show", f"HEAD:./{path.as_posix()}")
    except subprocess.CalledProcessError:
        return None


def _is_dirty() -> bool:
    others = [f":(exclude){path}" for path in WRITTEN]
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", *others).strip())


def _parsed(text: str | None) -> dict[str, Any] | None:
    """A mapping in YAML, of which JSON is a part, or None."""
    try:
        content = read_mapping(text or "")
    except (YAMLError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_mapping(text: str) -> Any:
    """Parse JSON or YAML 1.2."""
    try:
        return json.loads(text)
    except ValueError:
        return YAML(typ="safe", pure=True).load(text)


def changed_values(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The leaves that differ by their dotted names, each with its old and new value; None where there is none."""
    before, after = flattened(old), flattened(new)
    names = [*after, *(name for name in before if name not in after)]
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {
        name: values
        for name, values in pairs.items()
        # 1 and 1.0 are the same, true and 1 are not.
        if values[0] != values[1] or isinstance(values[0], bool) != isinstance(values[1], bool)
    }


def flattened(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping by their dotted names; the rows of a table by their class or layer."""
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(row, dict) and _title(row) for row in value):
            value = {row[_title(row)]: {k: v for k, v in row.items() if k != _title(row)} for row in value}
        if isinstance(value, dict) and value:
            leaves |= flattened(value, f"{name}.")
        else:
            leaves[name] = value
    return leaves


def _title(row: dict[str, Any]) -> str | None:
    return next((key for key in ("class", "layer") if key in row), None)
