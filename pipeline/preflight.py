"""What ``params.yaml`` asks of libraries, tried before any work: transforms, the network and its layers.

An hour's training should not end in a t-SNE of a layer that the network never had.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from torch import nn

    from pipeline.params.schema import Params


def check_ahead(params: "Params") -> None:
    """Refuse what a later stage would refuse, as far as it does not take the images to know it.

    Torch is imported only where the network is one of torchvision's: what ``classifier`` allows, the schema knows.

    Raises:
        PipelineError: a transform is wrong, torchvision has no such network, it does not take the image size, it
            lacks a layer of ``tsne.layers``, or the optimizer does not suit it.
    """
    from pipeline.images.transforms import augmented_view

    augmented_view(params.augment)
    if params.model.name != "classifier":
        _check_network(params)


def _check_network(params: "Params") -> None:
    """Build the network and run it on the device ``meta``, where tensors have shapes and no content."""
    import torch

    from pipeline.network.inference import watching
    from pipeline.network.models import ModelSpec, build_model, find_layer
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
    with _without_content():
        model = build_model(spec).to("meta").eval()
    if params.model.pretrained:
        _check_weights(name, size)
    build_optimizers(model, params.train, torch.device("meta"))
    layers = {layer: find_layer(model, layer, "tsne.layers") for layer in params.tsne.layers}
    try:
        with watching(layers) as watch, torch.no_grad():
            watch(model, torch.zeros(2, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(
            f"params.yaml: augment.image_size: {name} refuses {size} ({reason}); choose another"
        ) from None


@contextmanager
def _without_content() -> Iterator[None]:
    """Let every weight of a module that is built meanwhile go to the device ``meta`` before it is initialised.

    ``with torch.device("meta")`` would catch the tensors by which a RegNet computes its widths, too.
    """
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook

    # Torch takes what a hook returns in the place of the weights, which the hook's type does not say.
    def strip(module: "nn.Module", name: str, weights: "nn.Parameter | None") -> Any:
        return None if weights is None else nn.Parameter(weights.detach().to("meta"), weights.requires_grad)

    handle = register_module_parameter_registration_hook(strip)
    try:
        yield
    finally:
        handle.remove()


def _check_weights(name: str, size: int) -> None:
    """The weights of a transformer hold a position for each patch of one image size."""
    from torchvision.models import get_model_weights

    if name.startswith(("vit_", "maxvit")):
        wanted = get_model_weights(name).DEFAULT.meta["min_size"][0]
        if size != wanted:
            raise PipelineError(
                f"params.yaml: augment.image_size: got {size}, the pretrained weights of {name} are for {wanted}; set "
                "it to that, or model.pretrained to false"
            )
