"""``data/pretrained.safetensors``: the weights that training starts from, and the input that they were trained with.

Without torch: ``model.pretrained: false`` needs none to write a file without tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from pydantic import Field

from pipeline.common.paths import PRETRAINED
from pipeline.common.reading import reading
from pipeline.common.text import listed
from pipeline.network.tensors import Arrays, Mean, Std, read_content, read_tensors, write_tensors
from pipeline.params.schema import Section

if TYPE_CHECKING:
    from torch import nn

KEY = "pretrained"


class Origin(Section):
    """Where pretrained weights come from, and the input that their publisher states for them; None where unknown.

    Attributes:
        source: the name of a file, ``run:NAME``, or the address of the library's weights.
        sha256: of the file.
        mean, std: of each input channel in 0 to 1.
        image_size: height and width in pixels.
        interpolation: how photos are resized, in the words of torchvision, or ``area``.
        classes: the names of the outputs.
    """

    source: str | None = None
    sha256: str | None = None
    mean: tuple[Mean, Mean, Mean] | None = None
    std: tuple[Std, Std, Std] | None = None
    image_size: int | None = Field(default=None, ge=1)
    interpolation: str | None = None
    classes: tuple[str, ...] | None = None


class _Metadata(Origin):
    weights: str


@dataclass(frozen=True)
class PretrainedWeights:
    """The content of the file: the tensors have the names of the network's."""

    origin: Origin
    tensors: Arrays

    def load_into(self, model: "nn.Module", classes: tuple[str, ...]) -> list[str]:
        """Replace the weights of a network, except for its last layer if that has other outputs or other classes.

        Returns:
            Lines that say which weights stay as they were.

        Raises:
            PipelineError: the tensors are of another network.
        """
        import torch
        from torch import nn

        from pipeline.network.models import find_heads

        own, kept, heads = model.state_dict(), dict(self.tensors), find_heads(model)
        head = tuple(f"{name}." for name, _ in heads)
        outputs = {len(kept[name]) for name in kept if name.startswith(head)}
        other = self.origin.classes not in (None, classes)
        if other or any(own.get(name, kept[name]).shape != kept[name].shape for name in kept if name.startswith(head)):
            kept = {name: values for name, values in kept.items() if not name.startswith(head)}
            for _, layer in heads:
                # Zeros, as in Big Transfer (Kolesnikov et al. 2020): with 5 photos per class random weights cost two
                # points. Not the convolution of SqueezeNet: the ReLU after it would have no gradient.
                layer.reset_parameters()
                if isinstance(layer, nn.Linear):
                    nn.init.zeros_(layer.weight)
                    nn.init.zeros_(layer.bias)
        with reading(PRETRAINED):
            if wrong := sorted(name for name in kept if name not in own or own[name].shape != kept[name].shape):
                raise ValueError(f"it is for another network: {listed(wrong, 3)}")
        own.update({name: torch.from_numpy(values) for name, values in kept.items()})
        model.load_state_dict(own)
        lines = [f"model.pretrained: {len(kept)} of {len(own)} tensors are those of {self.origin.source}"]
        if missing := [name for name in own if name not in self.tensors]:
            lines.append(f"model.pretrained: initial values: {listed(missing)}, which it does not have")
        if outputs and len(kept) < len(self.tensors):
            what = "other classes" if other else f"{outputs.pop():,} outputs"
            lines.append(f"model.pretrained: the last layer is new, since that of the weights has {what}")
        return lines


def write_pretrained(path: Path, origin: Origin, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write the file; without tensors, for a network that is trained from scratch."""
    write_tensors(path, tensors, KEY, origin.model_dump())


def read_pretrained() -> PretrainedWeights:
    """Read the file.

    Raises:
        PipelineError: it is missing or damaged, or has no tensors.
    """
    with reading(PRETRAINED):
        metadata = read_content(PRETRAINED, KEY, _Metadata)
        tensors = read_tensors(PRETRAINED, metadata.weights)
        if not tensors:
            raise ValueError("it has no weights, as with model.pretrained: false")
    return PretrainedWeights(Origin(**metadata.model_dump(exclude={"weights"})), tensors)


def input_notes(origin: Origin, spec: Any) -> list[str]:
    """A line for each property of the input that is not as the publisher of the weights states it."""
    found = {"image_size": spec.image_size, "interpolation": spec.interpolation}
    wanted = origin.model_dump(include=set(found))
    return [
        f"augment.{name} is {found[name]}, the pretrained weights were trained for {value}"
        for name, value in wanted.items()
        if value not in (None, found[name])
    ]
