"""The picture of the learning rate range test."""

from pathlib import Path

import pandas as pd

from pipeline.plots.style import saved_figure


def plot_lr_range(path: Path, table: pd.DataFrame, suggestion: float, optimizer: str) -> None:
    """Draw the loss over the learning rate; ``table`` has the columns lr, loss and smoothed."""
    with saved_figure(path, 8, 5) as figure:
        axis = figure.subplots()
        axis.plot(table["lr"], table["loss"], color="C0", alpha=0.3, linewidth=0.8, label="loss of each step")
        axis.plot(table["lr"], table["smoothed"], color="C0", label="smoothed")
        axis.axvline(suggestion, color="C3", linestyle="--", label=f"steepest: {suggestion:.1e}")
        axis.set(xscale="log", xlabel="learning rate", ylabel="loss", title=f"Learning rate range test, {optimizer}")
        axis.legend(frameon=False)
