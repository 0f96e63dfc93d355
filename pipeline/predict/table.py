"""The predictions for image files, as a CSV file or as a table in the terminal."""

import csv
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.table import Column

from pipeline.common.files import replacing
from pipeline.common.text import shown_name
from pipeline.errors import PipelineError
from pipeline.network.answers import Answers
from pipeline.progress import say, say_table

COLUMNS = ["path", "predicted", "confidence", "answer", "energy", "outlier"]


@dataclass(frozen=True)
class Predictions:
    """The predictions for image files.

    Attributes:
        classes: the class names.
        paths: the files that could be read, in order.
        probabilities: of each of them, ``float32``, ``(files, classes)``.
        energies: the energy score of each of them, ``(files,)``.
        failures: the reason for each file that could not be read.
        seconds: from opening the first file to the last result.
    """

    classes: tuple[str, ...]
    paths: list[Path]
    probabilities: NDArray[np.float32]
    energies: NDArray[np.float64]
    failures: dict[Path, str]
    seconds: float


def probability_columns(classes: Iterable[str]) -> list[str]:
    """The column of each class, ``p_`` and its name: a class may be called ``Id`` or ``path``."""
    return [f"p_{name}" for name in classes]


def require_csv(option: str, path: Path | None) -> None:
    """Check that the value of an option can be the path of a CSV file to write.

    Raises:
        PipelineError: it cannot.
    """
    if path is None:
        return
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise PipelineError(f"{option}: got {str(path)!r}, allowed is the name of a file that ends in .csv")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise PipelineError(f"{option}: {folder} cannot be written to; name a file in another folder")


def write_csv(path: Path, found: Predictions, answers: Answers) -> None:
    """Write one row per file: ``COLUMNS``, then the probability of each class to six decimals."""
    best = found.probabilities.argmax(axis=1)
    # Names that are not UTF-8 are written with their original bytes.
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *probability_columns(found.classes)])
        judged = zip(answers.answer, found.energies, answers.outlier, strict=True)
        for name, index, row, (answer, energy, outlier) in zip(
            found.paths, best, found.probabilities, judged, strict=True
        ):
            numbers = [f"{probability:.6f}" for probability in row]
            writer.writerow([name, found.classes[index], numbers[index], answer, f"{energy:.6g}", outlier, *numbers])


def print_table(found: Predictions, answers: Answers, top: int) -> None:
    """Print one row per file: its class or ``unsure``, its probability, and the next best classes, or the best ones if
    it is unsure. In a terminal the table is as wide as that, in a pipe every file is one line."""
    order = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :top]
    classes = [shown_name(name) for name in found.classes]
    rows = []
    for path, best, row, answer, outlier in zip(
        found.paths, order, found.probabilities, answers.answer, answers.outlier, strict=True
    ):
        others = best[1:] if answer == found.classes[best[0]] else best
        next_best = ", ".join(f"{classes[index]} {row[index]:.1%}" for index in others)
        note = "unlike the training images" if outlier == 1 else ""
        rows.append([shown_name(path), shown_name(answer), f"{row[best[0]]:.1%}", next_best, note])
    header = ["file", "class", "probability", "next best", "note"]
    # Columns without content are left out.
    used = [index for index in range(len(header)) if any(cells[index] for cells in rows)]
    header, rows = [header[index] for index in used], [[cells[index] for index in used] for cells in rows]
    if sys.stdout.isatty():
        columns = [Column(name, overflow="fold", no_wrap=name == "probability") for name in header]
        say_table(rows, columns, box=None, pad_edge=False)
        return
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    padded = (
        [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        for cells in [header, *rows]
    )
    say("\n".join("  ".join(cells).rstrip() for cells in padded))
