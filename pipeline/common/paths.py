"""Where each stage's files lie, relative to the repository root, where DVC starts every command."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
SWEEP_FILES = Path("sweeps")
# A folder of which git ignores all: dvc exp apply can lose ignored files beside others that git does not know.
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

    An experiment of ``dvc exp run --temp`` or ``--queue`` runs in a workspace of its own below ``.dvc/tmp``, which is
    removed afterwards: there it is the repository around it.
    """
    here = Path.cwd()
    return next((parent.parent.parent for parent in here.parents if parent.parts[-2:] == (".dvc", "tmp")), here)


def user_path(location: str) -> Path:
    """A path as the user wrote it into ``params.yaml``: relative to the repository that he works in."""
    root = repository_root()
    return Path(location) if root == Path.cwd() else root / location
