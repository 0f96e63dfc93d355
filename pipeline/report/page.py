"""The report as one HTML file that contains its charts, images and JavaScript."""

import re
from typing import Any

import jinja2
import vl_convert

from pipeline.common.label_files import read_corrections
from pipeline.common.text import one_line, shown
from pipeline.report.advice import advise
from pipeline.report.changes import Changes, flattened
from pipeline.report.charts import curve_by_epoch, curve_by_step, tsne
from pipeline.report.evaluation_charts import by_class, confidences, confusion, curves, reliability, risk_coverage
from pipeline.report.images import PageImages, batch_tiles
from pipeline.report.inputs import Inputs

# Most rows of a table of changes.
ROWS = 200
# Classes and pairs of classes in the summary.
WORST = 3
FINDINGS = {
    "bad_files": "bad files",
    "leaks": "leaks",
    "contradictory_labels": "contradictory labels",
    "duplicates": "duplicates",
    "near_duplicates": "near-duplicates",
    "dark": "dark",
    "bright": "bright",
    "blurred": "blurred or blank",
    "tiny": "tiny",
    "corrected": "corrected labels",
    "dropped_by_corrections": "dropped by corrections",
    "pseudo_labels": "pseudo-labels",
}


def report_page(inputs: Inputs, params: dict[str, Any], changes: Changes, images: PageImages) -> str:
    """Return the page as HTML."""
    classes, parameters = inputs.classes["class"].tolist(), flattened(params)
    return render(
        "page.html.jinja",
        **inputs.results,
        changes=changes,
        rows=ROWS,
        worst=WORST,
        name=dataset_name(parameters),
        advice=advise(inputs, parameters),
        params=parameters,
        findings={title: inputs.results["audit"].get(name) for name, title in FINDINGS.items()},
        by_class=inputs.classes,
        pairs=inputs.pairs,
        specs=_charts(inputs, classes),
        images=images.columns,
        counts=images.counts,
        batch=batch_tiles(inputs.batch, **inputs.results["train"]["batch"]),
        class_names=classes,
        corrections=list(read_corrections(parameters.get("data.corrections")).items()),
        saliency={name: value for name, value in inputs.saliency.items() if name not in ("predicted", "true")},
        javascript=vl_convert.javascript_bundle(),  # type: ignore[call-arg]  # it needs no snippet
    )


def render(template: str, **content: Any) -> str:
    """Render a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The same bytes on every run, and rows in the order of the tables.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters |= {"yaml": _yaml, "number": _number, "signed": _signed}
    return environment.get_template(template).render(content)


def dataset_name(params: dict[str, Any]) -> str:
    """The last part of ``data.location`` without an extension; without a location, ``data.source``."""
    location = re.split(r"[?#]", one_line(str(params.get("data.location") or "")))[0]
    last = re.split(r"[/\\]", location.rstrip("/\\"))[-1].lstrip("$").strip("{}.")
    return shown(re.sub(r"\.(zip|tgz|(tar(\.\w+)?))$", "", last) or str(params.get("data.source")))


def _charts(inputs: Inputs, classes: list[str]) -> dict[str, dict[str, Any]]:
    """The specification of every chart by the id of its element."""
    best, layer = inputs.results["train"]["best_epoch"], inputs.results["tsne"]["layer"]
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
    specs["risk-coverage"] = risk_coverage(inputs.risk_coverage)
    specs["confidences"] = confidences(inputs.images)
    has_findings = bool((inputs.images["finding"] != "").any())
    # The images of the page are those of the evaluated split; ids are unique within a split only.
    evaluated = inputs.results["evaluate"]["split"]
    if inputs.layers and inputs.results["tsne"].get("split", evaluated) == evaluated:
        specs["tsne-chart"] = tsne(inputs.layers, inputs.layers.index(layer), classes, has_findings)
    return specs


def _yaml(value: Any) -> str:
    """A parameter without secrets, similar to YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return shown(str(value))


def _number(value: Any) -> str:
    """Floats with six significant digits, integers with thousands separators."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else _yaml(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _signed(value: float) -> str:
    return f"{value:+,}" if isinstance(value, int) else f"{value:+.6g}"
