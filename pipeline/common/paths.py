"""The paths of each stage's files, relative to the repository root, where DVC starts every command."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
# Git ignores the whole folder: dvc exp apply can lose ignored files next to untracked ones.
SWEEPS = Path(".sweeps")

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
EVALUATION = Path("results/evaluation")
PREDICTIONS = Path("results/predictions")
LIVE = Path("results/live")


def repository_root() -> Path:
    """The repository that the user works in.

    ``dvc exp run --temp`` and ``--queue`` run an experiment in a temporary workspace below ``.dvc/tmp``; in it, this is
    the repository that contains the workspace.
    """
    folder = Path.cwd()
    return next((parent.parent.parent for parent in folder.parents if parent.parts[-2:] == (".dvc", "tmp")), folder)


def user_path(location: str) -> Path:
    """Resolve a path from ``params.yaml``, which is relative to the repository that the user works in."""
    root = repository_root()
    return Path(location) if root == Path.cwd() else root / location
