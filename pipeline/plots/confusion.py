"""The confusion matrix to look at."""

import math
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray

from pipeline.plots.fonts import shortened
from pipeline.plots.style import saved_figure

# Up to so many classes each cell has its number; beyond, up to so many, each class its name.
NUMBERED, NAMED = 25, 110


def plot_confusion(path: Path, counts: NDArray[np.int64], classes: tuple[str, ...], title: str) -> None:
    """Draw the numbers of images, ``(classes, classes)``, rows the true class."""
    numbers = np.where(counts == 0, "", counts.astype(str))
    _plot_matrix(path, counts, numbers, classes, title, max(counts.max(), 1), "images")


def plot_normalized_confusion(path: Path, counts: NDArray[np.int64], classes: tuple[str, ...], title: str) -> None:
    """Draw the shares of each true class in percent; the row of a class without images is grey."""
    images = counts.sum(axis=1, keepdims=True)
    shares = np.where(images > 0, 100 * counts / np.maximum(images, 1), np.nan)
    numbers = np.where(counts == 0, "", np.char.mod("%.0f", np.nan_to_num(shares)))
    numbers[(counts > 0) & (shares < 0.5)] = "<1"
    _plot_matrix(path, shares, numbers, classes, title, 100, "% of the true class")


def _plot_matrix(
    path: Path,
    values: NDArray[np.number],
    numbers: NDArray[np.str_],
    classes: tuple[str, ...],
    title: str,
    most: float,
    unit: str,
) -> None:
    names = [shortened(name, 24) for name in classes]
    many = len(classes) > NUMBERED
    cell = 0.55 if not many else max(0.15, 15 / len(classes)) if len(classes) <= NAMED else 16 / len(classes)
    side = 3.0 + cell * len(classes)
    with saved_figure(path, side + 0.8, side, texts=classes) as figure:
        axis = figure.subplots()
        sns.heatmap(
            values,
            annot=None if many else numbers,
            fmt="",
            cmap="Blues",
            # Where no number tells of a few confused images, their colour has to.
            norm=PowerNorm(0.5 if many else 1, 0, most),
            square=True,
            linewidths=0 if many else 0.5,
            xticklabels=False,
            yticklabels=False,
            cbar_kws={"label": unit, "shrink": 0.8},
            ax=axis,
        )
        axis.set_facecolor("0.9")
        # Seen as a whole a large picture is seen smaller.
        size = max(12, 1.3 * side)
        axis.set_title(title, fontsize=size)
        axis.set_xlabel("predicted", fontsize=size)
        axis.set_ylabel("true", fontsize=size)
        _name_classes(axis, names, cell)


def _name_classes(axis: Axes, names: list[str], cell: float) -> None:
    """Name every class, or of very many each second, third ...; ``cell`` is the side of a cell in inches."""
    step = math.ceil(len(names) / NAMED)
    shown = range(0, len(names), step)
    size = min(72 * cell * step * 0.8, 11)
    longest = max(map(len, names))
    rotation = 90 if len(names) > NUMBERED else 45 if longest > 3 else 0
    places, labels = [index + 0.5 for index in shown], [names[index] for index in shown]
    axis.set_xticks(places, labels, rotation=rotation, fontsize=size, ha="right" if rotation == 45 else "center")
    axis.set_yticks(places, labels, rotation=0, fontsize=size)
    if rotation == 45:
        for label in axis.get_xticklabels():
            label.set_rotation_mode("anchor")
    if len(names) > NUMBERED:
        axis.tick_params(length=2, pad=1)
