"""``data.corrections`` and ``data.pseudo_labels``: CSV files with a label for some images of the source.

A file is in git, or DVC tracks it (``dvc add``); then its content may be in DVC's cache or remote storage only.
"""

import csv
import io
import unicodedata
from pathlib import Path
from typing import NoReturn

from pipeline.common.reading import reading
from pipeline.common.text import one_line, shortened
from pipeline.errors import PipelineError

DROP = "drop"
# By the name of the parameter; an id is the path of an image in the source.
COLUMNS = {"corrections": ["id", "label"], "pseudo_labels": ["id", "label", "confidence"]}


def read_label_file(name: str, file: str | None) -> dict[str, list[str]]:
    """Read the CSV file of the parameter ``data.{name}``.

    Returns:
        The label of each id, and what follows it in its row; empty without a file.

    Raises:
        PipelineError: the file is missing, it is no such table, or an id is there twice.
    """
    if not file:
        return {}
    columns = COLUMNS[name]
    with reading(Path(file)):
        text = unicodedata.normalize("NFC", label_file_bytes(name, file).decode("utf-8-sig"))
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:  # of a quotation mark without another one
        refuse(name, file, f"{error}; correct it")
    if header != columns:
        refuse(name, file, f"its first line is {shortened(','.join(header))!r}, allowed is {','.join(columns)}")
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(columns) or not all(row):
            refuse(name, file, f"row {number} is {shortened(','.join(row))!r}, allowed are {', '.join(columns)}")
        if row[0] in found:
            refuse(name, file, f"row {number}: {row[0]} is there twice; remove one of them")
        found[row[0]] = row[1:]
    return found


def read_corrections(file: str | None) -> dict[str, str]:
    """The label, or ``drop``, of each id in the file ``data.corrections``; see :func:`read_label_file`."""
    return {id: label for id, (label,) in read_label_file("corrections", file).items()}


def label_file_bytes(name: str, file: str) -> bytes:
    """The content of the file; one that DVC tracks is read from its cache or remote storage if it is not here.

    Raises:
        PipelineError: it is in neither of them.
    """
    path = Path(file)
    if path.is_file():
        return path.read_bytes()
    if not dvc_file(file).is_file():
        refuse(name, file, f"no such file in this folder; check the path, or set data.{name} to null")
    from dvc.api import DVCFileSystem

    try:
        return bytes(DVCFileSystem().cat_file(path.as_posix()))
    except Exception as error:  # a remote storage may raise anything
        reason = one_line(str(error))[:200] or type(error).__name__
        refuse(name, file, f"is neither in DVC's cache nor in a remote storage ({reason}); run dvc pull where it is")


def dvc_file(file: str) -> Path:
    """The file with which DVC tracks a file."""
    return Path(f"{file}.dvc")


def refuse(name: str, file: str | None, problem: str) -> NoReturn:
    """Raise the error that names the parameter and the file."""
    raise PipelineError(f"data.{name}: {file}: {problem}")
