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
# With more classes, colours are too similar for a legend.
MOST_NAMED, NAMES_PER_COLUMN = 60, 20
# Inches.
PANEL, ONLY_PANEL, LEGEND_COLUMN = 5.2, 7, 2.2


def plot_tsne(
    path: Path, tables: dict[str, pd.DataFrame], classes: tuple[str, ...], captions: dict[str, str], title: str
) -> None:
    """Draw one panel per layer with one point per image; each table has the columns x, y and label."""
    across = len(tables) if len(tables) <= 3 else math.ceil(math.sqrt(len(tables)))
    down = math.ceil(len(tables) / across)
    side = ONLY_PANEL if len(tables) == 1 else PANEL
    columns = math.ceil(len(classes) / NAMES_PER_COLUMN) if len(classes) <= MOST_NAMED else 0
    texts = [*classes, *captions.values()]
    with saved_figure(path, across * side + max(1, columns) * LEGEND_COLUMN, down * side, texts) as figure:
        panels = figure.subplots(down, across, squeeze=False).flat
        for axis in panels:
            sns.despine(ax=axis, left=True, bottom=True)
            # The axes of t-SNE have no unit: only distances mean something.
            axis.set(xticks=[], yticks=[])
        for axis, (layer, table) in zip(figure.axes, tables.items(), strict=False):
            _draw(axis, table, class_colours(len(classes)))
            axis.set_title(captions[layer])
        if columns:
            _legend(figure, classes, columns)
        figure.suptitle(title if columns else f"{title}, {len(classes):,} classes")


def _legend(figure: Figure, classes: tuple[str, ...], columns: int) -> None:
    colours = class_colours(len(classes))
    handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    numbers = [str(index) for index in range(len(classes))]
    legend = figure.legend(  # type: ignore[call-overload]  # the stubs do not know this location
        handles, numbers, title="class", loc="outside center right", frameon=False, ncols=columns
    )
    # The names are set afterwards: matplotlib leaves out labels that begin with an underscore.
    for text, name in zip(legend.get_texts(), classes, strict=True):
        text.set_text(shortened(name, NAME_WIDTH))


def _draw(axis: Axes, table: pd.DataFrame, colours: list[str]) -> None:
    # In the order of the split, the last class would cover all others.
    shuffled = table.iloc[np.random.default_rng(0).permutation(len(table))]
    size = min(22, max(1.5, 30_000 / len(table)))
    axis.scatter(
        shuffled["x"],
        shuffled["y"],
        s=size,
        c=[colours[label] for label in shuffled["label"]],
        edgecolors="white",
        linewidths=min(0.3, size / 20),
    )
    axis.set_aspect("equal", "datalim")
