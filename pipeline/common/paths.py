"""The paths of each stage's files, relative to the repository root, where DVC starts every command."""

import itertools
import os
import re
from pathlib import Path

from pipeline.common.text import hide
from pipeline.errors import PipelineError

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
# Git ignores the whole folder: dvc exp apply can lose ignored files next to untracked ones.
SWEEPS = Path(".sweeps")

SOURCE = Path("data/source.json")
PRETRAINED_SOURCE = Path("data/pretrained.json")
PRETRAINED = Path("data/pretrained.safetensors")
LABEL_FILES = Path("data/label_files.json")
RAW_ARCHIVE = Path("data/raw.zip")
DATASET = Path("data/dataset")

MODEL = Path("results/model.safetensors")
ONNX = Path("results/model.onnx")
CARD = Path("results/model_card.md")
REPORT = Path("results/report.html")
AUDIT_PAGE = Path("results/audit.html")
AUDIT_TABLE = Path("results/audit.csv")
METRICS = Path("results/metrics")
DETAILS = Path("results/details")
PLOTS = Path("results/plots")
BATCH = PLOTS / "train_batch.png"
EVALUATION = Path("results/evaluation")
PREDICTIONS = Path("results/predictions")
LIVE = Path("results/live")
SALIENCY = Path("results/saliency.json")


def written_folders() -> list[Path]:
    """The folders of this repository that commands write to."""
    trees = (METRICS.parent.glob("**/"), SWEEPS.glob("**/"), Path(".dvc/tmp").glob("*/"))
    return [SOURCE.parent, Path(".checkpoints"), *itertools.chain(*trees)]


def repository_root() -> Path:
    """The repository that the user works in.

    ``dvc exp run --temp`` and ``--queue`` run an experiment in a temporary workspace below ``.dvc/tmp``; in it, this is
    the repository that contains the workspace.
    """
    folder = Path.cwd()
    return next((parent.parent.parent for parent in folder.parents if parent.parts[-2:] == (".dvc", "tmp")), folder)


def with_variables(location: str, name: str = "data.location") -> str:
    """Replace each ``$NAME`` in a location by that environment variable, of which no message shows the value.

    A name has upper-case letters, digits and underscores; any other ``$`` stays as it is. The result is for fetching
    and reading alone, and never written. DVC would replace ``${NAME}`` itself.

    Raises:
        PipelineError: a variable is not set or empty; ``name`` is that of the parameter.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "")
        if not found:
            raise PipelineError(
                f"{name}: the environment variable {match[1]} is not set; set it: export {match[1]}=..."
            )
        hide(found.rstrip("/"), match[0])
        return found

    return re.sub(r"\$([A-Z_][A-Z0-9_]*)", value, location)


def user_path(location: str, name: str = "data.location") -> Path:
    """Resolve a path from ``params.yaml``, which is relative to the repository that the user works in.

    Args:
        location: ``~`` and ``~user`` at its start are home folders.
        name: of the parameter.

    Raises:
        PipelineError: there is no such home folder.
    """
    root, path = repository_root(), expanded(location, name)
    return path if root == Path.cwd() else root / path


def table_path(table: str) -> Path:
    """The path of a table of ``data.labels``: in this workspace, as an experiment's commit has it if git tracks it, or
    else where the user has it."""
    here = expanded(table, "data.labels")
    return here if here.is_file() else user_path(table, "data.labels")


def expanded(path: str, name: str) -> Path:
    """A path with ``~`` and ``~user`` replaced by the home folder, as a shell does.

    Raises:
        PipelineError: it is a URL, or there is no such home folder; ``name`` is that of the parameter or the
            environment variable.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|(//)?[^/\\:@]{2,}:[^@]*@", path):
        raise PipelineError(f"{name}: got the URL {path}, allowed is a path on this machine; download it first")
    text = os.path.expanduser(path)  # noqa: PTH111
    if text.startswith("~"):
        raise PipelineError(
            f"{name}: got {path}, but there is no home folder {path.partition('/')[0]} on this machine; write the "
            f"whole path, or ./{path} for a folder of that name here"
        )
    return Path(text)


def is_url(location: str) -> bool:
    """Whether a location is a URL and not a path."""
    return location.lower().startswith(("http://", "https://"))
