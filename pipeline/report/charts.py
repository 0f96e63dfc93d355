"""The charts as Vega-Lite specifications. Colours of text and lines come from the page, so they fit light and dark."""

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.colours import class_colours

BLUE, ORANGE, GREY = "#4c84c9", "#e8743b", "#8b949e"
# A line of more points is drawn as the mean of so many groups, with their lowest and highest value as a band.
LINE_POINTS = 500
# Up to so many classes cells have numbers, points a legend, and curves a colour each; of more, the worst have curves.
NUMBERED, LEGEND, COLOURED, CURVES = 25, 40, 20, 50
INTERVALS = ("precision", "recall", "f1")
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


def curve_by_epoch(epochs: pd.DataFrame, measure: str, best_epoch: int | None) -> dict[str, Any]:
    """Draw the loss or the accuracy of both splits; a dotted line marks the epoch that was kept."""
    hover = alt.selection_point(
        name="at", fields=["epoch"], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    base = alt.Chart(_rows(epochs[["epoch", "split", measure]])).encode(
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
    best = alt.Chart(_rows(pd.DataFrame({"epoch": [best_epoch] if best_epoch else []})))
    rule = best.mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="epoch:Q")
    chart = alt.layer(rule, base.mark_line(aria=False), points.add_params(hover))
    return _spec(chart, f"{measure} of the training and the validation split by epoch", 260)


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
    base = alt.Chart(_rows(drawn)).encode(alt.X("step:Q", scale=alt.Scale(nice=False), axis=alt.Axis(format="d")))
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
    return _spec(alt.layer(*layers), f"{title} by training step", 170)


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
        alt.Chart(_rows(counts))
        .transform_calculate(value="datum[show]", text="show == 'images' ? datum.images : format(datum.share, '.0%')")
        .encode(
            alt.X("predicted_class:N", scale=_bands(classes), axis=_class_axis(classes, "predicted class", -40)),
            alt.Y("class:N", scale=_bands(classes), axis=_class_axis(classes, "true class", 0)),
        )
    )
    cells = base.mark_rect(cursor="pointer").encode(
        color=_kind_colour(),
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
    spec = _spec(chart, "Confusion matrix: images by true and predicted class", side)
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
        alt.Chart(_rows(pd.concat(rows)))
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
    return _spec(chart, "Recall, precision or F1 by class, with 95 % intervals", max(len(table) * 20, 60))


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
        legend=_legend(len(names)) if few else None,
        title=None,
    )
    unit = alt.Scale(domain=[0, 1], nice=False)
    lines = (
        alt.Chart(_rows(table.round(4)))
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
    return _spec(lines, f"{y} over {x} of each class", 320)


def reliability(table: pd.DataFrame) -> dict[str, Any]:
    """Draw accuracy over confidence; on the dashed line the network is as right as it is sure."""
    kinds = list(dict.fromkeys(table["probabilities"]))
    kind = alt.param(name="kind", value=kinds[0], bind=alt.binding_radio(options=kinds, name="probabilities: "))
    unit = alt.Scale(domain=[0, 1], nice=False)
    percent = alt.Axis(format=".0%")
    base = alt.Chart(_rows(table)).transform_filter("datum.probabilities == kind")
    y = alt.Y("accuracy:Q", scale=unit, axis=percent, title="accuracy")
    tooltip = [
        *_ends(".0%"),
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
    ends = alt.Chart(_rows(pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})))
    line = ends.mark_line(color=GREY, strokeDash=[5, 4], aria=False).encode(
        alt.X("confidence:Q", title="confidence"), y
    )
    chart = alt.layer(bars, line, points).add_params(kind)
    return _spec(chart, "Reliability diagram: accuracy over confidence", 340)


def confidences(images: pd.DataFrame) -> dict[str, Any]:
    """Draw how many images have which confidence, the right ones and the mistakes."""
    bins = (images["confidence"] * 20).astype(int).clip(0, 19)
    counts = images.groupby([bins.rename("bin"), "correct"]).size().rename("images").reset_index()
    counts["low"], counts["high"] = counts["bin"] / 20, (counts["bin"] + 1) / 20
    counts["kind"] = np.where(counts["correct"] == 1, "right", "mistake")
    chart = (
        alt.Chart(_rows(counts))
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
            color=_kind_colour(),
            tooltip=["kind:N", alt.Tooltip("images:Q", format=",d"), *_ends(".0%")],
        )
    )
    return _spec(chart, "Number of images by confidence, right ones and mistakes", 340)


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
                legend=_legend(len(classes)),
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
    spec = _spec(chart, "t-SNE: a point an image, near each other where the network sees them alike", 520)
    spec["view"] = {"stroke": GREY, "strokeOpacity": 0.4, "cursor": "grab"}
    return spec | {"usermeta": {"maxWidth": 700 + 150 * math.ceil(len(classes) / 30) * (len(classes) <= LEGEND)}}


def _spec(chart: alt.TopLevelMixin, description: str, height: int) -> dict[str, Any]:
    """The specification, as wide as the page lets it be."""
    chart = chart.properties(width="container", height=height, description=description).configure(**CONFIG)
    spec: dict[str, Any] = chart.to_dict()
    return spec


def _rows(table: pd.DataFrame) -> alt.InlineData:
    """The rows of a table as JSON has them: no NaN, no infinity."""
    plain = table.replace([math.inf, -math.inf], math.nan).astype(object)
    values = plain.where(plain.notna(), None).to_dict("records")
    return alt.InlineData(values=values)  # type: ignore[arg-type]  # the names of columns are text


def _value(expression: str) -> dict[str, Any]:
    return {"value": {"expr": expression}}


def _kind_colour() -> alt.Color:
    return alt.Color("kind:N", scale=alt.Scale(domain=["right", "mistake"], range=[BLUE, ORANGE]), title=None)


def _ends(form: str) -> list[alt.Tooltip]:
    return [alt.Tooltip("low:Q", title="from", format=form), alt.Tooltip("high:Q", title="to", format=form)]


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


def _legend(count: int) -> alt.Legend | None:
    if count > LEGEND:
        return None
    columns = alt.ExprRef("max(1, floor(width / 130))")
    return alt.Legend(title=None, orient="bottom", columns=columns, symbolLimit=0, labelLimit=105, symbolOpacity=1)


def _shapes() -> alt.Legend:
    return alt.Legend(
        title=None,
        labelExpr="datum.value == 1 ? 'right' : 'mistake'",
        orient="top",
        symbolFillColor=GREY,
        symbolSize=60,
    )
