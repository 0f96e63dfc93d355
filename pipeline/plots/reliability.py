"""The reliability diagram."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import SubFigure

from pipeline.plots.style import saved_figure


def plot_reliability(path: Path, tables: Mapping[str, pd.DataFrame], title: str) -> None:
    """Draw a diagram for each title and table, as ``pipeline.evaluation.calibration.reliability`` gives
    it."""
    with saved_figure(path, 5.4 * len(tables), 6.6) as figure:
        figure.suptitle(title)
        panels = figure.subfigures(1, len(tables), squeeze=False)[0]
        for panel, (heading, table) in zip(panels, tables.items(), strict=True):
            lines = _draw(panel, heading, table)
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=10)


def _draw(panel: SubFigure, heading: str, table: pd.DataFrame) -> list[Artist]:
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
