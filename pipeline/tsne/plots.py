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
# With more classes no eye finds a colour in the legend again.
MOST_NAMED, NAMES_A_COLUMN = 60, 20
# Inches.
PANEL, ONLY_PANEL, LEGEND_COLUMN = 5.2, 7, 2.2


def plot_tsne(
    path: Path, tables: dict[str, pd.DataFrame], classes: tuple[str, ...], captions: dict[str, str], title: str
) -> None:
    """Draw a panel a layer, and in it a point an image; each table has the columns x, y and label."""
    across = len(tables) if len(tables) <= 3 else math.ceil(math.sqrt(len(tables)))
    down = math.ceil(len(tables) / across)
    side = ONLY_PANEL if len(tables) == 1 else PANEL
    columns = math.ceil(len(classes) / NAMES_A_COLUMN) if len(classes) <= MOST_NAMED else 0
    texts = [*classes, *captions.values()]
    with saved_figure(path, across * side + max(1, columns) * LEGEND_COLUMN, down * side, texts) as figure:
        panels = figure.subplots(down, across, squeeze=False).flat
        for axis in panels:
            sns.despine(ax=axis, left=True, bottom=True)
            # The axes of t-SNE have no unit: only who is near whom means something.
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
    legend = figure.legend(  # type: ignore[call-overload]  # the stubs do not know this place
        handles, numbers, title="class", loc="outside center right", frameon=False, ncols=columns
    )
    # The names come afterwards: matplotlib leaves out one that begins with an underscore.
    for text, name in zip(legend.get_texts(), classes, strict=True):
        text.set_text(shortened(name, NAME_WIDTH))


def _draw(axis: Axes, table: pd.DataFrame, colours: list[str]) -> None:
    # In the order of the split the last class would lie above all others.
    mixed = table.iloc[np.random.default_rng(0).permutation(len(table))]
    size = min(22, max(1.5, 30_000 / len(table)))
    axis.scatter(
        mixed["x"],
        mixed["y"],
        s=size,
        c=[colours[label] for label in mixed["label"]],
        edgecolors="white",
        linewidths=min(0.3, size / 20),
    )
    axis.set_aspect("equal", "datalim")
