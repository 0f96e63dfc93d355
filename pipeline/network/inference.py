"""Inference: running a trained network over a packed split."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from pipeline.common.dataset import PackedDataset, PackedSplit
from pipeline.common.paths import MODEL
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.network.batches import Batches
from pipeline.network.calibrating import fit_calibration, fit_temperature
from pipeline.network.device import choose_device, forward_batch_size
from pipeline.network.models import ModelSpec, class_logits
from pipeline.network.onnx_file import OnnxModel
from pipeline.network.tta import METHODS, variants
from pipeline.network.weights import load_model
from pipeline.progress import progress


def check_fits(spec: ModelSpec | OnnxModel, dataset: PackedDataset) -> None:
    """Check that a dataset has the classes and the image size that the network was trained on.

    Raises:
        PipelineError: they differ.
    """
    manifest = dataset.manifest
    if (spec.classes, spec.image_size) != (manifest.classes, manifest.image_size):
        raise PipelineError(
            f"{dataset.folder}: contains {listed(manifest.classes)} at {manifest.image_size} pixels, the model was "
            f"trained on {listed(spec.classes)} at {spec.image_size}; run dvc repro"
        )


def open_trained(dataset_folder: Path, model_file: Path) -> tuple[PackedDataset, nn.Module, ModelSpec]:
    """Open a packed dataset and the network that was trained on it.

    Raises:
        PipelineError: one of them is missing, or they do not match.
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
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Compute ``output(model, batch)`` for one copy of each image of a split (0 is the plain image), or of the given
    ``rows``; ``float32``, ``(images, ...)``."""
    device = choose_device()
    model.to(device).eval()
    # Each image is read once: there is no use in copying the split, with all copies of the images, to the device.
    resident = None if device.type == "cpu" else False
    batches = Batches(split, spec.mean, spec.std, device, resident, spec.image_size)
    chosen = torch.arange(len(split)) if rows is None else torch.from_numpy(rows)
    batch_size = forward_batch_size(device, spec.image_size)
    loaded = batches.load((part, torch.full_like(part, copy)) for part in chosen.split(batch_size))
    steps = progress(loaded, len(chosen), label, step=batch_size)
    inputs = (batches.as_input(images) for images, _ in steps)
    return torch.cat([output(model, images).float() for images in inputs]).cpu().numpy()


def predict_logits(
    model: nn.Module,
    spec: ModelSpec,
    split: PackedSplit,
    label: str,
    tta: str = "none",
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Logits of the classes for all images or some ``rows``, ``float32``, ``(images, classes)``; their softmax is the
    class probabilities.

    With test-time augmentation they are the means over the ``variants`` of an image or, with ``views``, its copies.

    Raises:
        PipelineError: one of them is NaN or infinite.
    """

    def output(model: nn.Module, images: Tensor) -> Tensor:
        return torch.stack([class_logits(model(variant)).float() for variant in variants(images, tta)]).mean(0)

    copies = range(split.images.shape[1] if tta == "views" else 1)
    of_copies = [run_model(model, spec, split, label, output, copy, rows) for copy in copies]
    logits: NDArray[np.float32] = np.mean(of_copies, 0)
    if not np.isfinite(logits).all():
        raise PipelineError(
            f"{MODEL}: its output for the {split.name} split is not finite; train it with a lower train.lr"
        )
    return logits


@dataclass(frozen=True)
class ChosenTta:
    """Test-time augmentation that was chosen on the valid split.

    Attributes:
        method: its name; ``none`` if nothing helps.
        spec: the network's, with the calibration of the method.
        valid: calibrated probabilities of the valid split with each method it was chosen from.
    """

    method: str
    spec: ModelSpec
    valid: dict[str, NDArray[np.float64]]


def choose_tta(
    model: nn.Module, spec: ModelSpec, dataset: PackedDataset, split: PackedSplit, method: str, section: str
) -> ChosenTta:
    """Find the method for ``split`` that the parameter ``{section}.tta`` asks for.

    ``auto`` is the method whose calibrated probabilities have the lowest log loss on the valid split, of all for which
    there are images. Temperature, energy and thresholds are fitted to the method: those in the weights file are of
    single images.

    Raises:
        PipelineError: the method is ``views``, and one of the splits has none.
    """
    if method == "none":
        return ChosenTta(method, spec, {})
    valid = dataset.split("valid")
    methods = ["none", method]
    if method == "views":
        valid.require_views(section)
        split.require_views(section)
    elif method == "auto":
        have_views = valid.images.shape[1] > 1 and split.images.shape[1] > 1
        methods = [*METHODS, *["views"] * have_views]
    logits = {
        name: predict_logits(model, spec, valid, f"{section}, {name} on valid", name).astype(np.float64)
        for name in methods
    }
    probabilities = {
        name: softmax(values / fit_temperature(values, valid.labels), axis=1) for name, values in logits.items()
    }
    if method == "auto":
        method = min(methods, key=lambda name: _log_loss(valid.labels, probabilities[name]))
    if method != "none":
        spec = replace(spec, calibration=fit_calibration(logits[method], valid.labels))
    return ChosenTta(method, spec, probabilities)


