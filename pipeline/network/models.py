"""The architectures by name."""

import difflib
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.common.text import listed, one_line
from pipeline.errors import PipelineError
from pipeline.progress import say

SHOWN_LAYERS = 12
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's; torchvision has no argument for it


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network and to prepare its input.

    Attributes:
        name, width, dropout, stem: as in the section ``model``.
        outputs: number of outputs: one per class, or a single one for two classes.
        image_size: height and width of the input in pixels.
        resize: ``stretch``, ``crop`` or ``pad``: how a photo is made square.
        classes: the class names in the order of their indices.
        mean, std: of each input channel in 0 to 1, for normalisation.
    """

    name: str
    width: int
    dropout: float
    stem: str
    outputs: int
    image_size: int
    resize: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch norm, 2×2 max pool, ReLU: ``(n, in, s, s)`` to ``(n, out, s/2, s/2)``.

    ReLU is monotonic, so pooling first has the same result and moves a quarter of the bytes.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            # A bias would have no effect before batch norm.
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )


class Classifier(nn.Module):
    """The network of homework 3 in Hung-yi Lee's course: five convolution blocks, three linear layers.

    Input ``(n, 3, s, s)`` with s a multiple of 32, output ``(n, outputs)``. The blocks have 1, 2, 4, 8 and 8 times
    ``width`` channels; width 64 is the homework's network with 12.83 M parameters at 128 pixels and 11 classes.
    """

    def __init__(self, width: int, dropout: float, image_size: int, outputs: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.blocks = nn.Sequential(*(ConvBlock(a, b) for a, b in itertools.pairwise(channels)))
        self.flatten = nn.Flatten()
        self.hidden1 = self._hidden(8 * width * (image_size // 32) ** 2, 16 * width, dropout)
        self.hidden2 = self._hidden(16 * width, 8 * width, dropout)
        self.output = nn.Linear(8 * width, outputs)

    @staticmethod
    def _hidden(features_in: int, features_out: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features_in, features_out), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        outputs: Tensor = self.output(self.hidden2(self.hidden1(self.flatten(self.blocks(images)))))
        return outputs


class OutputLayer(nn.Linear):
    """A last layer that computes in fp32 under autocast: in bf16, several classes can have exactly the same logit."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of a batch, ``(n, outputs)``."""
        kind = features.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):  # meta has no autocast
            return super().forward(features)
        with torch.autocast(kind, enabled=False):
            return super().forward(features.float())


def build_model(spec: ModelSpec, pretrained: bool = False) -> nn.Module:
    """Build a network in ``channels_last``, initialised from torch's global random state.

    Args:
        spec: what to build.
        pretrained: start a torchvision model from its ImageNet weights, except for the last layer.

    Raises:
        PipelineError: there is no such network, it does not take the image size, or its weights cannot be downloaded.
    """
    if spec.name == "classifier":
        if pretrained:
            raise PipelineError("params.yaml: model.pretrained: classifier has no pretrained weights; set it to false")
        model: nn.Module = Classifier(spec.width, spec.dropout, spec.image_size, spec.outputs)
    else:
        model = _torchvision_model(spec, pretrained)
    _, head = find_head(model)
    if isinstance(head, nn.Linear):
        head.__class__ = OutputLayer
    return model.to(memory_format=torch.channels_last)


def build_without_data(spec: ModelSpec) -> nn.Module:
    """Build a network on the device ``meta``, whose tensors have shapes but no data; raises what ``build_model`` does.

    All weights are moved there before they are initialised. ``with torch.device("meta")`` would also move the tensors
    from which a RegNet computes its widths.
    """

    # Torch replaces the weights by the result of the hook, which its type annotation does not say.
    def strip(module: nn.Module, name: str, weights: nn.Parameter | None) -> Any:
        return None if weights is None else nn.Parameter(weights.detach().to("meta"), weights.requires_grad)

    handle = register_module_parameter_registration_hook(strip)
    try:
        with torch.device("meta" if spec.name == "classifier" else "cpu"):
            return build_model(spec).to("meta")
    finally:
        handle.remove()


