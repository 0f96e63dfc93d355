"""Stage ``pretrained``: bring the weights that training starts from into one file, in the names of our network."""

from typing import Any

from pipeline.common.paths import PRETRAINED
from pipeline.common.text import listed
from pipeline.network.pretrained import Origin, write_pretrained
from pipeline.progress import say


def pretrained(name: str, width: int, stem: str, kwargs: dict[str, Any], weights: bool | str, image_size: int) -> None:
    """Write ``data/pretrained.safetensors``, without tensors if ``model.pretrained`` is false.

    Args:
        name, width, stem, kwargs: of the network, as in the section ``model``.
        weights: ``model.pretrained``.
        image_size: ``augment.image_size``, to which the positions of a transformer's patches are interpolated.

    Raises:
        PipelineError: there are no such weights, they cannot be fetched, or they are those of another network.
    """
    if not weights:
        write_pretrained(PRETRAINED, Origin(), {})
        return
    from pipeline.network.models import ModelSpec, build_without_data
    from pipeline.pretrained.names import fit
    from pipeline.pretrained.sources import opened

    middle = (0.5, 0.5, 0.5)
    resizing = image_size, "stretch", "area"
    spec = ModelSpec(name, width, 0.0, stem, 2, *resizing, ("", ""), mean=middle, std=middle, kwargs=kwargs)
    build_without_data(spec)  # refuses an unknown network before anything is downloaded
    with opened(name, weights) as (content, origin):
        tensors, missing, unexpected = fit(content, spec, str(origin.source))
    write_pretrained(PRETRAINED, origin, tensors)
    size = sum(values.nbytes for values in tensors.values()) / 1e6
    say(f"pretrained: {origin.source}: {len(tensors):,} tensors of {name}, {size:,.1f} MB, SHA-256 {origin.sha256}")
    for what, names in {"missing": missing, "unexpected": unexpected}.items():
        if names:
            say(f"pretrained: {len(names):,} {what}: {listed(names)}")
