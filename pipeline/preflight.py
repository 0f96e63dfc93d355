"""Checks of ``params.yaml`` that need libraries or facts about the images, made before any work that they could waste.

A t-SNE of a layer that the network does not have should not fail after an hour of training.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.machine import process_count, world_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.network.models import ModelSpec
    from pipeline.params.schema import Params

# Every classification network of torchvision takes images of this size.
USUAL_SIZE = 224


def check_ahead(params: "Params") -> None:
    """Make the checks of later stages that do not need the images.

    Torch is imported only for networks of a library; the schema knows what ``classifier`` allows.

    Raises:
        PipelineError: the batch cannot be divided among the processes; a transform is invalid; or there is no
            such network, or the network does not fit the image size, the stem or the layers of ``tsne.layers``.
            One line for each problem.
    """
    from pipeline.images.transforms import augmented_view

    problems = _refusals(_check_processes, params.train.batch_size) + _refusals(augmented_view, params.augment)
    if params.model.name != "classifier":
        problems += _network_problems(params)
    if problems:
        raise PipelineError("\n".join(problems))


def _check_processes(batch_size: int) -> None:
    processes = world_size() if "WORLD_SIZE" in os.environ else process_count()
    if batch_size % processes:
        raise PipelineError(
            f"params.yaml: train.batch_size: got {batch_size}, allowed is a multiple of the {processes} processes"
        )


def check_devices() -> None:
    """Check that each process that ``PIPELINE_PROCESSES`` starts can have a device, before they are started.

    Raises:
        PipelineError: there are more processes than GPUs, or they would share a device that only one can use.
    """
    processes, name = process_count(), os.environ.get("PIPELINE_DEVICE")
    if processes == 1 or name == "cpu":
        return
    if name not in (None, "cuda"):
        raise PipelineError(
            f"PIPELINE_DEVICE: got {name}, allowed with {processes} processes (PIPELINE_PROCESSES) are cuda and cpu"
        )
    import torch

    gpus = torch.cuda.device_count()
    if processes > gpus and (gpus or name):
        raise PipelineError(
            f"PIPELINE_PROCESSES: got {processes}, but this machine has {gpus} GPUs; lower it, or set PIPELINE_DEVICE "
            "to cpu"
        )


def check_images(params: "Params", classes: int, labelled: Mapping[str, bool]) -> None:
    """Check what the images of later stages have to be like.

    Args:
        params: all parameters.
        classes: the number of classes.
        labelled: each split that has images, and whether they have labels.

    Raises:
        PipelineError: a stage is for another number of classes, or for a split that has no images or no labels. One
            line for each problem.
    """
    problems = []
    if params.train.loss == "bce" and classes != 2:
        problems.append(f"train.loss: got bce, which needs 2 classes, not {classes}; use cross_entropy")
    for section in ("evaluate", "tsne", "predict"):
        split = getattr(params, section).split
        if split != "auto" and split not in labelled:
            problems.append(
                f"{section}.split: got {split}, but there are no {split} images; set data.{split}_fraction, or choose "
                "auto or valid"
            )
        elif section != "predict" and not labelled.get(split, True):
            problems.append(
                f"{section}.split: got {split}, but the {split} images have no labels; choose auto or valid"
            )
    if problems:
        raise PipelineError("\n".join(f"params.yaml: {line}" for line in problems))


def check_dataset(params: "Params") -> None:
    """Check the images of ``data/dataset/`` before training: ``download`` does not run again for all parameters.

    Raises:
        PipelineError: as ``check_images``, or there is no dataset.
    """
    from pipeline.common.dataset import PackedDataset
    from pipeline.common.paths import DATASET

    dataset = PackedDataset(DATASET)
    labelled = {split: dataset.is_labelled(split) for split in dataset.manifest.shapes}
    check_images(params, len(dataset.manifest.classes), labelled)


def _refusals(function: Any, *args: Any) -> list[str]:
    """The lines of the PipelineError that a function raises."""
    try:
        function(*args)
    except PipelineError as error:
        return str(error).splitlines()
    return []


def _network_problems(params: "Params") -> list[str]:
    """Build the network and run it on the device ``meta``, whose tensors have shapes but no data."""
    from pipeline.network.models import ModelSpec, default_layers

    count = params.data.class_count or 2
    spec = ModelSpec(
        **params.model.model_dump(exclude={"pretrained"}),
        outputs=1 if params.train.loss == "bce" else count,
        image_size=params.augment.image_size,
        resize=params.augment.resize,
        interpolation=params.augment.interpolation,
        classes=("",) * count,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    problems, spec, model = _fitting_network(spec)
    if model is None:
        return problems
    sizes = range(params.train.start_size or spec.image_size, spec.image_size, 32)
    problems += [
        line for size in sizes for line in _refusals(_run, model, replace(spec, image_size=size), "train.start_size")
    ][:1]
    for layer in default_layers(model) if params.tsne.layers == "auto" else params.tsne.layers:
        problems += _refusals(_run_layer, model, spec, layer)
    return problems


def _fitting_network(spec: "ModelSpec") -> tuple[list[str], "ModelSpec", "nn.Module | None"]:
    """Find out which parameters the network refuses: the stem, the image size, or both.

    Returns:
        A line for each of them, and the network and its spec without them; None if there is no such network.
    """
    default, usual = replace(spec, stem="default"), replace(spec, image_size=USUAL_SIZE)
    refusals: dict[ModelSpec, str] = {}
    for candidate in dict.fromkeys((spec, default, usual, replace(default, image_size=USUAL_SIZE))):
        try:
            model = _built(candidate)
        except PipelineError as error:
            refusals[candidate] = str(error)
            continue
        problems = [refusals[default]] if candidate.image_size != spec.image_size else []
        if candidate.stem != spec.stem:
            problems.append(
                f"params.yaml: model.stem: got {spec.stem}, which does not fit {spec.name}; set it to default"
            )
        return problems, candidate, model
    return [refusals[default]], spec, None


def _built(spec: "ModelSpec") -> "nn.Module":
    """The network without data, after it was run once.

    Raises:
        PipelineError: there is no such network, or it does not take images of this size.
    """
    from pipeline.network.models import build_without_data

    model = build_without_data(spec).eval()
    _run(model, spec, "augment.image_size")
    return model


def _run(model: "nn.Module", spec: "ModelSpec", key: str) -> None:
    """Run the network on images of the size that the parameter ``key`` names.

    Raises:
        PipelineError: it does not take them.
    """
    import torch

    try:
        with torch.no_grad():
            model(_images(spec))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(
            f"params.yaml: {key}: {spec.name} refuses {spec.image_size} ({reason}); choose another"
        ) from None


def _images(spec: "ModelSpec") -> "Tensor":
    import torch

    return torch.zeros(2, 3, spec.image_size, spec.image_size, device="meta")


def _run_layer(model: "nn.Module", spec: "ModelSpec", name: str) -> None:
    """Run the network and take the features of one layer.

    Raises:
        PipelineError: there is no such layer, or it has no features.
    """
    import torch

    from pipeline.network.inference import watching
    from pipeline.network.models import find_layer

    with watching({name: find_layer(model, name, "tsne.layers")}) as watch, torch.no_grad():
        watch(model, _images(spec))
