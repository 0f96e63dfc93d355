"""The numbers of a stage: a few to decide by, which git and DVC show, and all the others.

The few fit a table of ``dvc exp show --only-changed`` on a terminal of 160 columns, beside a parameter that changed.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.common.files import as_json, write_json
from pipeline.common.paths import DETAILS, METRICS
from pipeline.common.reading import checked, file_checksum, json_object, reading, with_checksum

RESULTS = ("audit", "train", "evaluate", "tsne")
FILES = "files"


def write_results(name: str, metrics: dict[str, float], details: dict[str, Any], *tables: Path) -> None:
    """Write ``results/metrics/{name}.json``, which ``dvc metrics diff`` and ``dvc exp show`` print, and
    ``results/details/{name}.json``, an output of DVC, with everything else.

    The latter also has the checksums of both files and of ``tables``, the stage's tables that another stage reads.
    """
    files = {path.as_posix(): file_checksum(path) for path in sorted(tables)}
    metrics, details = (json.loads(as_json(content)) for content in (metrics, {**details, FILES: files}))
    write_json(METRICS / f"{name}.json", metrics)
    write_json(DETAILS / f"{name}.json", with_checksum(details, metrics))


def read_results(name: str) -> dict[str, Any]:
    """Read both files of ``write_results`` into one mapping; the checksums of the tables are its ``files``.

    Raises:
        PipelineError: one of them is missing or damaged, or they are not of the same run.
    """
    metrics, details = METRICS / f"{name}.json", DETAILS / f"{name}.json"
    with reading(metrics):
        content = json_object(metrics.read_text("utf-8"))
    with reading(details):
        return content | checked(details.read_text("utf-8"), content)
