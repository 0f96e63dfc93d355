"""ROC and precision-recall curves by class."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from pipeline.colours import COLOURS, class_colours
from pipeline.plots.fonts import shortened
from pipeline.plots.style import saved_figure

# With more classes than this, only the worst few have a colour and a name.
ALL_COLOURED, WORST = 20, 8


def plot_curves_by_class(
    path: Path, roc: pd.DataFrame, precision_recall: pd.DataFrame, areas: pd.DataFrame, title: str
) -> None:
    """Draw the tables of ``pipeline.evaluation.metrics.curves_by_class``: a panel each, a line a class."""
    with saved_figure(path, 15, 5.8, texts=areas["class"]) as figure:
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        _draw(left, roc, areas.set_index("class")["roc_auc"], "area")
        _draw(right, precision_recall, areas.set_index("class")["average_precision"], "average precision")
        left.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC: each class against all others")
        right.set(xlabel="recall", ylabel="precision", title="Precision and recall")


def _draw(axis: Axes, curves: pd.DataFrame, areas: pd.Series, measure: str) -> None:
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
