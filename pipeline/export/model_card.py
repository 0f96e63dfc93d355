"""The model card: Markdown with a YAML header in the format of the Hugging Face Hub; all numbers come from
the files of the run.

Keys of the header: https://huggingface.co/docs/hub/model-cards. Contents of a card: Mitchell et al. 2019, "Model Cards
for Model Reporting".
"""

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import jinja2
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.common.paths import is_url
from pipeline.common.text import listed, one_line
from pipeline.images.decoding import PLAIN_DETAIL
from pipeline.network.calibration import PRECISIONS
from pipeline.network.models import ModelSpec
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Run:
    """The contents of a card.

    Attributes:
        spec: the network.
        data, augment, model, train, seed: the parameters of the run.
        audit, training, evaluation: its results from ``read_results`` for ``audit``, ``train`` and ``evaluate``.
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


def model_card(run: Run, opset: int, tolerance: float, checked: int) -> str:
    """Write the card of a run.

    Args:
        run: the contents.
        opset, tolerance, checked: the opset of the ONNX file, its allowed difference from torch, and the number of
            images on which it was checked.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.export", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _escaped
    columns, table = _evaluation_table(run.evaluation)
    images = {split: run.audit["splits"][split] for split in SPLITS if split in run.audit["splits"]}
    return environment.get_template("model_card.md.jinja").render(
        **{"name": _name(run), "header": _yaml(_header(run)), "spec": run.spec, "model": run.model},
        **{"audit": run.audit, "training": run.training, "evaluation": run.evaluation},
        **{"opset": opset, "tolerance": f"{tolerance:g}", "checked": f"{checked:,}"},
        precisions=PRECISIONS,
        detail=round(PLAIN_DETAIL * run.spec.image_size),
        size=f"{run.spec.image_size}×{run.spec.image_size}",
        splits=list(images),
        source=_source(run.data),
        start=_start(run.model),
        counts=", ".join(f"{count:,} {split}" for split, count in images.items()),
        preparation=_preparation(run),
        settings=_yaml(_settings(run)),
        columns=columns,
        table=table,
        limitations=_limitations(run),
    )


def _name(run: Run) -> str:
    return f"{run.spec.name.rpartition('/')[2]}-{_dataset_name(run.data)}"


def _dataset_name(data: DataParams) -> str:
    """The name of the folder, of the archive without its extension, or of the dataset on the hub."""
    if data.location is None:
        return data.source
    location = urlsplit(one_line(data.location)).path if is_url(data.location) else data.location
    if data.source == "modelscope":
        return location.rpartition("/")[2]
    # The full path is private.
    name = PurePosixPath(Path(location).resolve().name)
    if data.source == "archive":
        name = PurePosixPath(name.stem).with_suffix("") if name.stem.endswith(".tar") else name.with_suffix("")
    return name.name or data.source


