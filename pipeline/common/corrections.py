"""``data.corrections``: a CSV file of labels that a person has corrected, and of images to leave out."""

import csv
import io
from pathlib import Path

from pipeline.common.reading import reading
from pipeline.common.text import shortened
from pipeline.errors import PipelineError

DROP = "drop"
COLUMNS = ["id", "label"]


def read_corrections(file: str | None) -> dict[str, str]:
    """Read a CSV file with the columns id, the path of an image in the source, and label, a class or ``drop``.

    Returns:
        The label of each id; empty without a file.

    Raises:
        PipelineError: the file is missing, it is no such table, or an id is there twice.
    """
    if not file:
        return {}
    path = Path(file)
    if not path.is_file():
        refuse(path, "no such file in this folder; check the path, or set data.corrections to null")
    with reading(path):
        text = path.read_bytes().decode("utf-8-sig")
    header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    if header != COLUMNS:
        refuse(path, f"its first line is {shortened(','.join(header))!r}, allowed is id,label")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(COLUMNS) or not all(row):
            refuse(path, f"row {number} is {shortened(','.join(row))!r}, allowed are an id and a label")
        if row[0] in found:
            refuse(path, f"row {number}: {row[0]} is there twice; remove one of them")
        found[row[0]] = row[1]
    return found


def refuse(path: Path | str, problem: str) -> None:
    """Raise the error that names the parameter and the file."""
    raise PipelineError(f"data.corrections: {path}: {problem}")
