"""The pictures of an evaluation: confusion matrices, mistakes, reliability diagrams, and curves by class."""

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
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.plots.fonts import shortened
from pipeline.plots.style import COLOURS, class_colours, saved_figure

# Most classes with a number in each cell; most class names along an axis.
NUMBERED, NAMED = 25, 110


def plot_confusion(
    path: Path, counts: NDArray[np.int64], classes: tuple[str, ...], title: str, normalized: bool = False
) -> None:
    """Draw the numbers of images, ``(classes, classes)``, one row per true class, or the shares of each true class in
    percent; the row of a class without images is then grey."""
    values: NDArray[np.number] = counts
    texts = counts.astype(str)
    if normalized:
        images = counts.sum(axis=1, keepdims=True)
        values = np.where(images > 0, 100 * counts / np.maximum(images, 1), np.nan)
        texts = np.where(values < 0.5, "<1", np.char.mod("%.0f", values))
    many = len(classes) > NUMBERED
    # Inches.
    cell = 0.55 if not many else max(0.15, 15 / len(classes)) if len(classes) <= NAMED else 16 / len(classes)
    side = 3.0 + cell * len(classes)
    with saved_figure(path, side + 0.8, side, texts=classes) as figure:
        axis = figure.subplots()
        sns.heatmap(
            values,
            annot=None if many else np.where(counts == 0, "", texts),
            fmt="",
            cmap="Blues",
            # Without numbers, the colour alone has to show a few confused images.
            norm=PowerNorm(0.5 if many else 1, 0, 100 if normalized else max(counts.max(), 1)),
            square=True,
            linewidths=0 if many else 0.5,
            xticklabels=False,
            yticklabels=False,
            cbar_kws={
                "label": "% of the true class" if normalized else "images",
                "ticks": MaxNLocator(integer=True),
                "shrink": 0.8,
            },
            ax=axis,
        )
        axis.set_facecolor("0.9")
        # A large picture is shown scaled down, so its text is larger.
        size = max(12, 1.3 * side)
        axis.set_title(title, fontsize=size)
        axis.set_xlabel("predicted", fontsize=size)
        axis.set_ylabel("true", fontsize=size)
        _label_classes(axis, [shortened(name, 24) for name in classes], cell)


def _label_classes(axis: Axes, names: list[str], cell: float) -> None:
    """Label every class, or with many classes every second, third ...; ``cell`` is the side of a cell in inches."""
    step = math.ceil(len(names) / NAMED)
    size = min(72 * cell * step * 0.8, 11)
    places, labels = np.arange(0, len(names), step) + 0.5, names[::step]
    rotation = 90 if len(names) > NUMBERED else 45 if max(map(len, names)) > 3 else 0
    axis.set_xticks(places, labels, rotation=rotation, fontsize=size, ha="right" if rotation == 45 else "center")
    axis.set_yticks(places, labels, rotation=0, fontsize=size)
    if rotation == 45:
        for label in axis.get_xticklabels():
            label.set_rotation_mode("anchor")
    if len(names) > NUMBERED:
        axis.tick_params(length=2, pad=1)


COLUMNS = 6


def plot_mistakes(path: Path, images: NDArray[np.uint8], captions: list[tuple[str, str, str, str]], title: str) -> None:
    """Draw a grid of images, ``uint8``, ``(mistakes, height, width, 3)``; without any, only the title.

    ``captions`` are the true class, the predicted class, the confidence and the file's name.
    """
    columns = min(max(len(images), 1), COLUMNS)
    rows = max(math.ceil(len(images) / COLUMNS), 1)
    texts = [text for caption in captions for text in caption]
    # The title needs the width of four images.
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
    """Draw a reliability diagram for each heading and its table from ``pipeline.evaluate.calibration.reliability``."""
    with saved_figure(path, 5.4 * len(tables), 6.6) as figure:
        figure.suptitle(title)
        panels = figure.subfigures(1, len(tables), squeeze=False)[0]
        for panel, (heading, table) in zip(panels, tables.items(), strict=True):
            handles = _draw_reliability(panel, heading, table)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=10)


def _draw_reliability(panel: SubFigure, heading: str, table: pd.DataFrame) -> list[Artist]:
    """Draw accuracy by confidence, below it the numbers of images; return the handles for the legend."""
    above, below = panel.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    (diagonal,) = above.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfectly calibrated")
    # Rounding must not make a length negative.
    lengths = np.maximum([table["accuracy"] - table["accuracy_low"], table["accuracy_high"] - table["accuracy"]], 0)
    style: dict[str, Any] = {"fmt": "o-", "markersize": 5, "linewidth": 1, "capsize": 2}
    label = "accuracy of a bin, with its 95 % interval"
    bins = above.errorbar(table["confidence"], table["accuracy"], lengths, label=label, **style)
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
    """Draw the tables of ``pipeline.evaluate.metrics.curves_by_class``: a panel each, one line per class."""
    with saved_figure(path, 15, 5.8, texts=areas["class"]) as figure:
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        _draw_curves(left, roc, areas.set_index("class")["roc_auc"], "area")
        _draw_curves(right, precision_recall, areas.set_index("class")["average_precision"], "average precision")
        left.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC: each class against all others")
        right.set(xlabel="recall", ylabel="precision", title="Precision and recall")


def _draw_curves(axis: Axes, curves: pd.DataFrame, areas: pd.Series, measure: str) -> None:
    """Draw the third column of ``curves`` by the second, one line per class; ``areas`` has every class."""
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if len(areas) <= ALL_COLOURED:
        named, heading = areas.dropna(), measure
        colours = dict(zip(areas.index, class_colours(len(areas)), strict=True))
    else:
        named = areas.dropna().nsmallest(WORST)
        heading = f"{measure},\nlowest {WORST} of {areas.count():,}"
        colours = dict(zip(named.index, COLOURS, strict=False))
    if named.empty:
        axis.text(0.5, 0.5, "all images are of one class: there are no curves", ha="center", va="center")
        return
    _, x, y = curves.columns
    lines = {name: curve for name, curve in curves.groupby("class", sort=False)}
    # The named ones are drawn last, above the others.
    for name in sorted(lines, key=lambda name: name in named):
        style: dict[str, Any] = {"color": "0.85", "linewidth": 0.6}
        if name in named:
            style = {"color": colours[name], "linewidth": 1.3}
        axis.plot(lines[name][x], lines[name][y], drawstyle="steps-post" if y == "tpr" else "steps-pre", **style)
    handles = [axis.plot([], [], color=colours[name])[0] for name in named.index]
    # The number first: matplotlib leaves out a label that begins with an underscore.
    labels = [f"{area:.4f}  {shortened(str(name), 24)}" for name, area in named.items()]
    axis.legend(handles, labels, title=heading, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
