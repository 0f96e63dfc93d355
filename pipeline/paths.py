"""Where each stage's files lie, relative to the repository root, where DVC starts every command."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")

RAW_ARCHIVE = Path("data/raw.zip")
DATASET = Path("data/dataset")

MODEL = Path("results/model.safetensors")
AUDIT_PAGE = Path("results/audit.html")
AUDIT_TABLE = Path("results/audit.csv")
METRICS = Path("results/metrics")
PLOTS = Path("results/plots")
EVALUATION = Path("results/evaluation")
PREDICTIONS = Path("results/predictions")
LIVE = Path("results/live")


def repository_root() -> Path:
    """The current folder; in a temporary workspace of DVC, which is removed, that of the repository around it.

    Such are those of ``dvc exp run --temp`` and ``--queue``, inside ``.dvc/tmp``.
    """
    here = Path.cwd()
    return next((parent.parent.parent for parent in here.parents if parent.parts[-2:] == (".dvc", "tmp")), here)
