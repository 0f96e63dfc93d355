"""The charts of what the network predicts and how sure it is, as Vega-Lite specifications."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.plots.style import class_colours
from pipeline.report.charts import (
    BLUE,
    GREY,
    ORANGE,
    bin_ends,
    class_legend,
    inline_rows,
    kind_colour,
    specification,
)

# Up to so many classes cells have numbers, and curves a colour each; of more, the worst have curves.
NUMBERED, COLOURED, CURVES = 25, 20, 50
INTERVALS = ("precision", "recall", "f1")


def confusion(images: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Draw the confusion matrix: blue what is right, orange the mistakes, the stronger the more."""
    counts = images.groupby(["class", "predicted_class"], sort=False).size().rename("images").reset_index()
    counts["share"] = counts["images"] / counts.groupby("class")["images"].transform("sum")
    counts["kind"] = np.where(counts["class"] == counts["predicted_class"], "right", "mistake")
    show = alt.param(
        name="show",
        value="images",
        bind=alt.binding_radio(
            options=["images", "share"], labels=["number of images", "share of the true class"], name="show: "
        ),
    )
    base = (
        alt.Chart(inline_rows(counts))
        .transform_calculate(value="datum[show]", text="show == 'images' ? datum.images : format(datum.share, '.0%')")
        .encode(
            alt.X("predicted_class:N", scale=_bands(classes), axis=_class_axis(classes, "predicted class", -40)),
            alt.Y("class:N", scale=_bands(classes), axis=_class_axis(classes, "true class", 0)),
        )
    )
    cells = base.mark_rect(cursor="pointer").encode(
        color=kind_colour(),
        opacity=alt.Opacity(
            "value:Q", scale=alt.Scale(type="sqrt", domainMin=0, range=[0.12, 0.95], nice=False), legend=None
        ),
        tooltip=[
            alt.Tooltip("class:N", title="true class"),
            alt.Tooltip("predicted_class:N", title="predicted"),
            alt.Tooltip("images:Q", format=",d"),
            alt.Tooltip("share:Q", title="share of the true class", format=".1%"),
        ],
    )
    size = alt.ExprRef("min(12, 0.42 * bandwidth('x'))")
    text = base.mark_text(color="currentColor", fontSize=size, tooltip=None, aria=False, clip=True).encode(
        text="text:N"
    )
    numbered = len(classes) <= NUMBERED
    chart = (alt.layer(cells, text) if numbered else cells).add_params(show)
    step = 32 if len(classes) <= 12 else 24 if numbered else 14
    side = max(len(classes) * step, 140)
    spec = specification(chart, "Confusion matrix: images by true and predicted class", side)
    spec["view"] = {"fill": GREY, "fillOpacity": 0.08}
    return spec | {"usermeta": {"maxWidth": round(side * 1.7 + 160)}}


def by_class(table: pd.DataFrame) -> dict[str, Any]:
    """Draw precision, recall or F1 of each class with its interval, the worst first."""
    rows = []
    for measure in INTERVALS:
        ends = {end: table.get(f"{measure}_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high")}
        part = table[["class", "images"]].assign(measure=measure, value=table[measure], **ends)
        rows.append(part[part["value"].notna()])
    chosen = alt.param(
        name="measure", value="recall", bind=alt.binding_select(options=["recall", "precision", "f1"], name="measure: ")
    )
    order = alt.EncodingSortField("value", order="ascending", op="max")
    axis = alt.Axis(title=None, labelLimit=130)
    base = (
        alt.Chart(inline_rows(pd.concat(rows)))
        .transform_filter("datum.measure == measure")
        .encode(alt.Y("class:N", sort=order, axis=axis))
    )
    tooltip = [
        "class:N",
        "measure:N",
        alt.Tooltip("value:Q", format=".1%"),
        alt.Tooltip("low:Q", title="95 % from", format=".1%"),
        alt.Tooltip("high:Q", title="to", format=".1%"),
        alt.Tooltip("images:Q", format=",d"),
    ]
    scale = alt.Scale(domain=[0, 1], nice=False)
    bars = base.mark_bar(color=BLUE, opacity=0.75).encode(
        alt.X("value:Q", scale=scale, axis=alt.Axis(format=".0%"), title=None), tooltip=tooltip
    )
    bounded = base.transform_filter("isValid(datum.low)")
    rule = bounded.mark_rule(strokeWidth=1.6, color="currentColor", aria=False).encode(
        alt.X("low:Q", title=None), x2="high:Q"
    )
    chart = alt.layer(bars, rule).add_params(chosen)
    return specification(chart, "Recall, precision or F1 by class, with 95 % intervals", max(len(table) * 20, 60))


