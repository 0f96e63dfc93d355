"""The numbers of a stage: a few to decide by, which git and DVC show, and all the others.

The few fit a table of ``dvc exp show --only-changed`` on a terminal of 160 columns, beside a parameter that changed.
"""

import json
from typing import Any

from pipeline.common.files import write_json
from pipeline.common.paths import DETAILS, METRICS
from pipeline.errors import PipelineError

# The stage that writes the results of each name.
STAGES = {"audit": "augment", "train": "train", "evaluate": "evaluate", "tsne": "tsne"}


def write_results(name: str, metrics: dict[str, float], details: dict[str, Any]) -> None:
    """Write ``results/metrics/{name}.json``, which ``dvc metrics diff`` and ``dvc exp show`` print, and
    ``results/details/{name}.json``, an output of DVC, with everything else."""
    write_json(METRICS / f"{name}.json", metrics)
    write_json(DETAILS / f"{name}.json", details)


def read_results(name: str) -> dict[str, Any]:
    """Read both files of ``write_results`` into one mapping.

    Raises:
        PipelineError: one of them is missing, or is not a JSON object.
    """
    results: dict[str, Any] = {}
    for path in (METRICS / f"{name}.json", DETAILS / f"{name}.json"):
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise PipelineError(f"{path}: no such file; run dvc repro {STAGES[name]}") from None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise PipelineError(f"{path}: is not a JSON object; run dvc repro --force {STAGES[name]}")
        results |= content
    return results
