"""The model card: Markdown with a YAML head in the form of the Hugging Face Hub, every figure from a file of the run.

The head's keys: https://huggingface.co/docs/hub/model-cards. What a card should say: Mitchell et al. 2019, "Model Cards
for Model Reporting".
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import jinja2
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.errors import PipelineError, listed
from pipeline.network.models import ModelSpec
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams, is_url

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Run:
    """What a card is written from.

    Attributes:
        spec: of the network.
        data, augment, model, train, seed: the parameters of the run.
        audit, training, evaluation: its metrics, as the files ``audit.json``, ``train.json`` and ``evaluate.json``
            hold them.
    """

    spec: ModelSpec
    data: DataParams
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    seed: int
    audit: dict[str, Any]
    training: dict[str, Any]
    evaluation: dict[str, Any]


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a metrics file.

    Raises:
        PipelineError: it is not there; its stage has its name.
    """
    try:
        metrics: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        stage = {"audit": "augment"}.get(path.stem, path.stem)
        raise PipelineError(f"{path}: no such file; run dvc repro {stage}") from None
    return metrics


def model_card(run: Run, opset: int, tolerance: float, checked: int) -> str:
    """Write the card of a run.

    Args:
        run: what it is about.
        opset, tolerance, checked: of the ONNX file, what it may differ from torch by, and on how many images that was
            checked.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.export", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _escaped
    columns, table = _evaluation_table(run.evaluation)
    images = {split: run.audit["images"][split] for split in SPLITS if split in run.audit["images"]}
    return environment.get_template("model_card.md.jinja").render(
        **{"name": _name(run), "head": _yaml(_head(run)), "spec": run.spec, "model": run.model},
        **{"audit": run.audit, "training": run.training, "evaluation": run.evaluation},
        **{"opset": opset, "tolerance": f"{tolerance:g}", "checked": f"{checked:,}"},
        size=f"{run.spec.image_size}×{run.spec.image_size}",
        splits=list(images),
        source=_source(run.data),
        counts=", ".join(f"{count:,} {split}" for split, count in images.items()),
        preparation=_preparation(run),
        settings=_yaml(_settings(run)),
        columns=columns,
        table=table,
        limitations=_limitations(run),
    )


def _name(run: Run) -> str:
    return f"{run.spec.name}-{_dataset_name(run.data)}"


def _dataset_name(data: DataParams) -> str:
    """A name for people: that of the folder, the archive without its ending, or the hub's."""
    if data.location is None:
        return data.source
    location = urlsplit(data.location).path if is_url(data.location) else data.location
    if data.source == "modelscope":
        return location.rpartition("/")[2]
    # Where it lies on the disk is nobody's business.
    name = PurePosixPath(Path(location).resolve().name)
    if data.source == "archive":
        name = PurePosixPath(name.stem).with_suffix("") if name.stem.endswith(".tar") else name.with_suffix("")
    return name.name or data.source


def _head(run: Run) -> dict[str, Any]:
    """The head; the licence is its owner's to name, so there is none."""
    metrics = {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1")}
    results = [
        {"type": kind, "value": run.evaluation[key], "name": title}
        for key, (kind, title) in metrics.items()
        if key in run.evaluation
    ]
    dataset = {"type": _dataset_name(run.data), "name": _dataset_name(run.data), "split": run.evaluation["split"]}
    task = {"type": "image-classification", "name": "Image Classification"}
    return {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "vision", "pytorch", "safetensors", "onnx", run.spec.name],
        "metrics": [result["type"] for result in results],
        "model-index": [{"name": _name(run), "results": [{"task": task, "dataset": dataset, "metrics": results}]}],
    }


def _source(data: DataParams) -> str:
    if data.source == "digits":
        return "The handwritten digits that scikit-learn ships (`sklearn.datasets.load_digits`)"
    kinds = {"folder": "The folder", "archive": "The archive", "modelscope": "The ModelScope dataset"}
    shown = data.location or data.source
    if is_url(shown):
        # What else a URL holds may be a password or a token.
        url = urlsplit(shown)
        shown = f"{url.scheme}://{url.hostname}{url.path}"
    elif data.source != "modelscope":
        shown = Path(shown).resolve().name
    details = {"revision": data.revision, "SHA-256": data.sha256}
    rest = "".join(f", {name} `{value}`" for name, value in details.items() if value)
    return f"{kinds[data.source]} `{shown.replace('`', '')}`{rest}"


