"""The confusion matrix to look at."""

from pathlib import Path

import numpy as np
import seaborn as sns

from pipeline.plots.style import saved_figure


def plot_confusion(path: Path, counts: np.ndarray, classes: tuple[str, ...], title: str) -> None:
    """Draw counts, ``(classes, classes)``, rows the true class; the colour is the share of the row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3.0 + 0.55 * len(classes)
    with saved_figure(path, side + 0.8, side) as figure:
        axis = figure.subplots()
        sns.heatmap(
            shares,
            annot=np.where(counts == 0, "", counts.astype(str)) if len(classes) <= 40 else None,
            fmt="",
            cmap="Blues",
            vmin=0,
            vmax=1,
            square=True,
            linewidths=0.5,
            xticklabels=classes,
            yticklabels=classes,
            cbar_kws={"label": "share of the true class", "shrink": 0.8},
            ax=axis,
        )
        axis.set(xlabel="predicted", ylabel="true", title=title)
        axis.tick_params(axis="x", rotation=45 if max(map(len, classes)) > 3 else 0)
        axis.tick_params(axis="y", rotation=0)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right" if max(map(len, classes)) > 3 else "center")
