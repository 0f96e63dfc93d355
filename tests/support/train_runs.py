"""Runs of ``python -m pipeline train`` as processes, and what they wrote."""

import hashlib
import json
import os
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.common.paths import LIVE, METRICS, MODEL, PLOTS
from tests.support.sections import EVERYTHING, TRAIN
from tests.support.sections import MODEL as MODEL_PARAMS

ROOT = Path(__file__).parents[2]
STATEFUL = {**TRAIN, **EVERYTHING, "epochs": 25}
DROPOUT = {**MODEL_PARAMS, "dropout": 0.2}


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **values}


def outputs() -> dict[str, str]:
    """The hash of every file that the stage writes."""
    files = [MODEL, METRICS / "train.json", PLOTS / "steps.csv", *LIVE.rglob("*.tsv")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def params_yaml() -> str:

    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["train"] = {**STATEFUL, "epochs": 60}
    params["model"] = DROPOUT
    return json.dumps(params)
