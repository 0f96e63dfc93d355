"""What was predicted for files, as a CSV file or as a table for a terminal."""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.common.files import replacing
from pipeline.errors import shown_name

COLUMNS = ["path", "predicted", "confidence"]


@dataclass(frozen=True)
class Predictions:
    """What was predicted.

    Attributes:
        classes: the class names.
        paths: of the files that could be read, in order.
        probabilities: of each of them, ``float32``, ``(files, classes)``.
        failures: for each of the others, why not.
        seconds: from the first file's opening to the last one's result.
    """

    classes: tuple[str, ...]
    paths: list[Path]
    probabilities: NDArray[np.float32]
    failures: dict[Path, str]
    seconds: float


def write_csv(path: Path, found: Predictions) -> None:
    """Write a row a file: ``COLUMNS``, then the probability of each class, to six decimals."""
    best = found.probabilities.argmax(axis=1)
    # A file's name may hold bytes that are no UTF-8: they come out as they are.
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *found.classes])
        for name, index, row in zip(found.paths, best, found.probabilities, strict=True):
            numbers = [f"{probability:.6f}" for probability in row]
            writer.writerow([name, found.classes[index], numbers[index], *numbers])


def print_table(found: Predictions, top: int) -> None:
    """Print a row a file: its class, how probable that is, and the next best; as wide as the terminal, or in a pipe
    one line each."""
    order = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :top]
    header = ["file", "class", "probability", *(["next best"] if order.shape[1] > 1 else [])]
    classes = [shown_name(name) for name in found.classes]
    rows = []
    for path, (best, *others), row in zip(found.paths, order, found.probabilities, strict=True):
        next_best = ", ".join(f"{classes[index]} {row[index]:.1%}" for index in others)
        rows.append([shown_name(path), classes[best], f"{row[best]:.1%}", *([next_best] if others else [])])
    if sys.stdout.isatty():
        _print_grid(header, rows)
        return
    widths = [max(cell_len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def _print_grid(header: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold", no_wrap=name == "probability", justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)
