"""The paths of the optimizers on the error surface."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from numpy.typing import NDArray

from pipeline.learning_rates.descent import START, surface_error
from pipeline.plots.style import saved_figure

W1_LIMITS = (-0.16 * START[0], 1.12 * START[0])
W2_LIMITS = (-1.7 * START[1], 1.7 * START[1])
# Without the light end of the colour map, which is too close to the colours of the surface.
STEP_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0, 0.85, 256)))
# matplotlib overflows for the points of a diverging path.
DRAWABLE = 1e6
# The curves with and without warm-up end alike: dashes show the one below.
LINES = ("-", "--", ":")


def plot_error_surface(path: Path, table: pd.DataFrame, condition_number: float) -> None:
    """Draw one row per optimizer, one column per schedule, and a last column with the error by step.

    ``table`` has the columns optimizer, schedule, step, w1, w2, error and lr, and one row per step of each path; a path
    that has diverged has fewer rows than the others.
    """
    optimizers, schedules = table["optimizer"].unique(), table["schedule"].unique()
    steps = table["step"].max()
    norm = Normalize(0, steps)
    with saved_figure(path, 16, 1.75 * len(optimizers) + 2) as figure:
        axes = figure.subplots(len(optimizers), len(schedules) + 1, squeeze=False)
        for row, optimizer in enumerate(optimizers):
            for column, schedule in enumerate(schedules):
                points = table[(table["optimizer"] == optimizer) & (table["schedule"] == schedule)]
                _draw_surface(axes[row, column], condition_number)
                _draw_path(axes[row, column], points, norm)
                axes[row, column].set_title(_panel_title(points, steps), fontsize=10)
                error = points["error"].clip(upper=DRAWABLE)
                axes[row, -1].plot(points["step"], error, LINES[column % len(LINES)], label=schedule)
        _label(axes, schedules, table["error"].iloc[0])
        colours = ScalarMappable(norm, STEP_COLOURS)
        figure.colorbar(colours, ax=axes, location="bottom", label="step", shrink=0.4, aspect=50, pad=0.01)
        figure.suptitle(
            f"Down the error surface (w1² / {condition_number:g} + w2²) / 2 from ○ to its minimum ☆\n"
            "AdaGrad (mean) divides by the root of the mean of all squared gradients; "
            "AdaGrad (sum), as published and in torch, by the root of their sum",
            fontsize=13,
        )


def _draw_surface(axis: Axes, condition_number: float) -> None:
    """Draw filled contours of the error, with levels evenly spaced on a log scale."""
    w1, w2 = np.meshgrid(np.linspace(*W1_LIMITS, 201), np.linspace(*W2_LIMITS, 201))
    error = surface_error(torch.from_numpy(np.stack([w1, w2], -1)), condition_number).numpy()
    levels = np.geomspace(1e-3, 1, 13) * error.max()
    # The norm ends far above the surface, so only the light half of the colours is used.
    norm = LogNorm(levels[0], 200 * levels[-1])
    axis.contourf(w1, w2, error, levels, cmap="Blues", norm=norm, extend="min")
    axis.contour(w1, w2, error, levels, colors="white", linewidths=0.6)


def _draw_path(axis: Axes, points: pd.DataFrame, norm: Normalize) -> None:
    """Draw a dot per step, connected by lines, and mark the start and the minimum; the axes clip the rest."""
    path, steps = points[["w1", "w2"]].clip(-DRAWABLE, DRAWABLE).to_numpy(), points["step"].to_numpy()
    lines = np.stack([path[:-1], path[1:]], axis=1)
    axis.add_collection(LineCollection(list(lines), array=steps[1:], cmap=STEP_COLOURS, norm=norm, linewidths=0.8))
    axis.scatter(path[:, 0], path[:, 1], c=steps, cmap=STEP_COLOURS, norm=norm, s=9, linewidths=0, zorder=3)
    for place, marker, size in ((START, "o", 7), ((0, 0), "*", 13)):
        axis.plot(*place, marker, markersize=size, color="white", markeredgecolor="black", zorder=4)
    axis.set(xlim=W1_LIMITS, ylim=W2_LIMITS)


def _panel_title(points: pd.DataFrame, steps: float) -> str:
    """The optimizer, its largest learning rate and its final error."""
    end = points.iloc[-1]
    result = f"error {end['error']:.2g}" if end["step"] == steps else f"diverged after {end['step']:,} steps"
    return f"{end['optimizer']}, lr {points['lr'].max():.3g}: {result}"


def _label(axes: NDArray[Any], schedules: NDArray[np.object_], first_error: float) -> None:
    for axis in axes[:, :-1].flat:
        axis.set(xlabel="w1 (flat)", ylabel="w2 (steep)")
        axis.label_outer()
    for axis in axes[:, -1]:
        # The same scale for all optimizers, so that they can be compared.
        axis.set(yscale="log", ylim=(1e-6 * first_error, 5 * first_error), ylabel="error")
    axes[-1, -1].set_xlabel("step")
    axes[0, -1].legend(frameon=False, fontsize=10)
    for axis, heading in zip(axes[0], [*schedules, "error by step"], strict=True):
        axis.annotate(
            heading, (0.5, 1), (0, 26), "axes fraction", "offset points", ha="center", fontsize=13, fontweight="bold"
        )
