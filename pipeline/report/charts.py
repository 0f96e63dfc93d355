"""What the charts have in common. Colours of text and lines come from the page, so they fit light and dark."""

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.plots.style import class_colours

BLUE, ORANGE, GREY = "#4c84c9", "#e8743b", "#8b949e"
# Of more classes there is no legend.
LEGEND = 40
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "domainColor": "currentColor",
        "domainOpacity": 0.4,
        "tickColor": "currentColor",
        "tickOpacity": 0.4,
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "labelLimit": 110,
        "labelFontSize": 11,
        "titleFontSize": 12,
    },
    "legend": {
        "labelFontSize": 11,
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "orient": "top",
    },
}


def specification(chart: alt.TopLevelMixin, description: str, height: int) -> dict[str, Any]:
    """The specification, as wide as the page lets it be."""
    chart = chart.properties(width="container", height=height, description=description).configure(**CONFIG)
    spec: dict[str, Any] = chart.to_dict()
    return spec


def inline_rows(table: pd.DataFrame) -> alt.InlineData:
    """The rows of a table as JSON has them: no NaN, no infinity."""
    plain = table.replace([math.inf, -math.inf], math.nan).astype(object)
    values = plain.where(plain.notna(), None).to_dict("records")
    return alt.InlineData(values=values)  # type: ignore[arg-type]  # the names of columns are text


def kind_colour() -> alt.Color:
    """Blue for what is right, orange for the mistakes, by the field ``kind``."""
    return alt.Color("kind:N", scale=alt.Scale(domain=["right", "mistake"], range=[BLUE, ORANGE]), title=None)


def bin_ends(form: str) -> list[alt.Tooltip]:
    """The ends of a bin in a tooltip, written in the format ``form``."""
    return [alt.Tooltip("low:Q", title="from", format=form), alt.Tooltip("high:Q", title="to", format=form)]


def class_legend(count: int) -> alt.Legend | None:
    """The legend of ``count`` classes below a chart, in as many columns as fit; None for too many."""
    if count > LEGEND:
        return None
    columns = alt.ExprRef("max(1, floor(width / 130))")
    return alt.Legend(title=None, orient="bottom", columns=columns, symbolLimit=0, labelLimit=105, symbolOpacity=1)


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


def tsne(layers: list[str], first: int, classes: list[str], audited: bool) -> dict[str, Any]:
    """Draw a point an image. The page fills the data ``images`` in: x0, y0, x1 … by layer, in 0 to 1."""
    params = [
        alt.param(
            name="layer",
            value=first,
            bind=alt.binding_select(options=list(range(len(layers))), labels=layers, name="layer: "),
        ),
        alt.param(
            name="only",
            value="all",
            bind=alt.binding_radio(
                options=["all", "mistakes", "right"],
                labels=["all images", "mistakes only", "right ones only"],
                name="show: ",
            ),
        ),
        alt.param(
            name="of_class",
            value=-1,
            bind=alt.binding_select(
                options=list(range(-1, len(classes))), labels=["all", *classes], name="true class: "
            ),
        ),
        alt.param(
            name="colour",
            value="label",
            bind=alt.binding_radio(
                options=["label", "prediction"], labels=["true class", "predicted class"], name="colour by: "
            ),
        ),
    ]
    picked = alt.selection_point(name="picked", fields=["shown"], bind="legend")
    view = alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.shiftKey]")
    place = alt.Scale(domain=[-0.02, 1.02], nice=False)
    chart = (
        alt.Chart(alt.NamedData("images"))
        .transform_calculate(x="datum['x' + layer]", y="datum['y' + layer]", shown="datum[colour]")
        .transform_filter("isValid(datum.x)")
        .transform_filter("only == 'all' || datum.correct == (only == 'right' ? 1 : 0)")
        .transform_filter("of_class == -1 || datum.of_class == of_class")
        .transform_filter(picked)
        .mark_point(filled=True, opacity=0.85, aria=False)
        .encode(
            alt.X("x:Q", scale=place, axis=None),
            alt.Y("y:Q", scale=place, axis=None),
            color=alt.Color(
                "shown:N",
                scale=alt.Scale(domain=classes, range=class_colours(len(classes))),
                legend=class_legend(len(classes)),
            ),
            shape=alt.Shape(
                "correct:N", scale=alt.Scale(domain=[1, 0], range=["circle", "triangle-up"]), legend=_shapes()
            ),
            # Smaller on a telephone, where they would hide each other.
            size=alt.condition("datum.correct == 1", _value("width < 450 ? 16 : 38"), _value("width < 450 ? 34 : 75")),
            tooltip=["image:N", "name:N", "label:N", "prediction:N", "confidence:N", *(["audit:N"] if audited else [])],
        )
        .add_params(*params, picked, view)
    )
    spec = specification(chart, "t-SNE: a point an image, near each other where the network sees them alike", 520)
    spec["view"] = {"stroke": GREY, "strokeOpacity": 0.4, "cursor": "grab"}
    return spec | {"usermeta": {"maxWidth": 700 + 150 * math.ceil(len(classes) / 30) * (len(classes) <= LEGEND)}}


def _value(expression: str) -> dict[str, Any]:
    return {"value": {"expr": expression}}


def _shapes() -> alt.Legend:
    return alt.Legend(
        title=None,
        labelExpr="datum.value == 1 ? 'right' : 'mistake'",
        orient="top",
        symbolFillColor=GREY,
        symbolSize=60,
    )
