"""Parameters and metrics that differ from those of the last commit.

Metrics are compared only if they are of the same images with the same labels and splits.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.paths import LABEL_FILES, METRICS, PARAMS, SOURCE
from pipeline.common.reading import json_object
from pipeline.common.text import one_line
from pipeline.common.yaml_file import parse_yaml
from pipeline.errors import PipelineError
from pipeline.git import git

# What does not decide which images, labels and splits there are.
SAME_DATA = ("mirrors", "on_bad_image", "corrections", "pseudo_labels")
# What the source, and the files of corrections and pseudo-labels, contain.
FILES = (SOURCE, LABEL_FILES)
# Outputs of the pipeline do not matter for whether the code and the parameters are those of the commit.
OUTPUTS = ("results", "dvc.lock")


@dataclass(frozen=True)
class Change:
    """A value that differs; None if it does not exist."""

    name: str
    old: Any
    new: Any

    @property
    def difference(self) -> float | None:
        """The difference of two numbers."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (self.old, self.new))
        return self.new - self.old if numbers else None


@dataclass(frozen=True)
class Changes:
    """The last commit and the differences from it.

    Attributes:
        problem: the reason why there is no commit to compare with, or empty.
        commit, date, subject: of HEAD; the date as ``2026-01-31``.
        dirty: whether tracked files other than outputs of the pipeline differ from HEAD.
        params, metrics: the values that differ; of other data, no metrics.
        same_data: whether the commit has the same images, labels and splits.
        unknown: files that HEAD does not have, or that cannot be parsed.
    """

    problem: str = ""
    commit: str = ""
    date: str = ""
    subject: str = ""
    dirty: bool = False
    params: list[Change] = field(default_factory=list)
    metrics: list[Change] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    same_data: bool = True


def changes_since_head(params: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> Changes:
    """Compare ``params`` and ``metrics``, the content of the metrics files by name, with HEAD of this repository."""
    try:
        commit, date, *subject = git("show", "-s", "--format=%H%n%cs%n%s", "HEAD").split("\n")
    except PipelineError as error:
        return Changes(_problem(str(error)))
    old_params = _at_head(PARAMS)
    unknown = [] if old_params is not None else [str(PARAMS)]
    same_data = _data(old_params or params, *map(_at_head, FILES)) == _data(params, *map(_now, FILES))
    metric_changes = []
    for name, new in metrics.items() if same_data else ():
        path = METRICS / f"{name}.json"
        old = _at_head(path)
        if old is None:
            unknown.append(path.as_posix())
        else:
            metric_changes += [Change(f"{name}: {key}", *values) for key, values in changed_values(old, new).items()]
    excluded = [f":(exclude){path}" for path in OUTPUTS]
    return Changes(
        commit=commit,
        date=date,
        # A subject in an unknown encoding has bytes that are not printable.
        subject=one_line("".join(subject)),
        dirty=bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)),
        params=[Change(key, *values) for key, values in changed_values(old_params or params, params).items()],
        metrics=metric_changes,
        unknown=unknown,
        same_data=same_data,
    )


def _data(params: dict[str, Any], source: dict[str, Any] | None, labels: dict[str, Any] | None) -> tuple[Any, ...]:
    """What decides which images, labels and splits there are, with the contents of ``FILES``."""
    section = params.get("data")
    data = {name: value for name, value in section.items() if value is not None} if isinstance(section, dict) else {}
    # The files themselves, by their hash, or that of the archive, and not the folder in which they are.
    place = ("location",) if "sha256" in {*(source or {}), *data} else ()
    return (
        {name: value for name, value in data.items() if name not in (*SAME_DATA, *place)},
        source or {},
        labels or {},
    )


def _problem(message: str) -> str:
    if "not a git repository" in message:
        return "this folder is not in a git repository"
    if "safe.directory" in message:
        return "git does not trust the owner of this folder"
    return message if "not installed" in message else "the git repository has no commits"


def _at_head(path: Path) -> dict[str, Any] | None:
    """The mapping in a file at HEAD; None if there is no such file, or it cannot be parsed."""
    try:
        text = git("show", f"HEAD:./{path.as_posix()}")
        content = parse_yaml(text, path.name) if path == PARAMS else json.loads(text)
    except (PipelineError, RecursionError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _now(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    with suppress(OSError, ValueError):
        return json_object(path.read_text("utf-8"))
    return {}


def changed_values(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The old and new value of each leaf that differs, by its dotted name; None if it does not exist."""
    before, after = flattened(old), flattened(new)
    pairs = {name: (before.get(name), after.get(name)) for name in {**after, **before}}
    return {
        name: (a, b)
        for name, (a, b) in pairs.items()
        # 1 and 1.0 are equal, true and 1 are not.
        if a != b or isinstance(a, bool) != isinstance(b, bool)
    }


def flattened(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            leaves |= flattened(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
