"""The curves of a training run."""

from pathlib import Path

import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pipeline.plots.style import saved_figure


def plot_curves(path: Path, epochs: pd.DataFrame, steps: pd.DataFrame, best_epoch: int) -> None:
    """Draw loss and accuracy by epoch, and loss, gradient norm and learning rate by step.

    The gradient norm shows whether a loss that no longer falls has reached a critical point, or oscillates.

    Args:
        path: the picture.
        epochs: the columns epoch, split (train or valid), loss and accuracy.
        steps: the columns step, loss, gradient_norm and lr.
        best_epoch: the epoch of the saved weights.
    """
    with saved_figure(path, 12, 7) as figure:
        grid = figure.add_gridspec(2, 6)
        for place, name in ((grid[0, :3], "loss"), (grid[0, 3:], "accuracy")):
            axis = figure.add_subplot(place)
            for split, curve in epochs.groupby("split", sort=False):
                axis.plot(curve["epoch"], curve[name], marker=".", label=split)
            axis.axvline(best_epoch, color="grey", linestyle=":", linewidth=1, label="best epoch")
            axis.set(xlabel="epoch", title=name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend(frameon=False)
        for place, name in zip((grid[1, :2], grid[1, 2:4], grid[1, 4:]), ("loss", "gradient_norm", "lr"), strict=True):
            axis = figure.add_subplot(place)
            axis.plot(steps["step"], steps[name], linewidth=0.8, color="C2")
            axis.set(xlabel="step", title={"gradient_norm": "gradient norm", "lr": "learning rate"}.get(name, name))
            if name != "lr":
                axis.set_yscale("log")
                # Powers of ten alone would leave an axis of less than a decade without numbers.
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