def _torchvision_model(spec: ModelSpec, pretrained: bool) -> nn.Module:
    from torchvision import models

    model: nn.Module
    names = models.list_models(module=models)
    if spec.name not in names:
        close = difflib.get_close_matches(spec.name, ["classifier", *names], n=3) or ["classifier", *names]
        raise PipelineError(
            f"params.yaml: model.name: got {spec.name!r}, allowed are classifier and torchvision's {len(names)} "
            f"classification models, such as {listed(close, 3)}"
        )
    arguments: dict[str, Any] = {"dropout": spec.dropout} if _takes_dropout(spec.name) else {}
    if spec.name in ("googlenet", "inception_v3") and not pretrained:
        arguments |= {"aux_logits": False, "init_weights": True}
    if spec.name.startswith("vit_"):
        arguments["image_size"] = spec.image_size
    if spec.name.startswith("maxvit"):
        arguments["input_size"] = (spec.image_size, spec.image_size)
    try:
        if pretrained:
            with _checked_weights(models.get_model_weights(spec.name).DEFAULT.url):
                model = models.get_model(spec.name, weights="DEFAULT", **arguments)
            if getattr(model, "AuxLogits", None) is not None:
                # The auxiliary output is only for training from scratch.
                model.aux_logits, model.AuxLogits = False, None  # type: ignore[assignment]
            _replace_head(model, spec.outputs)
        else:
            model = models.get_model(spec.name, weights=None, num_classes=spec.outputs, **arguments)
    # The patches or windows of a transformer do not fit the image, or its weights are for another image size.
    except (AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(
            f"params.yaml: augment.image_size: {spec.name} refuses {spec.image_size} ({reason}); choose another"
        ) from None
    except OSError as error:
        raise PipelineError(
            f"params.yaml: model.pretrained: the weights of {spec.name} cannot be downloaded ({error}); set it to "
            "false, or put the file into torch's hub cache"
        ) from None
    if spec.stem == "small":
        _shrink_stem(model)
    return model


@contextmanager
def _checked_weights(url: str) -> Iterator[None]:
    """Let torchvision read a file of torch's hub cache, in which another user may be able to write.

    It is read without unpickling objects, which can run any program. torch compares its SHA-256 with the digits in its
    name only when it downloads the file.

    Raises:
        PipelineError: the file contains something else than tensors, or is damaged.
    """
    name = Path(urlsplit(url).path).name
    file, digits = Path(torch.hub.get_dir(), "checkpoints", name), re.search(r"-([0-9a-f]{8,})\.", name)
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        if file.exists() and not file.is_file():  # reading a pipe would wait for its other end
            raise RuntimeError("it is not a regular file")
        if file.exists() and digits:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if not found.startswith(digits[1]):
                say(f"model.pretrained: warning: {file} is another file than the publisher's (its SHA-256 is {found})")
        yield
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise PipelineError(
            f"params.yaml: model.pretrained: {file} contains no usable weights ({one_line(str(error))[:200]}); remove "
            "it, so that it is downloaded again"
        ) from None
    finally:
        os.environ.pop(WEIGHTS_ONLY)
        if before is not None:
            os.environ[WEIGHTS_ONLY] = before


def find_head(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The last layer and its name; in squeezenet it is a convolution."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def _replace_head(model: nn.Module, outputs: int) -> None:
    """Replace the last layer of ImageNet by a new one."""
    name, head = find_head(model)
    if isinstance(head, nn.Linear):
        new: nn.Module = nn.Linear(head.in_features, outputs)
    else:
        new = nn.Conv2d(head.in_channels, outputs, kernel_size=1)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _shrink_stem(model: nn.Module) -> None:
    """Make the first convolution keep the resolution, and remove the pooling after it (He et al. 2016, CIFAR-10)."""
    first, conv = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if conv.stride == (1, 1):
        return  # as in vgg: it keeps the resolution already
    small = nn.Conv2d(3, conv.out_channels, kernel_size=3, stride=1, padding=1, bias=conv.bias is not None)
    parent, _, child = first.rpartition(".")
    setattr(model.get_submodule(parent), child, small)
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.maxpool = nn.Identity()


# The families of torchvision that have no dropout, or none that can be set.
_WITHOUT_DROPOUT = ("resnet", "resnext", "wide_resnet", "regnet", "densenet", "shufflenet", "convnext", "maxvit")


def _takes_dropout(name: str) -> bool:
    return not name.startswith(_WITHOUT_DROPOUT)


def unused_parameters(model: nn.Module, spec: ModelSpec) -> list[str]:
    """One line for each parameter of the section ``model`` that has no effect on the network."""
    unused = []
    if spec.name == "classifier" and spec.stem != "default":
        unused.append(f"stem {spec.stem}")
    if spec.name != "classifier":
        unused.append(f"width {spec.width}")
    if spec.dropout and not any(isinstance(module, nn.Dropout) and module.p for module in model.modules()):
        unused.append(f"dropout {spec.dropout:g}")
    return [f"model.{parameter} has no effect on {spec.name}" for parameter in unused]


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """The layers for t-SNE that ``auto`` means: the middle block of the network, and the layer before its last one.

    Blocks are the largest modules with at most half of the convolutions, or of the linear layers if there are more.
    """
    linear, convolutions = (_layers(model, kind) for kind in (nn.Linear, nn.Conv2d))
    kind = nn.Linear if len(linear) > len(convolutions) else nn.Conv2d
    head, _ = find_head(model)
    blocks = [name for name in _blocks(model, "", kind, len(_layers(model, kind)) // 2) if name != head]
    return tuple(dict.fromkeys((blocks[(len(blocks) - 1) // 2], _layer_before(model, head))))


def _layers(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def _blocks(module: nn.Module, name: str, kind: type[nn.Module], most: int) -> list[str]:
    count = len(_layers(module, kind))
    if count <= most:
        return [name] if count else []
    children = module.named_children()
    return [block for child, inner in children for block in _blocks(inner, f"{name}.{child}".lstrip("."), kind, most)]


def _layer_before(model: nn.Module, name: str) -> str:
    """The layer that runs before the layer ``name``, without dropout, which does nothing in evaluation."""
    parent, _, last = name.rpartition(".")
    names = [
        child for child, module in model.get_submodule(parent).named_children() if not isinstance(module, nn.Dropout)
    ]
    before = names[: names.index(last)]
    return f"{parent}.{before[-1]}".lstrip(".") if before else _layer_before(model, parent)


def class_logits(outputs: Tensor) -> Tensor:
    """The logits ``(n, classes)``, of which the softmax is the class probabilities.

    A single output z is the logit of the second class against 0: softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)).
    """
    if outputs.shape[1] > 1:
        return outputs
    return torch.cat([torch.zeros_like(outputs), outputs], dim=1)


def find_layer(model: nn.Module, name: str, key: str) -> nn.Module:
    """Find a layer by its dotted name.

    Raises:
        PipelineError: the network has no such layer; ``key`` is the parameter that named it.
    """
    layers: dict[str, nn.Module] = {layer: module for layer, module in model.named_modules() if layer}
    if name not in layers:
        close = difflib.get_close_matches(name, layers, n=3)
        some = listed(close or layers, SHOWN_LAYERS)
        raise PipelineError(
            f"params.yaml: {key}: got {name!r}, allowed are auto and the layers of the network, such as {some}"
        )
    return layers[name]