def _header(run: Run) -> dict[str, Any]:
    """The YAML header, without a licence: its owner has to choose one."""
    results = [
        {"type": "accuracy", "value": run.evaluation["accuracy"], "name": "Accuracy"},
        {"type": "f1", "value": run.evaluation["macro_f1"], "name": "Macro F1"},
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
    if data.source != "modelscope" and not is_url(shown):
        shown = Path(shown).resolve().name
    details = {"revision": data.revision, "SHA-256": data.sha256}
    rest = "".join(f", {name} `{value}`" for name, value in details.items() if value)
    return f"{kinds[data.source]} `{one_line(shown).replace('`', '')}`{rest}"


def _start(model: ModelParams) -> str:
    """What the network started from, without the folder of a file, which is private."""
    if model.pretrained is True:
        return f"{'timm' if '/' in model.name else 'torchvision'}'s pretrained weights"
    return f"`{one_line(PurePosixPath(str(model.pretrained)).name).replace('`', '')}`"


def _preparation(run: Run) -> str:
    how = {
        "stretch": "stretched",
        "crop": "resized by its short side and cropped to its centre",
        "pad": "resized by its long side and padded with grey (RGB 128, 128, 128)",
    }[run.spec.resize]
    views = f" Augmented views per training image: {run.augment.views}." if run.augment.views else ""
    return (
        f"The EXIF orientation of an image is applied, transparent parts become white, and the image is {how} to "
        f"{run.spec.image_size}×{run.spec.image_size} pixels.{views}"
    )


def _settings(run: Run) -> dict[str, Any]:
    sections: dict[str, BaseModel] = {"augment": run.augment, "model": run.model, "train": run.train}
    content = {name: section.model_dump(mode="json") for name, section in sections.items()}
    if isinstance(weights := run.model.pretrained, str):
        content["model"]["pretrained"] = PurePosixPath(weights).name
    return {"seed": run.seed, **content}


def _evaluation_table(evaluation: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The columns, and one row per metric: its value, its interval, and its value after calibration and with TTA."""
    others = {f"at temperature {evaluation['temperature']:.3f}": evaluation["calibrated"]}
    if evaluation.get("tta", {}).get("method", "none") != "none":
        others[f"with test-time augmentation ({evaluation['tta']['method']})"] = evaluation["tta"]
    metrics = {name: value for name, value in evaluation.items() if isinstance(value, float) and name != "temperature"}
    table = []
    for name, value in metrics.items():
        ends = evaluation["interval"].get(name)
        row = [name.replace("_", " "), f"{value:.4f}", f"{ends['low']:.4f} to {ends['high']:.4f}" if ends else ""]
        row += [f"{other[name]:.4f}" if name in other else "" for other in others.values()]
        table.append(row)
    return ["value", "95 % interval", *others], table


def _limitations(run: Run) -> list[str]:
    """The limitations that follow from the parameters and results of the run."""
    spec, audit, evaluation = run.spec, run.audit, run.evaluation
    size = f"{spec.image_size}×{spec.image_size}"
    names = [_escaped(name) for name in spec.classes]
    loss = {
        "stretch": "images that are not square are distorted",
        "crop": "parts outside the central square are lost",
        "pad": "images that are not square have fewer pixels than the input, the rest is grey",
    }
    counts = {_escaped(row["class"]): row["train"] for row in audit["classes"]}
    rarest, most_frequent = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    biases = {
        "valid": "The evaluated split also selected the best epoch, so the metrics are too optimistic.",
        "train": "It was evaluated on its training images: the metrics say nothing about new images.",
    }
    lines = [
        f"It knows {listed(names, 20)}, and assigns every image to one of these classes: it does not detect an image "
        "that shows none of them, and its probabilities do not tell either. Its energy score tells for many of them.",
        f"Its input has {size} pixels: finer detail is lost, and {loss[spec.resize]}.",
        f"It was evaluated on {evaluation['images']:,} images from the same source as the training images; its "
        "performance on images from other sources was not measured.",
        *([biases[evaluation["split"]]] if evaluation["split"] in biases else []),
        f"Its calibrated confidence differs from its accuracy by {evaluation['calibrated']['ece']:.1%}, on average over"
        " 15 bins.",
        f"It was trained on {counts[rarest]:,} images of {rarest}, the rarest class, and {counts[most_frequent]:,} of "
        f"{most_frequent}, the most frequent.",
    ]
    if audit["leaks"]:
        lines.append(
            f"{audit['leaks']:,} images of valid and test are in an earlier split, too, as the same picture or as "
            "near-duplicates, so the metrics may be too optimistic."
        )
    if audit["contradictory_labels"]:
        lines.append(f"{audit['contradictory_labels']:,} pictures have more than one label in the data.")
    if audit["bad_files"]:
        lines.append(f"{audit['bad_files']:,} files of the data could not be decoded and were skipped.")
    return lines


def _yaml(content: dict[str, Any]) -> str:
    yaml, text = YAML(), io.StringIO()
    yaml.width = 10_000
    yaml.representer.add_representer(list, _represent_list)
    yaml.dump(content, text)
    return text.getvalue()


def _represent_list(representer: Any, items: list[Any]) -> Any:
    """Write lists of scalars on one line."""
    plain = not any(isinstance(item, dict | list) for item in items)
    return representer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=plain)


def _escaped(text: str) -> str:
    """Escape the characters that Markdown and HTML use for markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#~$" else character for character in text)
