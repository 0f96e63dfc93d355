"""What ``model.pretrained`` names on this machine: a file by its content, a run by the content of its model."""

from typing import Any

from pipeline.common.paths import PRETRAINED_SOURCE, user_path
from pipeline.common.runs import RUN, model_md5
from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.source.listing import Source, list_source, problem_of, read_summary, recall

KEY = "params.yaml: model.pretrained"


def weights_identity(pretrained: bool | str) -> dict[str, Any]:
    """The content of ``data/pretrained.json``, which is the same as long as the weights are.

    If a file or a run is not on this machine, its earlier identity stays: then DVC uses the weights in its cache.

    Raises:
        PipelineError: it is not here, and never was.
    """
    if isinstance(pretrained, bool):
        return {"weights": "library"} if pretrained else {}
    before = read_summary(PRETRAINED_SOURCE)
    try:
        if pretrained.startswith(RUN):
            return {"weights": pretrained, "md5": model_md5(pretrained, KEY)}
        return {"weights": pretrained, "sha256": _sha256(pretrained)}
    except PipelineError as error:
        if before.get("weights") != pretrained:
            raise
        say(f"{error}; {PRETRAINED_SOURCE} stays as it is, and DVC uses the weights in its cache")
        return before


def _sha256(location: str) -> str:
    path = user_path(location, "model.pretrained")
    # An archive is listed as one file, whose hash is remembered.
    place = Source("archive", path, {})
    if problem_of(place):
        raise PipelineError(
            f"{KEY}: the file {path} is not here; set it to a .safetensors or .pth file, to true for the library's "
            "weights, to run:NAME, or to false"
        )
    return list_source(place, recall(place))["."].sha256
