"""Checks of ``params.yaml`` that need libraries, made before any work: transforms, the network and its layers.

A t-SNE of a layer that the network does not have should not fail after an hour of training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from torch import nn

    from pipeline.params.schema import Params


def check_ahead(params: "Params") -> None:
    """Make the checks of later stages that do not need the images.

    Torch is imported only for networks of torchvision; the schema knows what ``classifier`` allows.

    Raises:
        PipelineError: a transform is invalid; or torchvision has no such network, or the network does not fit the image
            size, the layers of ``tsne.layers`` or the optimizer.
    """
    from pipeline.images.transforms import augmented_view

    augmented_view(params.augment)
    if params.model.name != "classifier":
        _check_network(params)


def _check_network(params: "Params") -> None:
    """Build the network and run it on the device ``meta``, whose tensors have shapes but no data."""
    import torch

    from pipeline.network.inference import watching
    from pipeline.network.models import ModelSpec, build_model, default_layers, find_layer
    from pipeline.train.optimization import build_optimizers

    size, name = params.augment.image_size, params.model.name
    count = params.data.class_count or 2
    spec = ModelSpec(
        **params.model.model_dump(exclude={"pretrained"}),
        outputs=1 if params.train.loss == "bce" else count,
        image_size=size,
        resize=params.augment.resize,
        classes=("",) * count,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    with _without_data():
        model = build_model(spec).to("meta").eval()
    if params.model.pretrained:
        _check_weights(name, size)
    build_optimizers(model, params.train, torch.device("meta"))
    chosen = default_layers(model) if params.tsne.layers == "auto" else params.tsne.layers
    layers = {layer: find_layer(model, layer, "tsne.layers") for layer in chosen}
    try:
        with watching(layers) as watch, torch.no_grad():
            watch(model, torch.zeros(2, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(
            f"params.yaml: augment.image_size: {name} refuses {size} ({reason}); choose another"
        ) from None


@contextmanager
def _without_data() -> Iterator[None]:
    """Move all weights of the modules built in this block to the device ``meta`` before they are initialised.

    ``with torch.device("meta")`` would also move the tensors from which a RegNet computes its widths.
    """
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook

    # Torch replaces the weights by the result of the hook, which its type annotation does not say.
    def strip(module: "nn.Module", name: str, weights: "nn.Parameter | None") -> Any:
        return None if weights is None else nn.Parameter(weights.detach().to("meta"), weights.requires_grad)

    handle = register_module_parameter_registration_hook(strip)
    try:
        yield
    finally:
        handle.remove()


def _check_weights(name: str, size: int) -> None:
    """Check the image size for the pretrained weights of a transformer, which contain positions of its patches."""
    from torchvision.models import get_model_weights

    if name.startswith(("vit_", "maxvit")):
        wanted = get_model_weights(name).DEFAULT.meta["min_size"][0]
        if size != wanted:
            raise PipelineError(
                f"params.yaml: augment.image_size: got {size}, the pretrained weights of {name} are for {wanted}; set "
                "it to that, or model.pretrained to false"
            )
