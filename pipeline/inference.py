"""Running a trained network over a packed split."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from pipeline.batches import Batches
from pipeline.device import choose_device
from pipeline.errors import PipelineError, listed
from pipeline.models import ModelSpec, class_logits
from pipeline.packed import PackedDataset, PackedSplit
from pipeline.progress import progress
from pipeline.weights import load_model

BATCH_SIZE = 256


def check_fits(spec: ModelSpec, dataset: PackedDataset) -> None:
    """Refuse a dataset whose classes or image size are not those that the network was trained on.

    Raises:
        PipelineError: they differ.
    """
    manifest = dataset.manifest
    if (spec.classes, spec.image_size) != (manifest.classes, manifest.image_size):
        raise PipelineError(
            f"{dataset.folder}: holds {listed(manifest.classes)} at {manifest.image_size} pixels, the model was "
            f"trained on {listed(spec.classes)} at {spec.image_size}; run dvc repro"
        )


def open_trained(dataset_folder: Path, model_file: Path) -> tuple[PackedDataset, nn.Module, ModelSpec]:
    """Open a packed dataset and the network that was trained on it.

    Raises:
        PipelineError: one of them is missing, or they do not belong together.
    """
    dataset = PackedDataset(dataset_folder)
    model, spec = load_model(model_file)
    check_fits(spec, dataset)
    return dataset, model, spec


@torch.inference_mode()
def run_model(
    model: nn.Module,
    spec: ModelSpec,
    split: PackedSplit,
    label: str,
    output: Callable[[nn.Module, Tensor], Tensor],
    copy: int = 0,
) -> np.ndarray:
    """Apply ``output(model, batch)`` to a copy of each image of a split, 0 the plain one; ``float32``,
    ``(images, ...)``."""
    device = choose_device()
    model.to(device).eval()
    batches = Batches(split, spec.mean, spec.std, device)
    steps = progress(batches.in_order(BATCH_SIZE, copy=copy), len(split), label, step=BATCH_SIZE)
    return torch.cat([output(model, images).float() for images, _ in steps]).cpu().numpy()


def predict_logits(model: nn.Module, spec: ModelSpec, split: PackedSplit, label: str, copy: int = 0) -> np.ndarray:
    """Logits of the classes, whose softmax are the probabilities, ``float32``, ``(images, classes)``."""
    return run_model(model, spec, split, label, lambda model, images: class_logits(model(images)), copy)


def predict_probabilities(
    model: nn.Module, spec: ModelSpec, split: PackedSplit, label: str, tta: bool = False
) -> np.ndarray:
    """Class probabilities, ``float32``, ``(images, classes)``; each row sums to 1.

    With ``tta`` (test-time augmentation) they are the mean over the plain image and all its views.
    """
    copies = range(split.images.shape[1] if tta else 1)
    return np.mean([softmax(predict_logits(model, spec, split, label, copy), axis=1) for copy in copies], axis=0)


def _flat(output: Tensor) -> Tensor:
    """``(n, features)``: maps are averaged over space, whether the channels stand second or, as in swin_t, last."""
    if output.ndim != 4:
        return output.flatten(1)
    a, b, c = output.shape[1:]
    return output.mean(dim=(1, 2)) if a == b != c else output.mean(dim=(2, 3))


def extract_features(model: nn.Module, spec: ModelSpec, split: PackedSplit, label: str, layer: nn.Module) -> np.ndarray:
    """The output of ``layer`` for each image, ``float32``, ``(images, features)``; maps are averaged over space."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(output, Tensor):
            raise PipelineError("params.yaml: tsne.layer: this layer gives no tensor; choose another one")
        # A copy: the layer that follows may work in place.
        seen[:] = [_flat(output).clone()]

    def output(model: nn.Module, images: Tensor) -> Tensor:
        model(images)
        if not seen:
            raise PipelineError("params.yaml: tsne.layer: the network does not run this layer; choose another one")
        return seen.pop()

    handle = layer.register_forward_hook(keep)
    try:
        return run_model(model, spec, split, label, output)
    finally:
        handle.remove()
