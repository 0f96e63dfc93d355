"""The weights file: safetensors, with the specification of the network in its metadata.

A file may come from anyone, so it is refused before anything is built or allocated if its metadata are not those of a
network that ``train`` writes, or do not fit the names, shapes and types of its tensors.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, JsonValue, field_validator, model_validator
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.common.paths import MODEL
from pipeline.common.reading import reading
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.network.calibration import Calibration
from pipeline.network.file_facts import ClassNames, ImageSize, Interpolation, Resize, check_classes
from pipeline.network.models import ModelSpec, build_model, build_without_data, require_library
from pipeline.network.tensors import Mean, Std, read_content, read_tensors, write_tensors
from pipeline.params.schema import Section, refuse_large

SPEC = "spec"


class Metadata(Section):
    """The specification as it is in the file; the bounds are those of ``params.yaml``."""

    name: str
    width: int = Field(ge=1, le=512)
    dropout: float = Field(ge=0, lt=1)
    stem: Literal["default", "small"]
    outputs: int
    image_size: ImageSize
    resize: Resize
    interpolation: Interpolation
    classes: ClassNames
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Std, Std, Std]
    drop_path_rate: float = Field(ge=0, lt=1)
    activation: Literal["default", "relu", "silu", "mish", "gelu"]
    kwargs: dict[str, JsonValue]
    calibration: Calibration
    weights: str

    @field_validator("kwargs")
    @classmethod
    def _kwargs_are_small(cls, kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        refuse_large(kwargs)
        return kwargs

    @model_validator(mode="after")
    def _classes_are_unique_names_of_the_outputs(self) -> Self:
        check_classes(self.classes)
        if self.outputs != len(self.classes) and (self.outputs, len(self.classes)) != (1, 2):
            raise ValueError(f"{self.outputs} outputs do not fit {len(self.classes)} classes")
        if len(self.calibration.thresholds) not in (0, len(self.classes)):
            raise ValueError("it has not one row of thresholds for each class")
        return self


def save_model(path: Path, state: dict[str, Tensor], spec: ModelSpec) -> None:
    """Write the state dict of a network, its specification and their checksums.

    Raises:
        PipelineError: a weight is NaN or infinite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if infinite := not_finite(tensors):
        raise PipelineError(f"{path}: not written: weights are NaN or infinite ({infinite}); lower train.lr")
    write_tensors(path, {name: tensor.numpy() for name, tensor in tensors.items()}, SPEC, asdict(spec))


def load_model(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Load the network of a weights file, in evaluation mode.

    Raises:
        PipelineError: the file does not exist, was not written by ``save_model`` or is damaged, or weights are NaN or
            infinite.
    """
    with reading(path, "" if path == MODEL else "name one that the stage train wrote"):
        metadata = read_content(path, SPEC, Metadata)
        content = metadata.model_dump(exclude={"weights", "calibration"})
        spec = ModelSpec(**content, calibration=metadata.calibration)
        model = _empty_network(spec, _read_shapes(path))
        tensors = {name: torch.from_numpy(values) for name, values in read_tensors(path, metadata.weights).items()}
        if infinite := not_finite(tensors):
            raise ValueError(f"weights are NaN or infinite: {infinite}")
        # Unlike the file, the state has the versions of the layers, which that of mnasnet requires.
        state = model.state_dict()
        state.update(tensors)
        model.load_state_dict(state)
    return model.eval(), spec


def _read_shapes(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each tensor, without its content."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        return {name: (tensor.get_dtype(), tensor.get_shape()) for name, tensor in slices.items()}


_TYPES = {torch.float32: "F32", torch.int64: "I64"}


def _empty_network(spec: ModelSpec, found: dict[str, tuple[str, list[int]]]) -> nn.Module:
    """Build the network without initial weights, after checking that the tensors of the file fit it."""
    require_library(spec.name)
    try:
        model = build_without_data(spec)
    except PipelineError as error:
        raise ValueError(f"its metadata are of no network: {str(error).removeprefix('params.yaml: ')}") from None
    expected = {name: (_TYPES.get(t.dtype, str(t.dtype)), list(t.shape)) for name, t in model.state_dict().items()}
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        name = different[0]
        has, needs = (f"{kind[0]} {kind[1]}" if (kind := of.get(name)) else "nothing" for of in (found, expected))
        raise ValueError(f"its metadata do not fit its tensors: {name} is {has}, {spec.name} needs {needs}")
    # Some networks of timm have tensors that are in no file, and are computed when the network is built.
    computed = {name for name, _ in model.named_buffers()} - expected.keys()
    return build_model(spec) if computed else model.to_empty(device="cpu")


def not_finite(tensors: dict[str, Tensor]) -> str:
    """The names of the tensors with a value that is NaN or infinite."""
    return listed((name for name, tensor in sorted(tensors.items()) if not tensor.isfinite().all()), 3)
