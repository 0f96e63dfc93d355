"""A state dict of any program, brought into the names and shapes of our network."""

import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.network.models import TIMM, ModelSpec, build_without_data, find_heads, find_stem
from pipeline.network.tensors import Arrays

# The parts of checkpoints that are a state dict, in the order in which timm prefers them.
PARTS = ("state_dict_ema", "model_ema", "state_dict", "model")
MOST_NESTED = 10
MOST_OUTPUTS = 1_000_000
_TYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
State = dict[str, Tensor]


def fit(content: Mapping[str, Any], spec: ModelSpec, source: str) -> tuple[Arrays, list[str], list[str]]:
    """Bring a state dict into the names and shapes of a network, whatever number of outputs it has.

    Returns:
        The tensors as in the network, in its types; the names of the network that the state dict does not have; and the
        names that the network does not have.

    Raises:
        PipelineError: these are the weights of another network.
    """
    model = build_without_data(spec)
    state = unwrapped(content, {key.partition(".")[0] for key in model.state_dict()})
    _require_plain(state, source)
    state = _renamed(state, model, spec)
    weights = [state[key] for head, _ in find_heads(model) if (key := f"{head}.weight") in state]
    outputs = {len(weight) for weight in weights if weight.ndim}
    if outputs and 1 <= max(outputs) <= MOST_OUTPUTS:
        model = build_without_data(replace(spec, outputs=max(outputs)))
    own = model.state_dict()
    if spec.stem == "small":  # another first convolution than that of the published network
        start = find_stem(model)[0] + "."
        state = {key: t for key, t in state.items() if not key.startswith(start) or t.shape == own.get(key, t).shape}
    for key in own.keys() & state.keys():
        if state[key].dtype not in (own[key].dtype, *_TYPES):
            raise _not_plain(source, key, f"of the type {state[key].dtype}")
    parameters = {key for key, _ in model.named_parameters()}
    unexpected = _load(model, state, source, spec.name)
    loaded = {key: tensor for key, tensor in model.state_dict().items() if not tensor.is_meta}
    body = {key for key in parameters if not key.startswith(tuple(f"{head}." for head, _ in find_heads(model)))}
    if 2 * len(body & loaded.keys()) <= len(body):
        raise _refusal(
            source,
            f"has {len(body & loaded.keys())} of the {len(body)} weights of {spec.name} before its last layer, such as "
            f"{listed(sorted(body - loaded.keys()), 2)}; it has {listed(state, 3)}",
        )
    if infinite := sorted(key for key, tensor in loaded.items() if not tensor.isfinite().all()):
        raise _refusal(source, f"has weights that are NaN or infinite ({listed(infinite, 3)})")
    arrays = {key: tensor.detach().to(own[key].dtype).contiguous().numpy() for key, tensor in loaded.items()}
    return arrays, [key for key in own if key not in loaded], unexpected


def unwrapped(content: Mapping[str, Any], top: set[str]) -> State:
    """The state dict in a checkpoint, without what wrappers put before each name: ``module.``, ``model.`` …

    Args:
        content: of the checkpoint.
        top: the first parts of the names of the network, which are no wrappers.
    """
    for _ in range(MOST_NESTED):  # a mapping can contain itself
        if part := next((part for part in PARTS if isinstance(content.get(part), Mapping)), ""):
            content = content[part]
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor) and key != "n_averaged"}
    while len(first := {key.partition(".")[0] for key in state}) == 1 and first.isdisjoint(top | state.keys()):
        state = {key.partition(".")[2]: tensor for key, tensor in state.items()}
    return state


def _require_plain(state: State, source: str) -> None:
    """Refuse tensors that numpy does not have, and those that would need more memory than the file has bytes.

    Raises:
        PipelineError: there is one.
    """
    for key, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_nested:
            raise _not_plain(source, key, "sparse or nested")
        if tensor.is_quantized:
            raise _not_plain(source, key, "quantized")
        if tensor.is_meta or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise _not_plain(source, key, f"{list(tensor.shape)}, but the file does not have all these values")


def _not_plain(source: str, key: str, kind: str) -> PipelineError:
    return PipelineError(
        f"params.yaml: model.pretrained: {source}: the tensor {key} is {kind}; allowed are dense tensors of "
        "real numbers: convert it, and save the file again"
    )


def _renamed(state: State, model: nn.Module, spec: ModelSpec) -> State:
    """What the network's library does with the files that it publishes, and with those for other image sizes."""
    if spec.name.startswith(TIMM):
        rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        with suppress(Exception):  # of the weights of another network, which are refused by their names
            return dict(rename(dict(state), model)) if rename else state
        return state
    if spec.name.startswith("densenet"):
        return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): value for key, value in state.items()}
    if spec.name in ("googlenet", "inception_v3"):  # their additional outputs are for training from scratch
        return {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2.", "AuxLogits."))}
    if spec.name.startswith("vit_") and "encoder.pos_embedding" in state:
        from torchvision.models.vision_transformer import interpolate_embeddings

        network: Any = model
        with suppress(ValueError):
            return dict(interpolate_embeddings(spec.image_size, network.patch_size, OrderedDict(state)))
    return state


def _load(model: nn.Module, state: State, source: str, name: str) -> list[str]:
    """Give a network without data these tensors, and return the names that it does not have.

    Raises:
        PipelineError: a tensor has another shape.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    content = OrderedDict(state)
    if name.startswith("mnasnet"):  # it asks for the version of its layers
        content._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    try:
        unexpected: list[str] = model.load_state_dict(content, strict=False, assign=True).unexpected_keys
    except RuntimeError:
        wrong = [key for key, shape in shapes.items() if key in state and tuple(state[key].shape) != shape]
        if not wrong:
            raise
        shape = list(state[wrong[0]].shape)
        raise _refusal(
            source,
            f"is of another network: {wrong[0]} is {shape}, {name} needs {list(shapes[wrong[0]])}"
            + (f"; {len(wrong) - 1:,} more differ" if wrong[1:] else ""),
        ) from None
    return unexpected


def _refusal(source: str, problem: str) -> PipelineError:
    return PipelineError(
        f"params.yaml: model.pretrained: {source} {problem}; set model.name to the network of the file"
    )
