"""The architectures by name."""

import inspect
import itertools
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.common.text import one_line, shortened, similar
from pipeline.errors import PipelineError
from pipeline.network.calibration import UNCALIBRATED, Calibration

TIMM = "timm/"  # before the name of a network of timm
# Of the networks' classes: what other parameters say, and what is no plain value or set by their builders.
OTHER_ARGUMENTS = {
    "num_classes": "data.classes",
    "img_size": "augment.image_size",
    "image_size": "augment.image_size",
    "input_size": "augment.image_size",
    "dropout": "model.dropout",
    "drop_rate": "model.dropout",
    "drop_path_rate": "model.drop_path_rate",
    "stochastic_depth_prob": "model.drop_path_rate",
    "act_layer": "model.activation",
    "block": "model.name",
    "aux_logits": "",
    "init_weights": "",
    "block_params": "",
    "cfg": "",
    "in_chans": "",
    "device": "",
    "dtype": "",
    "args": "",
    "kwargs": "",
}


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network and to prepare its input.

    Attributes:
        name, width, dropout, stem, drop_path_rate, activation, kwargs: as in the section ``model``.
        outputs: number of outputs: one per class, or a single one for two classes.
        image_size: height and width of the input in pixels.
        resize: ``stretch``, ``crop`` or ``pad``: how a photo is made square.
        interpolation: ``area``, ``bilinear`` or ``bicubic``: how it is resized.
        classes: the class names in the order of their indices.
        mean, std: of each input channel in 0 to 1, for normalisation.
        calibration: of the trained network.
    """

    name: str
    width: int
    dropout: float
    stem: str
    outputs: int
    image_size: int
    resize: str
    interpolation: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    drop_path_rate: float = 0.0
    activation: str = "default"
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    calibration: Calibration = UNCALIBRATED


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


def build_model(spec: ModelSpec) -> nn.Module:
    """Build a network in ``channels_last``, initialised from torch's global random state.

    Raises:
        PipelineError: there is no such network, it does not take the image size, or its library is not installed.
    """
    require_library(spec.name)
    if spec.name == "classifier":
        model: nn.Module = Classifier(spec.width, spec.dropout, spec.image_size, spec.outputs)
    else:
        build = _timm_model if spec.name.startswith(TIMM) else _torchvision_model
        try:
            model = build(spec)
        # The patches or windows of a transformer do not fit the image.
        except (AssertionError, ValueError) as error:
            raise PipelineError(
                f"params.yaml: augment.image_size: {spec.name} refuses {spec.image_size} "
                f"({one_line(str(error)) or type(error).__name__}); choose another"
            ) from None
        if spec.stem == "small":
            _shrink_stem(model)
    for _, head in find_heads(model):
        if isinstance(head, nn.Linear):
            head.__class__ = OutputLayer
    if any(weights.dim() > 4 for weights in model.parameters()):  # torch refuses those of a 3-D convolution
        return model
    return model.to(memory_format=torch.channels_last)


def build_without_data(spec: ModelSpec) -> nn.Module:
    """Build a network on the device ``meta``, whose tensors have shapes but no data; raises what ``build_model`` does.

    Of a network of torchvision, all weights are moved there before they are initialised: ``with torch.device("meta")``
    would also move the tensors from which a RegNet computes its widths.
    """
    if spec.name == "classifier" or spec.name.startswith(TIMM):
        with torch.device("meta"):
            return build_model(spec)

    # Torch replaces the weights by the result of the hook, which its type annotation does not say.
    def strip(module: nn.Module, name: str, weights: nn.Parameter | None) -> Any:
        return None if weights is None else nn.Parameter(weights.detach().to("meta"), weights.requires_grad)

    handle = register_module_parameter_registration_hook(strip)
    try:
        with torch.device("cpu"):
            return build_model(spec).to("meta")
    finally:
        handle.remove()


def require_library(name: str) -> None:
    """Check that the library of a network is installed.

    Raises:
        PipelineError: it is not.
    """
    if name.startswith(TIMM) and find_spec("timm") is None:
        raise PipelineError(
            f"params.yaml: model.name: {name} needs the package timm; install it: "
            "pip install -c constraints.txt -e '.[timm]'"
        )


def _timm_model(spec: ModelSpec) -> nn.Module:
    """A network of timm; a file's name can name nothing else: neither a repository of a hub nor a folder."""
    import timm

    name = spec.name.removeprefix(TIMM)
    names, (architecture, _, tag) = timm.list_models(), name.partition(".")
    if architecture not in names or (tag and name not in timm.list_pretrained(architecture + ".*")):
        names = timm.list_pretrained(architecture + ".*") if architecture in names else names
        raise PipelineError(
            f"params.yaml: model.name: got {spec.name!r}, allowed after {TIMM} are {len(names):,} networks of timm "
            f"{timm.__version__}, such as {similar(spec.name, (TIMM + found for found in names))}"
        )
    options: dict[str, Any] = {"drop_rate": spec.dropout, "drop_path_rate": spec.drop_path_rate}
    published = timm.get_pretrained_cfg(name)
    if published and published.fixed_input_size:
        options["img_size"] = spec.image_size
    build = _with_kwargs(partial(timm.create_model, name, num_classes=spec.outputs), options, spec)
    model = _with_options(build, options) if spec.activation == "default" else _with_activation(build, options, spec)
    if not hasattr(model, "get_classifier"):
        raise PipelineError(f"params.yaml: model.name: {spec.name} does not classify images; choose another")
    return model


