"""The confusion matrix to look at."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from pipeline.plots.fonts import shortened
from pipeline.plots.style import COLOURS, class_colours, saved_figure

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


COLUMNS = 6


def plot_mistakes(path: Path, images: NDArray[np.uint8], captions: list[tuple[str, str, str, str]], title: str) -> None:
    """Draw a grid of photos, ``uint8``, ``(mistakes, height, width, 3)``.

    ``captions`` are the true class, the predicted class, the confidence and the file's name; without mistakes the
    picture says so.
    """
    columns = min(max(len(images), 1), COLUMNS)
    rows = max(math.ceil(len(images) / COLUMNS), 1)
    texts = [text for caption in captions for text in caption]
    # The title needs the width of four photos, and without any a single line.
    with saved_figure(path, 2.1 * max(columns, 4), 2.5 * rows + 0.6 if len(images) else 0.8, texts=texts) as figure:
        figure.suptitle(title, fontsize=11)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes:
            axis.set_axis_off()
        for axis, image, (true, predicted, confidence, name) in zip(axes, images, captions, strict=False):
            axis.imshow(image)
            lines = shortened(true, 26), f"→ {shortened(predicted, 24)}", f"{confidence} · {shortened(name, 20)}"
            axis.set_title("\n".join(lines), fontsize=8)


def plot_reliability(path: Path, tables: Mapping[str, pd.DataFrame], title: str) -> None:
    """Draw a diagram for each title and table, as ``pipeline.evaluate.calibration.reliability`` gives
    it."""
    with saved_figure(path, 5.4 * len(tables), 6.6) as figure:
        figure.suptitle(title)
        panels = figure.subfigures(1, len(tables), squeeze=False)[0]
        for panel, (heading, table) in zip(panels, tables.items(), strict=True):
            lines = _draw_reliability(panel, heading, table)
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=10)


def _draw_reliability(panel: SubFigure, heading: str, table: pd.DataFrame) -> list[Artist]:
    """Draw accuracy over confidence above the numbers of images; gives what a legend has to explain."""
    above, below = panel.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    (diagonal,) = above.plot(
        [0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="as often right as it is sure"
    )
    lengths = [table["accuracy"] - table["accuracy_low"], table["accuracy_high"] - table["accuracy"]]
    bins = above.errorbar(
        table["confidence"],
        table["accuracy"],
        # Rounding must not make a length negative.
        np.maximum(lengths, 0),
        fmt="o-",
        markersize=5,
        linewidth=1,
        elinewidth=1,
        capsize=2,
        label="a bin, with the 95 % interval of its accuracy",
    )
    above.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="accuracy", title=heading)
    width = table["high"] - table["low"]
    below.bar(table["low"], table["images"], width, align="edge", color="0.6", edgecolor="white")
    below.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    return [diagonal, bins]


# With more classes than this, only the worst few have a colour and a name.
ALL_COLOURED, WORST = 20, 8


def plot_curves_by_class(
    path: Path, roc: pd.DataFrame, precision_recall: pd.DataFrame, areas: pd.DataFrame, title: str
) -> None:
    """Draw the tables of ``pipeline.evaluate.metrics.curves_by_class``: a panel each, a line a class."""
    with saved_figure(path, 15, 5.8, texts=areas["class"]) as figure:
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        _draw_curves(left, roc, areas.set_index("class")["roc_auc"], "area")
        _draw_curves(right, precision_recall, areas.set_index("class")["average_precision"], "average precision")
        left.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC: each class against all others")
        right.set(xlabel="recall", ylabel="precision", title="Precision and recall")


def _draw_curves(axis: Axes, curves: pd.DataFrame, areas: pd.Series, measure: str) -> None:
    """Draw the second column of ``curves`` over the first, by class."""
    areas = areas.dropna()
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if areas.empty:
        axis.text(0.5, 0.5, "all images are of one class: there are no curves", ha="center", va="center")
        return
    named = areas.index if len(areas) <= ALL_COLOURED else areas.nsmallest(WORST).index
    colours = class_colours(min(len(named), len(COLOURS)))
    styles: dict[Any, dict[str, Any]] = {
        name: {"color": colours[i % len(colours)], "linestyle": "--" if i >= len(colours) else "-"}
        for i, name in enumerate(named)
    }
    x, y = curves.columns[1:]
    lines = {name: curve for name, curve in curves.groupby("class", sort=False)}
    for name in sorted(lines, key=lambda name: name in styles):
        style = {"linewidth": 1.3, **styles[name]} if name in styles else {"color": "0.85", "linewidth": 0.6}
        axis.plot(lines[name][x], lines[name][y], drawstyle="steps-post" if y == "tpr" else "steps-pre", **style)
    handles = [axis.plot([], [], **styles[name])[0] for name in named]
    # The number first: matplotlib takes a label that begins with an underscore for one to leave out.
    labels = [f"{areas[name]:.4f}  {shortened(name, 24)}" for name in named]
    heading = measure if len(areas) <= ALL_COLOURED else f"{measure},\nlowest {WORST} of {len(areas):,}"
    axis.legend(handles, labels, title=heading, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