def _log_loss(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Clipped as by scikit-learn, whose import takes a second."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_label, np.finfo(float).eps)).mean())


def extract_features(
    model: nn.Module,
    spec: ModelSpec,
    split: PackedSplit,
    label: str,
    layers: dict[str, nn.Module],
    rows: NDArray[np.int64] | None = None,
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """The outputs of several layers and of the network, in one pass over the plain images or the given ``rows``.

    Returns:
        The features of each layer, ``float32``, ``(images, features)``: feature maps are averaged over space, sequences
        over their tokens; and the logits of the classes, ``float32``, ``(images, classes)``.

    Raises:
        PipelineError: the network does not run a layer, or its output is not a tensor with one row per image.
    """

    def output(model: nn.Module, images: Tensor) -> Tensor:
        features, outputs = watch(model, images)
        widths[:] = [values.shape[1] for values in features]
        return torch.cat([*(values.float() for values in features), class_logits(outputs).float()], dim=1)

    widths: list[int] = []
    with watching(layers) as watch:
        table = run_model(model, spec, split, label, output, rows=rows)
    *features, logits = np.split(table, np.cumsum(widths), axis=1)
    return dict(zip(layers, features, strict=True)), logits


@contextmanager
def watching(layers: dict[str, nn.Module]) -> Iterator[Callable[[nn.Module, Tensor], tuple[list[Tensor], Tensor]]]:
    """Yield a function that applies a network to images and returns the features of each layer,
    ``(images, features)``, and the outputs of the network.

    Raises:
        PipelineError: by that function, if the network does not run a layer, or its output is not a tensor with one row
            per image.
    """
    seen: dict[str, Tensor] = {}

    def watch(model: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
        seen.clear()
        outputs = model(images)
        return [_rows_of(seen, name, len(images)) for name in layers], outputs

    handles = [layer.register_forward_hook(_keeper(seen, name)) for name, layer in layers.items()]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _keeper(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    """A forward hook that keeps the last output of the layer under its name."""

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not isinstance(output, Tensor):
            raise PipelineError(f"params.yaml: tsne.layers: {name} does not return a tensor; choose another layer")
        # A copy: the next layer may work in place.
        seen[name] = _flat(output).clone()

    return keep


def _rows_of(seen: dict[str, Tensor], name: str, images: int) -> Tensor:
    if name not in seen:
        raise PipelineError(f"params.yaml: tsne.layers: the network does not run {name}; choose another layer")
    if len(seen[name]) != images:
        raise PipelineError(f"params.yaml: tsne.layers: {name} does not return one row per image; choose another layer")
    return seen[name]


def _flat(output: Tensor) -> Tensor:
    """``(n, features)``: feature maps are averaged over space, with the channels second or, as in swin_t, last;
    sequences are averaged over their tokens, the second dimension."""
    if output.ndim == 3:
        return output.mean(dim=1)
    if output.ndim != 4:
        return output.flatten(1)
    a, b, c = output.shape[1:]
    return output.mean(dim=(1, 2)) if a == b != c else output.mean(dim=(2, 3))


class PixelClassifier(nn.Module):
    """A network with normalisation before it and a calibrated softmax after it.

    Input: RGB pixels, ``uint8``, ``(n, image_size, image_size, 3)``. Output: the probabilities at the temperature of
    the calibration, and the plain logits, ``float32``, ``(n, classes)`` each, for both classes of a single output.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.temperature = model, spec.calibration.temperature
        scale = 1 / torch.tensor(spec.std).view(1, 3, 1, 1)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", -torch.tensor(spec.mean).view(1, 3, 1, 1) * scale)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB pixels to the input of the network, ``(n, 3, image_size, image_size)``."""
        return torch.addcmul(self.shift, images.permute(0, 3, 1, 2).float() * (1 / 255), self.scale)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits."""
        logits = class_logits(self.model(self.normalise(images)).float())
        return (logits / self.temperature).softmax(1), logits
