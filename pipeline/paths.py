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
AUDIT_PAGE = Path("results/audit.html")
AUDIT_TABLE = Path("results/audit.csv")
METRICS = Path("results/metrics")
PLOTS = Path("results/plots")
EVALUATION = Path("results/evaluation")
PREDICTIONS = Path("results/predictions")
LIVE = Path("results/live")
