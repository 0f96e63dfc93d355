"""The charts of a training run, as Vega-Lite specifications."""

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.report.chart_parts import BLUE, GREY, ORANGE, inline_rows, specification

# A line of more points is drawn as the mean of so many groups, with their lowest and highest value as a band.
LINE_POINTS = 500


def curve_by_epoch(epochs: pd.DataFrame, measure: str, best_epoch: int | None) -> dict[str, Any]:
    """Draw the loss or the accuracy of both splits; a dotted line marks the epoch that was kept."""
    hover = alt.selection_point(
        name="at", fields=["epoch"], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    base = alt.Chart(inline_rows(epochs[["epoch", "split", measure]])).encode(
        alt.X(
            "epoch:Q",
            axis=alt.Axis(tickMinStep=1, format="d"),
            scale=alt.Scale(zero=False, nice=False, padding=12),
        ),
        alt.Y(f"{measure}:Q", scale=alt.Scale(zero=False), axis=alt.Axis(minExtent=44)),
        alt.Color("split:N", scale=alt.Scale(domain=["train", "valid"], range=[BLUE, ORANGE]), title=None),
    )
    tooltip = ["split:N", "epoch:Q", alt.Tooltip(f"{measure}:Q", format=".4f")]
    points = base.mark_point(filled=True, size=70).encode(
        opacity=alt.condition(hover, alt.value(1), alt.value(0 if len(epochs) > 120 else 0.5)), tooltip=tooltip
    )
    best = alt.Chart(inline_rows(pd.DataFrame({"epoch": [best_epoch] if best_epoch else []})))
    rule = best.mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="epoch:Q")
    chart = alt.layer(rule, base.mark_line(aria=False), points.add_params(hover))
    return specification(chart, f"{measure} of the training and the validation split by epoch", 260)


def curve_by_step(steps: pd.DataFrame, measure: str, title: str) -> dict[str, Any]:
    """Draw loss, gradient norm or learning rate by step, on a logarithmic scale where that can be."""
    table = steps[["step", measure]].replace([math.inf, -math.inf], math.nan).rename(columns={measure: "value"})
    groups = np.arange(len(table)) * LINE_POINTS // max(len(table), LINE_POINTS)
    if len(table) <= LINE_POINTS:
        groups = np.arange(len(table))
    drawn = table.groupby(groups).agg(
        step=("step", "median"), value=("value", "mean"), low=("value", "min"), high=("value", "max")
    )
    log = measure != "lr" and bool((table["value"].dropna() > 0).all()) and not table["value"].dropna().empty
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    base = alt.Chart(inline_rows(drawn)).encode(alt.X("step:Q", scale=alt.Scale(nice=False), axis=alt.Axis(format="d")))
    axis = alt.Axis(minExtent=54, tickCount=4, format="~g")
    line = base.mark_line(strokeWidth=1.2, color=BLUE, aria=False).encode(
        alt.Y("value:Q", scale=scale, axis=axis, title=title)
    )
    band = base.mark_area(opacity=0.25, color=BLUE, aria=False).encode(
        alt.Y("low:Q", scale=scale, title=title), y2="high:Q"
    )
    hover = alt.selection_point(
        name="at", fields=["step"], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    points = base.mark_point(filled=True, size=60, color=BLUE, aria=False).encode(
        alt.Y("value:Q", scale=scale, title=title),
        opacity=alt.condition(hover, alt.value(1), alt.value(0)),
        tooltip=[alt.Tooltip("step:Q", format=",.0f"), alt.Tooltip("value:Q", title=title, format=".4~g")],
    )
    layers = [line, points.add_params(hover)] if len(table) <= LINE_POINTS else [band, line, points.add_params(hover)]
    return specification(alt.layer(*layers), f"{title} by training step", 170)
