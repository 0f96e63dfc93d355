"""Vega-Lite charts of the training and of t-SNE, and what all charts share.

Text and lines have the colour of the page, so they are readable in its light and dark scheme.
"""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.plots.style import class_colours

BLUE, ORANGE, GREY = "#4c84c9", "#e8743b", "#8b949e"
# With more classes there is no legend.
LEGEND = 40
# A longer line is drawn as the means of this many groups of steps, with their range as a band.
LINE_POINTS = 500
TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "titleFontWeight": "normal", "labelFontSize": 11}
LINES = {f"{part}Color": "currentColor" for part in ("domain", "tick", "grid")}
OPACITY = {"domainOpacity": 0.4, "tickOpacity": 0.4, "gridOpacity": 0.12}
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {**TEXT, **LINES, **OPACITY, "labelLimit": 110, "titleFontSize": 12},
    "legend": {**TEXT, "orient": "top"},
}


def specification(chart: alt.TopLevelMixin, description: str, height: int) -> dict[str, Any]:
    """The specification of a chart that is as wide as its element."""
    chart = chart.properties(width="container", height=height, description=description).configure(**CONFIG)
    spec: dict[str, Any] = chart.to_dict()
    return spec


def inline_rows(table: pd.DataFrame) -> alt.InlineData:
    """The rows of a table, with null for NaN and infinity, which JSON does not have."""
    plain = table.replace([math.inf, -math.inf], math.nan).astype(object)
    values = plain.where(plain.notna(), None).to_dict("records")
    return alt.InlineData(values=values)  # type: ignore[arg-type]  # column names are text


def choice(
    name: str, title: str, labels: Sequence[str], values: Sequence[Any], first: Any, menu: bool = False
) -> alt.Parameter:
    """A parameter that the reader sets with radio buttons or a menu; ``first`` is its initial value."""
    binding = alt.binding_select if menu else alt.binding_radio
    control = binding(options=list(values), labels=list(labels), name=f"{title}: ")
    return alt.param(name=name, value=first, bind=control)


def hover(name: str, field: str) -> alt.Parameter:
    """The point that is nearest to the pointer."""
    return alt.selection_point(
        name=name, fields=[field], nearest=True, on="pointerover", clear="pointerout", empty=False
    )


def class_legend(classes: Sequence[str]) -> alt.Legend | None:
    """The legend of the classes below a chart, in as many columns as fit; None for too many classes."""
    if len(classes) > LEGEND:
        return None
    column = legend_column(classes)
    columns = alt.ExprRef(f"max(1, floor(width / {column}))")
    limit = column - 25
    return alt.Legend(title=None, orient="bottom", columns=columns, symbolLimit=0, labelLimit=limit, symbolOpacity=1)


def legend_column(classes: Sequence[str]) -> int:
    """The width in pixels of a column of a legend in which the names of the classes fit, unless they are very long."""
    # Characters of Chinese, Japanese and Korean are about twice as wide.
    widths = (sum(7 if ord(char) < 0x1100 else 12 for char in name) for name in classes)
    return min(max(widths, default=0), 240) + 35


def curve_by_epoch(epochs: pd.DataFrame, measure: str, best_epoch: int) -> dict[str, Any]:
    """Loss or accuracy of both splits by epoch, with a dotted line at the best epoch."""
    nearest = hover("at", "epoch")
    scale = alt.Scale(zero=False, nice=False, padding=12)
    numbers = sorted(set(epochs["epoch"]))
    # Of a short axis, Vega would draw ticks between the epochs, with the same labels.
    axis = alt.Axis(format="d", **({"values": numbers} if len(numbers) <= 10 else {"tickMinStep": 1}))
    base = alt.Chart(inline_rows(epochs[["epoch", "split", measure]])).encode(
        alt.X("epoch:Q", axis=axis, scale=scale),
        alt.Y(f"{measure}:Q", scale=alt.Scale(zero=False), axis=alt.Axis(minExtent=44)),
        alt.Color("split:N", scale=alt.Scale(domain=["train", "valid"], range=[BLUE, ORANGE]), title=None),
    )
    points = base.mark_point(filled=True, size=70).encode(
        opacity=alt.condition(nearest, alt.value(1), alt.value(0 if len(epochs) > 120 else 0.5)),
        tooltip=["split:N", "epoch:Q", alt.Tooltip(f"{measure}:Q", format=".4f")],
    )
    best = alt.Chart(inline_rows(pd.DataFrame({"epoch": [best_epoch]})))
    rule = best.mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="epoch:Q")
    chart = alt.layer(rule, base.mark_line(aria=False), points.add_params(nearest))
    return specification(chart, f"{measure} of the training and the validation split by epoch", 260)


