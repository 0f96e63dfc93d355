"""Vega-Lite charts of the predictions and their confidence."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.plots.style import class_colours
from pipeline.report.charts import BLUE, GREY, ORANGE, choice, class_legend, inline_rows, specification

# Most classes with numbers in the cells, with a colour for each curve, and with curves.
NUMBERED, COLOURED, CURVES = 25, 20, 50
MEASURES = ("recall", "precision", "f1")
# The name of a class on an axis, from its key.
NAME = "slice(datum.label, 1)"
UNIT = alt.Scale(domain=[0, 1], nice=False)
PERCENT = alt.Axis(format=".0%")
COUNT = alt.Tooltip("images:Q", format=",d")
BIN = [alt.Tooltip("low:Q", title="from", format=".0%"), alt.Tooltip("high:Q", title="to", format=".0%")]
KIND = alt.Color("kind:N", scale=alt.Scale(domain=["correct", "mistake"], range=[BLUE, ORANGE]), title=None)


def confusion(images: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """The confusion matrix: correct predictions blue, mistakes orange, and the more images, the more opaque."""
    counts = images.groupby(["class", "predicted_class"], sort=False).size().rename("images").reset_index()
    counts["share"] = counts["images"] / counts.groupby("class")["images"].transform("sum")
    counts["kind"] = np.where(counts["class"] == counts["predicted_class"], "correct", "mistake")
    show = choice("show", "show", ["number of images", "share of the true class"], ["images", "share"], "images")
    numbered = len(classes) <= NUMBERED
    counts["true_key"], counts["predicted_key"] = _key(counts["class"]), _key(counts["predicted_class"])
    bands = alt.Scale(domain=[f"={name}" for name in classes], paddingInner=0.04 if numbered else 0)
    style: dict[str, Any] = {"labelFontSize": 11 if numbered else 9, "labelOverlap": not numbered}
    style |= {"labelExpr": NAME, "grid": False, "ticks": False, "domain": False}
    x_axis = alt.Axis(title="predicted class", labelAngle=-40 if numbered else -90, **style)
    y_axis = alt.Axis(title="true class", labelAngle=0, **style)
    base = (
        alt.Chart(inline_rows(counts))
        .transform_calculate(value="datum[show]", text="show == 'images' ? datum.images : format(datum.share, '.0%')")
        .encode(alt.X("predicted_key:N", scale=bands, axis=x_axis), alt.Y("true_key:N", scale=bands, axis=y_axis))
    )
    opacity = alt.Scale(type="sqrt", domainMin=0, range=[0.12, 0.95], nice=False)
    tooltip = [
        alt.Tooltip("class:N", title="true class"),
        alt.Tooltip("predicted_class:N", title="predicted"),
        COUNT,
        alt.Tooltip("share:Q", title="share of the true class", format=".1%"),
    ]
    cells = base.mark_rect(cursor="pointer").encode(
        color=KIND, opacity=alt.Opacity("value:Q", scale=opacity, legend=None), tooltip=tooltip
    )
    size = alt.ExprRef("min(12, 0.42 * bandwidth('x'))")
    text = base.mark_text(color="currentColor", fontSize=size, tooltip=None, aria=False, clip=True)
    chart = (alt.layer(cells, text.encode(text="text:N")) if numbered else cells).add_params(show)
    side = max(len(classes) * (32 if len(classes) <= 12 else 24 if numbered else 14), 140)
    spec = specification(chart, "Confusion matrix: images by true and predicted class", side)
    spec["view"] = {"fill": GREY, "fillOpacity": 0.08}
    return spec | {"usermeta": {"maxWidth": round(side * 1.7 + 160)}}


def _key(classes: pd.Series) -> pd.Series:
    """What Vega finds rows by: as a property of a JavaScript object, which has a ``constructor`` and ``__proto__``."""
    return "=" + classes


def by_class(table: pd.DataFrame) -> dict[str, Any]:
    """Precision, recall or F1 of each class with its interval, the worst first."""
    rows = []
    for measure in MEASURES:
        ends = {end: table.get(f"{measure}_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high")}
        part = table[["class", "images"]].assign(measure=measure, value=table[measure], **ends)
        rows.append(part[part["value"].notna()])
    bars_of = pd.concat(rows)
    bars_of["key"] = _key(bars_of["class"])
    order = alt.EncodingSortField("value", order="ascending", op="max")
    base = (
        alt.Chart(inline_rows(bars_of))
        .transform_filter("datum.measure == measure")
        .encode(alt.Y("key:N", sort=order, axis=alt.Axis(title=None, labelLimit=130, labelExpr=NAME)))
    )
    tooltip = [
        *("class:N", "measure:N", alt.Tooltip("value:Q", format=".1%")),
        alt.Tooltip("low:Q", title="95 % from", format=".1%"),
        alt.Tooltip("high:Q", title="to", format=".1%"),
        COUNT,
    ]
    bars = base.mark_bar(color=BLUE, opacity=0.75).encode(
        alt.X("value:Q", scale=UNIT, axis=PERCENT, title=None), tooltip=tooltip
    )
    rule = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.6, color="currentColor", aria=False)
    intervals = rule.encode(alt.X("low:Q", title=None), x2="high:Q")
    chart = alt.layer(bars, intervals).add_params(choice("measure", "metric", MEASURES, MEASURES, "recall", menu=True))
    return specification(chart, "Recall, precision or F1 by class, with 95 % intervals", max(len(table) * 20, 60))


def curves(table: pd.DataFrame, classes: pd.DataFrame, area: str, x: str, y: str) -> dict[str, Any]:
    """An ROC or precision-recall curve per class; of many classes, those with the smallest areas."""
    colour_of = dict(zip(classes["class"], class_colours(len(classes)), strict=True))
    worst = set(classes.dropna(subset=[area]).nsmallest(CURVES, area)["class"])
    names = [name for name in classes["class"] if name in worst]
    table = table[table["class"].isin(names)].merge(classes[["class", area]], on="class")
    table["key"] = _key(table["class"])
    pointed = alt.selection_point(name="over", fields=["class"], on="pointerover", clear="pointerout")
    colour: Any = alt.condition(pointed, alt.value(BLUE), alt.value(GREY), empty=False)
    if len(names) <= COLOURED:
        scale = alt.Scale(domain=names, range=[colour_of[name] for name in names])
        colour = alt.Color("class:N", scale=scale, legend=class_legend(names), title=None)
    titles = {"fpr": "false positive rate", "tpr": "true positive rate", "roc_auc": "area"}
    tooltip = ["class:N", alt.Tooltip(f"{area}:Q", title=titles.get(area, "average precision"), format=".3f")]
    lines = (
        alt.Chart(inline_rows(table.round(4)))
        .mark_line(interpolate="step-after" if area == "roc_auc" else "step-before", aria=False)
        .encode(
            alt.X(f"{x}:Q", scale=UNIT, title=titles.get(x, x)),
            alt.Y(f"{y}:Q", scale=UNIT, title=titles.get(y, y)),
            color=colour,
            detail="key:N",
            order=f"{x}:Q",
            opacity=alt.condition(pointed, alt.value(0.9), alt.value(0.15)),
            strokeWidth=alt.value(1.8),
            tooltip=tooltip,
        )
        .add_params(pointed)
    )
    return specification(lines, f"{y} by {x} of each class", 320)


def reliability(table: pd.DataFrame) -> dict[str, Any]:
    """Accuracy by confidence; the dashed line is perfect calibration."""
    kinds = list(dict.fromkeys(table["probabilities"]))
    kind = choice("kind", "probabilities", kinds, kinds, kinds[0])
    base = alt.Chart(inline_rows(table)).transform_filter("datum.probabilities == kind")
    y = alt.Y("accuracy:Q", scale=UNIT, axis=PERCENT, title="accuracy")
    confidence = alt.Tooltip("confidence:Q", title="mean confidence", format=".1%")
    tooltip = [*BIN, COUNT, confidence, alt.Tooltip("accuracy:Q", format=".1%")]
    bars = base.mark_rect(color=BLUE, fillOpacity=0.35, stroke=BLUE, strokeOpacity=0.6).encode(
        alt.X("low:Q", scale=UNIT, axis=PERCENT, title="confidence"), y, x2="high:Q", y2=alt.datum(0), tooltip=tooltip
    )
    size = alt.Size("images:Q", scale=alt.Scale(range=[25, 420]), legend=None)
    x = alt.X("confidence:Q", scale=UNIT, title="confidence")
    points = base.mark_circle(color=ORANGE, opacity=0.9).encode(x, y, size=size, tooltip=tooltip)
    ends = alt.Chart(inline_rows(pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})))
    diagonal = ends.mark_line(color=GREY, strokeDash=[5, 4], aria=False).encode(x, y)
    chart = alt.layer(bars, diagonal, points).add_params(kind)
    return specification(chart, "Reliability diagram: accuracy by confidence", 340)


def risk_coverage(table: pd.DataFrame) -> dict[str, Any]:
    """The accuracy of the accepted predictions by their share of all images."""
    tooltip = [
        alt.Tooltip("confidence:Q", title="lowest probability", format=".1%"),
        *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("coverage", "accuracy")),
    ]
    chart = (
        alt.Chart(inline_rows(table))
        .mark_line(color=BLUE, point={"size": 12, "color": BLUE})
        .encode(
            alt.X("coverage:Q", scale=UNIT, axis=PERCENT, title="share of the images that get an answer"),
            alt.Y("accuracy:Q", scale=alt.Scale(zero=False), axis=alt.Axis(format=".1%"), title="accuracy of these"),
            tooltip=tooltip,
        )
    )
    return specification(chart, "Accuracy of the answers if the least probable predictions are unsure", 340)


def confidences(images: pd.DataFrame) -> dict[str, Any]:
    """The number of images by confidence, correct predictions and mistakes."""
    bins = (images["confidence"] * 20).astype(int).clip(0, 19)
    counts = images.groupby([bins.rename("bin"), "correct"]).size().rename("images").reset_index()
    counts["low"], counts["high"] = counts["bin"] / 20, (counts["bin"] + 1) / 20
    counts["kind"] = np.where(counts["correct"] == 1, "correct", "mistake")
    chart = (
        alt.Chart(inline_rows(counts))
        .mark_bar(opacity=0.8)
        .encode(
            alt.X("low:Q", bin="binned", scale=UNIT, axis=PERCENT, title="confidence"),
            alt.Y("images:Q", stack="zero", title="images"),
            x2="high:Q",
            color=KIND,
            tooltip=["kind:N", COUNT, *BIN],
        )
    )
    return specification(chart, "Number of images by confidence, correct predictions and mistakes", 340)
