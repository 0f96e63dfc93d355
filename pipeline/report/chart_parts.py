"""What the charts have in common. Colours of text and lines come from the page, so they fit light and dark."""

import math
from typing import Any

import altair as alt
import pandas as pd

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