def curve_by_step(steps: pd.DataFrame, measure: str, title: str) -> dict[str, Any]:
    """Loss, gradient norm or learning rate by step, the first two on a logarithmic scale if all values are positive."""
    table = steps[["step", measure]].replace([math.inf, -math.inf], math.nan).rename(columns={measure: "value"})
    groups = np.arange(len(table)) * LINE_POINTS // max(len(table), LINE_POINTS)
    drawn = table.groupby(groups).agg(
        step=("step", "median"), value=("value", "mean"), low=("value", "min"), high=("value", "max")
    )
    values = table["value"].dropna()
    log = measure != "lr" and len(values) > 0 and bool((values > 0).all())
    y: dict[str, Any] = {"scale": alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False), "title": title}
    axis = alt.Axis(minExtent=54, tickCount=4, format="~g")
    base = alt.Chart(inline_rows(drawn)).encode(alt.X("step:Q", scale=alt.Scale(nice=False), axis=alt.Axis(format="d")))
    band = base.mark_area(opacity=0.25, color=BLUE, aria=False).encode(alt.Y("low:Q", **y), y2="high:Q")
    line = base.mark_line(strokeWidth=1.2, color=BLUE, aria=False).encode(alt.Y("value:Q", axis=axis, **y))
    nearest = hover("at", "step")
    points = base.mark_point(filled=True, size=60, color=BLUE, aria=False).encode(
        alt.Y("value:Q", **y),
        opacity=alt.condition(nearest, alt.value(1), alt.value(0)),
        tooltip=[alt.Tooltip("step:Q", format=",.0f"), alt.Tooltip("value:Q", title=title, format=".4~g")],
    )
    layers = [*([band] if len(table) > LINE_POINTS else []), line, points.add_params(nearest)]
    return specification(alt.layer(*layers), f"{title} by training step", 170)


def tsne(layers: list[str], first: int, classes: list[str], audited: bool) -> dict[str, Any]:
    """One point per image. The page adds the data ``images``, with the columns x0, y0, x1 … by layer, from 0 to 1."""
    params = [
        choice("layer", "layer", layers, range(len(layers)), first, menu=True),
        choice("only", "show", ["all", "mistakes only", "correct only"], ["all", "mistakes", "correct"], "all"),
        choice("of_class", "true class", ["all", *classes], range(-1, len(classes)), -1, menu=True),
        choice("colour", "colour by", ["true class", "predicted class"], ["label", "prediction"], "label"),
    ]
    in_legend = alt.selection_point(name="picked", fields=["shown"], bind="legend")
    zoom = alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.shiftKey]")
    place = alt.Scale(domain=[-0.02, 1.02], nice=False)
    colours = alt.Scale(domain=classes, range=class_colours(len(classes)))
    shapes = alt.Scale(domain=[1, 0], range=["circle", "triangle-up"])
    label = "datum.value == 1 ? 'correct' : 'mistake'"
    legend = alt.Legend(title=None, labelExpr=label, orient="top", symbolFillColor=GREY, symbolSize=60)
    # Smaller on a phone, where they would cover each other.
    correct, mistake = ({"value": {"expr": f"width < 450 ? {a} : {b}"}} for a, b in ((16, 38), (34, 75)))
    sizes = alt.condition("datum.correct == 1", correct, mistake)
    findings = ["audit:N"] if audited else []
    chart = (
        alt.Chart(alt.NamedData("images"))
        .transform_calculate(x="datum['x' + layer]", y="datum['y' + layer]", shown="datum[colour]")
        .transform_filter("isValid(datum.x)")
        .transform_filter("only == 'all' || datum.correct == (only == 'correct' ? 1 : 0)")
        .transform_filter("of_class == -1 || datum.of_class == of_class")
        .transform_filter(in_legend)
        .mark_point(filled=True, opacity=0.85, aria=False)
        .encode(
            alt.X("x:Q", scale=place, axis=None),
            alt.Y("y:Q", scale=place, axis=None),
            color=alt.Color("shown:N", scale=colours, legend=class_legend(classes)),
            shape=alt.Shape("correct:N", scale=shapes, legend=legend),
            size=sizes,
            tooltip=["image:N", "name:N", "label:N", "prediction:N", "confidence:N", *findings],
        )
        .add_params(*params, in_legend, zoom)
    )
    spec = specification(chart, "t-SNE: one point per image, close together if their features are similar", 520)
    spec["view"] = {"stroke": GREY, "strokeOpacity": 0.4, "cursor": "grab"}
    beside = legend_column(classes) * math.ceil(len(classes) / 30) if len(classes) <= LEGEND else 0
    return spec | {"usermeta": {"maxWidth": 700 + beside, "legend": beside}}