def curves(table: pd.DataFrame, areas: pd.DataFrame, area: str, x: str, y: str) -> dict[str, Any]:
    """Draw an ROC or precision-recall curve a class; of many classes those with the least area."""
    ranked = areas.dropna(subset=[area]).nsmallest(CURVES, area) if area in areas else areas.head(CURVES)
    names = [name for name in areas["class"] if name in set(ranked["class"])]
    table = table[table["class"].isin(names)]
    if area in areas:
        table = table.merge(areas[["class", area]], on="class")
    title = {"roc_auc": "area", "average_precision": "average precision"}[area]
    hover = alt.selection_point(name="over", fields=["class"], on="pointerover", clear="pointerout")
    few = len(names) <= COLOURED
    colour = alt.Color(
        "class:N",
        scale=alt.Scale(domain=names, range=class_colours(len(names))),
        legend=class_legend(len(names)) if few else None,
        title=None,
    )
    unit = alt.Scale(domain=[0, 1], nice=False)
    lines = (
        alt.Chart(inline_rows(table.round(4)))
        .mark_line(interpolate="step-after" if area == "roc_auc" else "step-before", aria=False)
        .encode(
            alt.X(f"{x}:Q", scale=unit, title={"fpr": "false positive rate"}.get(x, x)),
            alt.Y(f"{y}:Q", scale=unit, title={"tpr": "true positive rate"}.get(y, y)),
            color=colour if few else alt.condition(hover, alt.value(BLUE), alt.value(GREY), empty=False),
            detail="class:N",
            order=f"{x}:Q",
            opacity=alt.condition(hover, alt.value(0.9), alt.value(0.15)),
            strokeWidth=alt.value(1.8),
            tooltip=["class:N", alt.Tooltip(f"{area}:Q", title=title, format=".3f")],
        )
        .add_params(hover)
    )
    return specification(lines, f"{y} over {x} of each class", 320)


def reliability(table: pd.DataFrame) -> dict[str, Any]:
    """Draw accuracy over confidence; on the dashed line the network is as right as it is sure."""
    kinds = list(dict.fromkeys(table["probabilities"]))
    kind = alt.param(name="kind", value=kinds[0], bind=alt.binding_radio(options=kinds, name="probabilities: "))
    unit = alt.Scale(domain=[0, 1], nice=False)
    percent = alt.Axis(format=".0%")
    base = alt.Chart(inline_rows(table)).transform_filter("datum.probabilities == kind")
    y = alt.Y("accuracy:Q", scale=unit, axis=percent, title="accuracy")
    tooltip = [
        *bin_ends(".0%"),
        alt.Tooltip("images:Q", format=",d"),
        alt.Tooltip("confidence:Q", title="mean confidence", format=".1%"),
        alt.Tooltip("accuracy:Q", format=".1%"),
    ]
    bars = base.mark_rect(color=BLUE, fillOpacity=0.35, stroke=BLUE, strokeOpacity=0.6).encode(
        alt.X("low:Q", scale=unit, axis=percent, title="confidence"), y, x2="high:Q", y2=alt.datum(0), tooltip=tooltip
    )
    size = alt.Size("images:Q", scale=alt.Scale(range=[25, 420]), legend=None)
    points = base.mark_circle(color=ORANGE, opacity=0.9).encode(
        alt.X("confidence:Q", scale=unit, title="confidence"), y, size=size, tooltip=tooltip
    )
    ends = alt.Chart(inline_rows(pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})))
    line = ends.mark_line(color=GREY, strokeDash=[5, 4], aria=False).encode(
        alt.X("confidence:Q", title="confidence"), y
    )
    chart = alt.layer(bars, line, points).add_params(kind)
    return specification(chart, "Reliability diagram: accuracy over confidence", 340)


def confidences(images: pd.DataFrame) -> dict[str, Any]:
    """Draw how many images have which confidence, the right ones and the mistakes."""
    bins = (images["confidence"] * 20).astype(int).clip(0, 19)
    counts = images.groupby([bins.rename("bin"), "correct"]).size().rename("images").reset_index()
    counts["low"], counts["high"] = counts["bin"] / 20, (counts["bin"] + 1) / 20
    counts["kind"] = np.where(counts["correct"] == 1, "right", "mistake")
    chart = (
        alt.Chart(inline_rows(counts))
        .mark_bar(opacity=0.8)
        .encode(
            alt.X(
                "low:Q",
                bin="binned",
                scale=alt.Scale(domain=[0, 1], nice=False),
                axis=alt.Axis(format=".0%"),
                title="confidence",
            ),
            alt.Y("images:Q", stack="zero", title="images"),
            x2="high:Q",
            color=kind_colour(),
            tooltip=["kind:N", alt.Tooltip("images:Q", format=",d"), *bin_ends(".0%")],
        )
    )
    return specification(chart, "Number of images by confidence, right ones and mistakes", 340)


def _bands(classes: list[str]) -> alt.Scale:
    return alt.Scale(domain=classes, paddingInner=0.04 if len(classes) <= NUMBERED else 0)


def _class_axis(classes: list[str], title: str, angle: int) -> alt.Axis:
    many = len(classes) > NUMBERED
    return alt.Axis(
        title=title,
        labelAngle=-90 if angle and many else angle,
        labelFontSize=9 if many else 11,
        labelOverlap=many,
        grid=False,
        ticks=False,
        domain=False,
    )
