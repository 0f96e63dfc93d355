"""The report as one file: the charts, the images and the JavaScript that draws them are all inside."""

from typing import Any

import jinja2
import numpy as np
import pandas as pd
import vl_convert

from pipeline.common.dataset import PackedSplit
from pipeline.report.changes import Changes, flattened
from pipeline.report.charts import curve_by_epoch, curve_by_step, tsne
from pipeline.report.evaluation_charts import by_class, confidences, confusion, curves, reliability
from pipeline.report.inputs import Inputs, Thumbnails, make_thumbnails

# More points than this make a browser slow; so many mistakes can be looked through, and rows of a table are shown.
POINTS, MISTAKES, ROWS = 8_000, 1_000, 200
# Bytes for all pictures of images: the page stays below 10 MB.
PICTURES = 5_000_000
AUDIT = {
    "bad_images": "bad files",
    "leaks": "leaks",
    "contradictory_labels": "contradictory labels",
    "duplicates": "duplicates",
    "dark": "dark",
    "bright": "bright",
    "blurred": "blurred or blank",
    "tiny": "tiny",
}


def report_page(inputs: Inputs, params: dict[str, Any], changes: Changes, split: PackedSplit) -> str:
    """Draw the page as HTML; ``split`` is the one that was evaluated."""
    classes = inputs.classes["class"].tolist()
    table, shown = _images_of_page(inputs, split)
    layer = str(inputs.metrics["tsne"].get("layer", ""))
    specs = _charts(inputs, classes, inputs.layers.index(layer) if layer in inputs.layers else 0)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Scripts and numbers must come out alike on each run, and in the order of the tables.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters |= {"value": _written, "number": _number, "signed": _signed}
    return environment.get_template("page.html.jinja").render(
        metrics=inputs.metrics,
        accuracy=_accuracy(inputs.metrics["evaluate"]),
        changes=changes,
        rows=ROWS,
        params=flattened(params),
        model=params.get("model", {}),
        audit=[(title, inputs.metrics["audit"].get(name)) for name, title in AUDIT.items()],
        classes=inputs.classes,
        pairs=inputs.pairs,
        layers=_layer_metrics(inputs.metrics["tsne"]),
        specs=specs,
        images=table,
        shown=shown,
        class_names=classes,
        javascript=vl_convert.javascript_bundle(),  # type: ignore[call-arg]  # it needs no snippet
    )


def _charts(inputs: Inputs, classes: list[str], layer: int) -> dict[str, dict[str, Any]]:
    """Every chart's specification by the id of its place in the page."""
    best = inputs.metrics["train"].get("best_epoch")
    specs = {f"epoch-{name}": curve_by_epoch(inputs.epochs, name, best) for name in ("loss", "accuracy")}
    for name, title in (("loss", "loss"), ("gradient_norm", "gradient norm"), ("lr", "learning rate")):
        specs[f"step-{name}"] = curve_by_step(inputs.steps, name, title)
    specs["confusion-chart"] = confusion(inputs.images, classes)
    specs["classes-chart"] = by_class(inputs.classes)
    if len(inputs.roc):
        specs["roc"] = curves(inputs.roc, inputs.classes, "roc_auc", "fpr", "tpr")
        precision_recall = inputs.precision_recall
        specs["precision-recall"] = curves(precision_recall, inputs.classes, "average_precision", "recall", "precision")
    specs["reliability-chart"] = reliability(inputs.reliability)
    specs["confidences"] = confidences(inputs.images)
    specs["tsne-chart"] = tsne(inputs.layers, layer, classes, bool((inputs.images["finding"] != "").any()))
    return specs


def _images_of_page(inputs: Inputs, split: PackedSplit) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """The columns of the images that the page shows, in the t-SNE picture or as mistakes, and how many they are."""
    row_of = {name: row for row, name in enumerate(split.ids)}
    judged = inputs.images
    placed = _positions(inputs.points, inputs.layers)
    placed = placed[placed.index.isin(judged["id"])]
    some = placed.iloc[np.unique(np.linspace(0, len(placed) - 1, min(len(placed), POINTS)).round().astype(int))]
    wrong = judged[judged["correct"] == 0].sort_values("confidence", ascending=False, kind="stable")
    listed = wrong.head(MISTAKES)
    # The mistakes are drawn last, above the others, and lie together for the gallery, the most confident first.
    right = judged[judged["id"].isin(some.index) & (judged["correct"] == 1)]
    other = wrong[wrong["id"].isin(some.index) & ~wrong["id"].isin(listed["id"])]
    images = pd.concat([right, other, listed])
    rows = [row_of[name] for name in images["id"]]
    thumbnails = make_thumbnails(split.images, rows, {row_of[name] for name in listed["id"]}, PICTURES)
    columns = _columns(images, rows, thumbnails, inputs.classes["class"].tolist())
    columns |= {
        name: [None if np.isnan(v) else int(v) for v in some[name].reindex(images["id"])] for name in some.columns
    }
    counts = {
        "images": len(images),
        "pictures": len(thumbnails.uris),
        "side": thumbnails.side,
        "placed": len(placed),
        "points": len(some),
        "mistakes": len(wrong),
        "listed": len(listed),
    }
    return columns, counts


def _columns(images: pd.DataFrame, rows: list[int], thumbnails: Thumbnails, classes: list[str]) -> dict[str, list[Any]]:
    index_of = {name: index for index, name in enumerate(classes)}
    return {
        "image": [thumbnails.uris.get(row, "") for row in rows],
        "name": images["source"].str.rpartition("/")[2].tolist(),
        "label": [index_of[name] for name in images["class"]],
        "prediction": [index_of[name] for name in images["predicted_class"]],
        "confidence": images["confidence"].round(4).tolist(),
        "audit": images["finding"].tolist(),
    }


def _positions(points: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """x0, y0, x1 … by layer for each id, from 0 to 10,000; the axes of t-SNE have no unit, but must stay alike."""
    columns: dict[str, pd.Series[float]] = {}
    for number, layer in enumerate(layers):
        places = points[points["layer"] == layer].set_index("id")[["x", "y"]]
        places = places[~places.index.duplicated()]
        low, high = places.min(), places.max()
        span = max((high - low).max(), 1e-12)
        scaled = ((places - (low + high) / 2) / span + 0.5).mul(10_000).round()
        columns |= {f"{axis}{number}": scaled[axis] for axis in ("x", "y")}
    return pd.DataFrame(columns)


def _accuracy(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"value": metrics["accuracy"], **metrics.get("interval", {}).get("accuracy", {})}


def _layer_metrics(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of each layer's picture, whether the file holds them as a mapping or as a table."""
    layers = metrics.get("layers", {})
    if isinstance(layers, list):
        layers = {row["layer"]: {k: v for k, v in row.items() if k != "layer"} for row in layers if "layer" in row}
    return {name: row for name, row in layers.items() if isinstance(row, dict)}


def _written(value: Any) -> str:
    """A parameter as YAML has it, near enough."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return str(value)


def _number(value: Any) -> str:
    """A metric: floats to six significant digits, counts with thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else _written(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _signed(value: float) -> str:
    return f"{value:+,}" if isinstance(value, int) else f"{value:+.6g}"