def _preparation(run: Run) -> str:
    how = {"stretch": "stretched", "crop": "shrunk to its short side and cropped to its centre"}[run.spec.resize]
    views = f" Each training image has {run.augment.views} augmented views." if run.augment.views else ""
    return (
        f"An image is turned as its EXIF data say, laid over white where it is transparent, and {how} to "
        f"{run.spec.image_size}×{run.spec.image_size} pixels.{views}"
    )


def _settings(run: Run) -> dict[str, Any]:
    sections: dict[str, BaseModel] = {"augment": run.augment, "model": run.model, "train": run.train}
    return {"seed": run.seed, **{name: section.model_dump(mode="json") for name, section in sections.items()}}


def _evaluation_table(evaluation: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The metrics that are plain numbers, and what else is known of each: its interval, and its value otherwise."""
    others: dict[str, dict[str, Any]] = {}
    if "calibrated" in evaluation:
        others[f"at temperature {evaluation.get('temperature', 1):.3f}"] = evaluation["calibrated"]
    if "tta" in evaluation:
        others[f"mean with {evaluation['tta']['views']} views"] = evaluation["tta"]
    intervals = evaluation.get("interval", {})
    left_out = {"images", "temperature"}
    metrics = {
        name: value for name, value in evaluation.items() if isinstance(value, int | float) and name not in left_out
    }
    table = []
    for name, value in metrics.items():
        row = [name.replace("_", " "), f"{value:.4f}"]
        if intervals:
            known = intervals.get(name)
            row.append(f"{known['low']:.4f} to {known['high']:.4f}" if known else "")
        row += [f"{other[name]:.4f}" if name in other else "" for other in others.values()]
        table.append(row)
    return ["value", *(["95 % interval"] if intervals else []), *others], table


def _limitations(run: Run) -> list[str]:
    """What follows from the facts of the run, and nothing that nobody measured."""
    spec, audit, judged = run.spec, run.audit, run.evaluation
    size = f"{spec.image_size}×{spec.image_size}"
    classes = [_escaped(name) for name in spec.classes]
    lost = {"stretch": "what is not square is distorted", "crop": "what lies outside the central square is not seen"}
    lines = [
        f"It knows {listed(classes, 20)}, and takes every image for one of them: it does not notice an image that "
        "shows none, and its probability says nothing about that.",
        f"It sees {size} pixels: detail that is lost there does not count, and {lost[spec.resize]}.",
        f"It was judged by {judged['images']:,} images from the same source as those it learned from; how it does on "
        "images of another origin was not measured.",
    ]
    if judged["split"] == "valid":
        lines.append("The split that judged it also chose the epoch, so the figures flatter.")
    elif judged["split"] == "train":
        lines.append("It was judged by the images that it learned from: the figures say nothing about new ones.")
    if "ece" in judged:
        lines.append(f"Its confidence is {judged['ece']:.1%} away from its accuracy, on average over 15 bins.")
    counts = {row["class"]: row["train"] for row in audit["classes"]}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    lines.append(
        f"It learned from {counts[least]:,} images of {_escaped(least)}, the rarest class, and {counts[most]:,} of "
        f"{_escaped(most)}, the most frequent."
    )
    return lines + _flaws(audit)


def _flaws(audit: dict[str, Any]) -> list[str]:
    flaws = []
    if audit.get("leaks") and not audit.get("dropped"):
        flaws.append(f"{audit['leaks']:,} pictures lie in more than one split, so the figures flatter.")
    if audit.get("contradictory_labels"):
        flaws.append(f"{audit['contradictory_labels']:,} pictures have more than one label in the data.")
    if audit.get("bad_images"):
        flaws.append(f"{audit['bad_images']:,} files of the data could not be decoded and were left out.")
    return flaws


def _yaml(content: dict[str, Any]) -> str:
    yaml, text = YAML(), io.StringIO()
    yaml.width = 10_000
    yaml.representer.add_representer(list, _represent_list)
    yaml.dump(content, text)
    return text.getvalue()


def _represent_list(representer: Any, items: list[Any]) -> Any:
    """Lists of plain values on one line."""
    plain = not any(isinstance(item, dict | list) for item in items)
    return representer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=plain)


def _escaped(text: str) -> str:
    """Keep what Markdown and HTML would take for markup as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#~$" else character for character in text)
