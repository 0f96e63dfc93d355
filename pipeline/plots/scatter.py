"""The t-SNE pictures."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.plots.fonts import shortened
from pipeline.plots.style import class_colours, saved_figure

NAME_WIDTH = 24
CLASSES_A_COLUMN = 30


def plot_tsne(
    path: Path, tables: dict[str, pd.DataFrame], classes: tuple[str, ...], captions: dict[str, str], title: str
) -> None:
    """Draw a panel a layer, and in it a point an image; each table has the columns x, y and label."""
    across = len(tables) if len(tables) <= 3 else math.ceil(math.sqrt(len(tables)))
    down = math.ceil(len(tables) / across)
    side = 7 if len(tables) == 1 else 5.2
    with saved_figure(path, across * side + 2, down * side, [*classes, *captions.values()]) as figure:
        panels = figure.subplots(down, across, squeeze=False).flat
        for axis in panels:
            sns.despine(ax=axis, left=True, bottom=True)
            # The axes of t-SNE have no unit: only who is near whom means something.
            axis.set(xticks=[], yticks=[])
        colours = class_colours(len(classes))
        for axis, (layer, table) in zip(figure.axes, tables.items(), strict=False):
            _draw(axis, table, colours)
            axis.set_title(captions[layer])
        _legend(figure, classes, colours)
        figure.suptitle(title)


def _legend(figure: Figure, classes: tuple[str, ...], colours: list[tuple[float, float, float]]) -> None:
    handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    columns = math.ceil(len(classes) / CLASSES_A_COLUMN)
    numbers = [str(index) for index in range(len(classes))]
    legend = figure.legend(handles, numbers, title="class", loc="outside center right", frameon=False, ncols=columns)
    # The names come afterwards: matplotlib leaves out one that begins with an underscore.
    for text, name in zip(legend.get_texts(), classes, strict=True):
        text.set_text(shortened(name, NAME_WIDTH))


def _draw(axis: Axes, table: pd.DataFrame, colours: list[tuple[float, float, float]]) -> None:
    # In the order of the split the last class would lie above all others.
    mixed = table.iloc[np.random.default_rng(0).permutation(len(table))]
    size = min(22, max(1.5, 30_000 / len(table)))
    axis.scatter(
        mixed["x"],
        mixed["y"],
        s=size,
        c=[colours[label] for label in mixed["label"]],
        edgecolors="white",
        linewidths=0.3,
    )
    axis.set_aspect("equal", "datalim")
