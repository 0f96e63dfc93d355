"""The picture of a sweep: which parameters mattered, which values did well, and how the best one was found."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator, NullFormatter

from pipeline.plots.style import saved_figure

COLUMNS = 3
# A trial that diverged would press all others into a line: the axis ends below most of them.
SHOWN_QUANTILE = 0.25
MARKS = {"complete": ("o", "C0"), "pruned": ("x", "0.5"), "failed": ("|", "C3")}


@dataclass(frozen=True)
class SweepAxis:
    """A parameter: its dotted name; its values as text, or the ends of its range and whether its axis is
    logarithmic."""

    name: str
    choices: list[str] = field(default_factory=list)
    ends: tuple[float, float] = (0, 1)
    log: bool = False


def plot_sweep(
    path: Path,
    table: pd.DataFrame,
    axes: list[SweepAxis],
    importances: dict[str, float],
    title: str,
    metric: str,
    maximize: bool,
) -> None:
    """Draw the trials in their order, the importance of each parameter, and the metric over each parameter.

    Args:
        path: of the picture.
        table: a row a trial, with the columns trial, state (complete, pruned or failed), value, and one for each
            parameter; at least one trial is complete.
        axes: the parameters.
        importances: the share of each parameter, the greatest first; empty where it is not known.
        title, metric: texts.
        maximize: whether more of the metric is better.
    """
    rows = -(-len(axes) // COLUMNS)
    complete = table[table["state"] == "complete"]
    best = complete.sort_values(["value", "trial"], ascending=[not maximize, True]).iloc[0]
    low, high = _limits(complete["value"].to_numpy(float), maximize)
    with saved_figure(path, 13, 3.6 * (rows + 1), [title, *(axis.name for axis in axes)]) as figure:
        above, below = np.ravel(figure.subfigures(2, 1, squeeze=False, height_ratios=[1, rows]))
        history, bars = above.subplots(1, 2, width_ratios=[2, 1])
        _draw_history(history, table, best, maximize, (low, high))
        history.set(ylabel=metric, ylim=(low, high))
        history.legend(framealpha=0.7, edgecolor="none", fontsize=10)
        _draw_importances(bars, importances)
        panels = below.subplots(rows, COLUMNS, squeeze=False)
        for number, panel in enumerate(panels.flat):
            if number >= len(axes):
                panel.set_axis_off()
                continue
            _draw_slice(panel, table, axes[number], best, (low, high))
            panel.set(xlabel=axes[number].name, ylabel=metric if number % COLUMNS == 0 else "", ylim=(low, high))
        figure.suptitle(f"{title}: {metric} {best['value']:.4f} in trial {best['trial']}", fontsize=13)


def _limits(values: np.ndarray, maximize: bool) -> tuple[float, float]:
    """The ends of the metric's axis: from the best value to below a quarter of the complete trials."""
    quarter = np.quantile(values, SHOWN_QUANTILE if maximize else 1 - SHOWN_QUANTILE)
    best, worst = (values.max(), values.min()) if maximize else (values.min(), values.max())
    span = 2 * abs(best - quarter) or abs(best - worst) or max(abs(best) * 0.1, 1e-3)
    worse = max(best - span, worst) if maximize else min(best + span, worst)
    worse = worse if worse != best else best - span if maximize else best + span
    margin = 0.08 * abs(best - worse)
    return min(best, worse) - margin, max(best, worse) + margin


def _within(values: pd.Series, limits: tuple[float, float]) -> np.ndarray:
    """The values, those outside of the axis at its edge."""
    margin = 0.03 * (limits[1] - limits[0])
    return values.to_numpy(float).clip(limits[0] + margin, limits[1] - margin)


def _draw_history(
    axis: Axes, table: pd.DataFrame, best: pd.Series, maximize: bool, limits: tuple[float, float]
) -> None:
    worst = limits[0] if maximize else limits[1]
    for state, (marker, colour) in MARKS.items():
        trials = table[table["state"] == state]
        if len(trials):
            values = _within(trials["value"].fillna(worst).astype(float), limits)
            axis.plot(trials["trial"], values, marker, color=colour, markersize=6, label=f"{state} ({len(trials)})")
    complete = table["value"].where(table["state"] == "complete").astype(float)
    so_far = complete.cummax() if maximize else complete.cummin()
    axis.step(table["trial"], so_far.ffill(), where="post", color="C2", linewidth=1.2, label="best so far", zorder=0)
    axis.plot(best["trial"], best["value"], "*", color="C1", markersize=15, label=f"best (trial {best['trial']})")
    beyond = (table["value"] < limits[0]) | (table["value"] > limits[1])
    title = f"Trials ({beyond.sum()} beyond the axis, drawn at its edge)" if beyond.any() else "Trials"
    axis.set(xlabel="trial", xlim=(0.5, table["trial"].max() + 0.5), title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_importances(axis: Axes, importances: dict[str, float]) -> None:
    axis.set_title("Importance (fANOVA)")
    if not importances:
        axis.set_axis_off()
        text = "needs two complete trials\nwith different values"
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
        return
    bars = axis.barh([*importances][::-1], [*importances.values()][::-1], color="C0")
    axis.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=10)
    axis.set(xlim=(0, 1.15 * max(importances.values())), xlabel="share of the variance")
    axis.tick_params(axis="y", labelsize=10)


def _draw_slice(
    panel: Axes, table: pd.DataFrame, axis: SweepAxis, best: pd.Series, limits: tuple[float, float]
) -> None:
    """Draw the metric over a parameter, later trials darker: where they gather, the search saw promise."""
    drawn = table[table["value"].notna()]
    places = _places(drawn[axis.name], axis)
    values = _within(drawn["value"].astype(float), limits)
    is_complete = (drawn["state"] == "complete").to_numpy()
    pruned = MARKS["pruned"]
    panel.scatter(places[~is_complete], values[~is_complete], marker=pruned[0], color=pruned[1], s=28, linewidths=1.2)
    panel.scatter(
        places[is_complete],
        values[is_complete],
        c=drawn["trial"][is_complete],
        cmap="Blues",
        norm=Normalize(-0.4 * table["trial"].max(), table["trial"].max()),
        edgecolors="C0",
        linewidths=0.8,
        s=36,
    )
    panel.plot(_places(pd.Series([best[axis.name]]), axis), [best["value"]], "*", color="C1", markersize=15)
    if axis.choices:
        turned = sum(map(len, axis.choices)) > 30
        panel.set_xticks(range(len(axis.choices)), axis.choices, rotation=30 if turned else 0)
        panel.set_xlim(-0.5, len(axis.choices) - 0.5)
        return
    low, high = axis.ends
    margin = 0.05
    if axis.log:
        panel.set_xscale("log")
        panel.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_xlim(low - margin * (high - low), high + margin * (high - low))


def _places(values: pd.Series, axis: SweepAxis) -> np.ndarray:
    """Where the values lie on their axis: at their number, or at the position of their text in the list."""
    if not axis.choices:
        return values.to_numpy(float)
    return np.array([axis.choices.index(str(value)) for value in values])
