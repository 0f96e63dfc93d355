"""The chart of the t-SNE pictures, as a Vega-Lite specification."""

import math
from typing import Any

import altair as alt

from pipeline.colours import class_colours
from pipeline.report.chart_parts import GREY, LEGEND, class_legend, specification


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