def _with_activation(build: Callable[..., nn.Module], options: dict[str, Any], spec: ModelSpec) -> nn.Module:
    """A network of timm with another activation than its own; not all families take, or use, the argument."""
    from timm.layers.create_act import get_act_layer

    with suppress(TypeError):
        model = _with_options(partial(build, act_layer=spec.activation), options)
        kind = get_act_layer(spec.activation)
        if any(isinstance(module, kind) for module in model.modules()):
            return model
    raise PipelineError(
        f"params.yaml: model.activation: got {spec.activation}, but {spec.name} has no choice of it; set it to default"
    )


def _torchvision_model(spec: ModelSpec) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if spec.name not in names:
        close = similar(spec.name, ["classifier", *names])
        raise PipelineError(
            f"params.yaml: model.name: got {spec.name!r}, allowed are classifier and torchvision's {len(names)} "
            f"classification models, such as {close}; those of timm begin with {TIMM}"
        )
    options: dict[str, Any] = {"dropout": spec.dropout}
    if spec.name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if spec.name.startswith("vit_"):
        options["image_size"] = spec.image_size
    if spec.name.startswith("maxvit"):
        options["input_size"] = (spec.image_size, spec.image_size)
    build = partial(models.get_model, spec.name, weights=None, num_classes=spec.outputs)
    model = _with_options(_with_kwargs(build, options, spec), options)
    depths: list[Any] = [module for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    highest = max((module.p for module in depths), default=0.0)
    for module in depths:  # the probability of the last block; earlier ones keep their proportion to it
        module.p *= spec.drop_path_rate / highest
    return model


def _with_kwargs(build: Callable[..., nn.Module], options: dict[str, Any], spec: ModelSpec) -> Callable[..., nn.Module]:
    """The builder with ``model.kwargs``, after a check that the network's class has these arguments and takes them.

    Arguments of the builder alone, of which some would read a file, are none of the class.
    """
    if not spec.kwargs:
        return build
    on_meta = torch.device("meta") if spec.name.startswith(TIMM) else nullcontext()  # as in build_without_data
    with torch.random.fork_rng(devices=[]), on_meta:
        # model.dropout is drop_rate in timm, but not in torchvision's DenseNet.
        others = OTHER_ARGUMENTS if spec.name.startswith(TIMM) else OTHER_ARGUMENTS.keys() - {"drop_rate"}
        known = [name for name in inspect.signature(type(build())).parameters if name not in others]
        for name in spec.kwargs:
            if name not in known:
                other = OTHER_ARGUMENTS.get(name)
                allowed = f"allowed for {spec.name} are {similar(name, known) or 'none'}"
                fix = f"use {other} for it" if other else allowed
                raise PipelineError(f"params.yaml: model.kwargs: got {shortened(repr(name), 40)}; {fix}")
        try:
            _with_options(partial(build, **spec.kwargs), options)
        except Exception as error:  # of any kind, deep in the network
            raise PipelineError(
                f"params.yaml: model.kwargs: {spec.name} refuses {shortened(str(spec.kwargs), 100)} "
                f"({one_line(str(error)) or type(error).__name__})"
            ) from None
    return partial(build, **spec.kwargs)


def _with_options(build: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    """Build a network with those of the options that it has; each family of a library has others."""
    try:
        return build(**options)
    except TypeError as error:
        unknown = [name for name in options if "unexpected keyword" in str(error) and f"'{name}'" in str(error)]
        if not unknown:
            raise
    return _with_options(build, {name: value for name, value in options.items() if name not in unknown})


def find_heads(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """The last layers and their names: one, but several in a few networks of timm, such as one for distillation."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not hasattr(model, "get_classifier"):
        return layers[-1:]
    network: Any = model
    found = network.get_classifier()
    inside = [module for part in (found if isinstance(found, tuple) else [found]) for module in part.modules()]
    return [(name, layer) for name, layer in layers if layer in inside and len(layer.weight) == network.num_classes]


def find_head(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The last layer and its name; in squeezenet it is a convolution."""
    return find_heads(model)[-1]


def find_stem(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """The first convolution and its name."""
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _shrink_stem(model: nn.Module) -> None:
    """Make the first convolution keep the resolution, and remove the pooling after it (He et al. 2016, CIFAR-10)."""
    first, conv = find_stem(model)
    if conv.stride == (1, 1):
        return  # as in vgg: it keeps the resolution already
    small = nn.Conv2d(3, conv.out_channels, kernel_size=3, stride=1, padding=1, bias=conv.bias is not None)
    parent, _, child = first.rpartition(".")
    setattr(model.get_submodule(parent), child, small)
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.maxpool = nn.Identity()


def unused_parameters(model: nn.Module, spec: ModelSpec) -> list[str]:
    """One line for each parameter of the section ``model`` that has no effect on the network."""
    unused = []
    if spec.name == "classifier" and spec.stem != "default":
        unused.append(f"stem {spec.stem}")
    if spec.name != "classifier":
        unused.append(f"width {spec.width}")
    if spec.dropout and not any(map(_drops_features, model.modules())):
        unused.append(f"dropout {spec.dropout:g}")
    if spec.drop_path_rate and not any(map(_drops_blocks, model.modules())):
        unused.append(f"drop_path_rate {spec.drop_path_rate:g}")
    return [f"model.{parameter} has no effect on {spec.name}" for parameter in unused]


def _drops_features(module: nn.Module) -> bool:
    return bool(getattr(module, "drop_rate", 0) or (isinstance(module, nn.Dropout) and module.p))


def _drops_blocks(module: nn.Module) -> bool:
    """Whether a module is stochastic depth, of timm or of torchvision."""
    return bool(getattr(module, "drop_prob", 0) or (type(module).__name__ == "StochasticDepth" and module.p))


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
    if count <= most and not isinstance(module, nn.ModuleList):  # a list of modules does not run itself
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

    A single output z becomes (-z / 2, z / 2), of which the softmax is (1 - sigmoid(z), sigmoid(z)); so the energy score
    does not depend on which class is the second.
    """
    if outputs.shape[1] > 1:
        return outputs
    return torch.cat([-outputs, outputs], dim=1) / 2


def find_layer(model: nn.Module, name: str, key: str) -> nn.Module:
    """Find a layer by its dotted name.

    Raises:
        PipelineError: the network has no such layer; ``key`` is the parameter that named it.
    """
    layers: dict[str, nn.Module] = {layer: module for layer, module in model.named_modules() if layer}
    if name not in layers:
        some = similar(name, layers)
        raise PipelineError(
            f"params.yaml: {key}: got {name!r}, allowed are auto and the layers of the network, such as {some}"
        )
    return layers[name]
