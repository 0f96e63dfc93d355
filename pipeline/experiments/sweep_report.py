"""The trials of a sweep as text and as a plot: importances, values against parameters, and the history."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from pipeline.experiments.sweep_file import Dimension, Range, Sweep, Value
from pipeline.params.file import in_yaml
from pipeline.plots.style import saved_figure

TRIALS_SHOWN = 5
COLUMNS = 3
# The axis ends below most trials: one that diverged would compress all others into a line.
SHOWN_QUANTILE = 0.25
MARKS = {"complete": ("o", "C0"), "pruned": ("x", "0.5"), "failed": ("|", "C3")}


def parameters_text(parameters: Mapping[str, Value]) -> str:
    """``train.lr=0.01 train.optimizer=adam``."""
    return " ".join(f"{name}={in_yaml(value)}" for name, value in parameters.items())


def trial_line(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    """How a trial ended, the best one so far, and the seconds."""
    if trial.state == TrialState.FAIL:
        how = f"failed: {trial.user_attrs['reason']}"
    elif trial.state == TrialState.PRUNED:
        how = f"pruned after epoch {trial.last_step} at {trial.value:.4f}"
    else:
        how = f"{trial.value:.4f}"
    so_far = "" if best is None else f"; best {best.value:.4f} of trial {best.number + 1}"
    return f"{how}{so_far}, {trial.user_attrs['seconds']:,.0f} s"


def summary_lines(sweep: Sweep, table: pd.DataFrame) -> list[str]:
    """The number of trials of each state, and the best ones; ``table`` is that of ``Study.table``."""
    counts = ", ".join(f"{count:,} {state}" for state, count in table["state"].value_counts().items())
    complete = _sorted(table, sweep.maximize).drop_duplicates("experiment").head(TRIALS_SHOWN)
    shown = complete[["trial", "value", *sweep.space, "experiment"]].rename(columns={"value": sweep.metric})
    for name in sweep.space:
        shown[name] = shown[name].map(in_yaml)
    rows = shown.to_string(index=False, formatters={sweep.metric: "{:.4f}".format})
    return [f"{len(table):,} trials: {counts}", *rows.splitlines()]


def _sorted(table: pd.DataFrame, maximize: bool) -> pd.DataFrame:
    """The complete trials, the best first."""
    complete = table[table["state"] == "complete"]
    return complete.sort_values(["value", "trial"], ascending=[not maximize, True])


def plot_sweep(path: Path, sweep: Sweep, table: pd.DataFrame, importances: dict[str, float], title: str) -> None:
    """Draw the trials in their order, the importance of each parameter, and the metric over each parameter.

    ``table`` has the columns trial, state, value and one for each parameter of ``Study.table``; at least one trial is
    complete. ``importances`` is the share of each parameter, the largest first; empty if unknown.
    """
    rows = -(-len(sweep.space) // COLUMNS)
    complete = _sorted(table, sweep.maximize)
    best, limits = complete.iloc[0], _limits(complete["value"].to_numpy(float), sweep.maximize)
    with saved_figure(path, 13, 3.6 * (rows + 1), [title, *sweep.space]) as figure:
        top, bottom = np.ravel(figure.subfigures(2, 1, squeeze=False, height_ratios=[1, rows]))
        history, bars = top.subplots(1, 2, width_ratios=[2, 1])
        _draw_history(history, table, best, sweep.maximize, limits)
        history.set(ylabel=sweep.metric, ylim=limits)
        history.legend(framealpha=0.7, edgecolor="none", fontsize=10)
        _draw_importances(bars, importances)
        panels = bottom.subplots(rows, COLUMNS, squeeze=False).ravel()
        for number, (name, panel) in enumerate(zip(sweep.space, panels, strict=False)):
            _draw_slice(panel, table, name, sweep.space[name], best, limits)
            panel.set(xlabel=name, ylabel=sweep.metric if number % COLUMNS == 0 else "", ylim=limits)
        for panel in panels[len(sweep.space) :]:
            panel.set_axis_off()
        figure.suptitle(f"{title}: {sweep.metric} {best['value']:.4f} in trial {best['trial']}", fontsize=13)


def _limits(values: NDArray[np.float64], maximize: bool) -> tuple[float, float]:
    """The ends of the metric's axis: from the best value to below a quarter of the complete trials."""
    if not maximize:
        low, high = _limits(-values, maximize=True)
        return -high, -low
    best, worst = values.max(), values.min()
    span = 2 * (best - np.quantile(values, SHOWN_QUANTILE)) or best - worst or max(abs(best) * 0.1, 1e-3)
    low = max(best - span, worst) if worst < best else best - span
    margin = 0.08 * (best - low)
    return low - margin, best + margin


def _within(values: pd.Series, limits: tuple[float, float]) -> NDArray[np.float64]:
    """The values, with those outside of the axis moved to its edge."""
    margin = 0.03 * (limits[1] - limits[0])
    clipped: NDArray[np.float64] = values.to_numpy(float).clip(limits[0] + margin, limits[1] - margin)
    return clipped


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
    panel: Axes, table: pd.DataFrame, name: str, dimension: Dimension, best: pd.Series, limits: tuple[float, float]
) -> None:
    """Draw the metric over a parameter, later trials darker: they gather where the search was promising."""
    drawn = table[table["value"].notna()]
    choices = [] if isinstance(dimension, Range) else [in_yaml(value) for value in dimension]

    def place(value: Value) -> float:
        return choices.index(in_yaml(value)) if choices else float(value or 0)

    places, values = drawn[name].map(place).to_numpy(float), _within(drawn["value"].astype(float), limits)
    is_complete = (drawn["state"] == "complete").to_numpy()
    marker, colour = MARKS["pruned"]
    panel.scatter(places[~is_complete], values[~is_complete], marker=marker, color=colour, s=28, linewidths=1.2)
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
    panel.plot([place(best[name])], [best["value"]], "*", color="C1", markersize=15)
    if not isinstance(dimension, Range):
        rotation = 30 if sum(map(len, choices)) > 30 else 0
        panel.set_xticks(range(len(choices)), choices, rotation=rotation)
        panel.set_xlim(-0.5, len(choices) - 0.5)
        return
    low, high, margin = dimension.low, dimension.high, 0.05
    if dimension.log:
        panel.set_xscale("log")
        panel.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_xlim(low - margin * (high - low), high + margin * (high - low))
