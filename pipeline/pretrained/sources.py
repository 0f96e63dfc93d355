"""Where weights come from: a library's own, a file, or an earlier run; each is a file that runs no program."""

import argparse
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from safetensors.torch import load_file

from pipeline.common.files import replacing
from pipeline.common.paths import MODEL, user_path
from pipeline.common.runs import RUN, copy_output
from pipeline.common.text import one_line
from pipeline.errors import MachineError, PipelineError
from pipeline.network.models import TIMM
from pipeline.network.pretrained import Origin
from pipeline.network.tensors import read_metadata
from pipeline.network.weights import SPEC, load_model
from pipeline.progress import say

KEY = "params.yaml: model.pretrained"
SECONDS = 60.0  # without a byte
REFUSED = (401, 403, 404, 410)  # statuses of HTTP for a file that is not there, or not for everybody


@contextmanager
def opened(name: str, weights: bool | str) -> Iterator[tuple[Mapping[str, Any], Origin]]:
    """Yield a checkpoint or a state dict, and what is known about it.

    Raises:
        PipelineError: it cannot be fetched or read.
    """
    with TemporaryDirectory() as folder:
        if weights is True:
            path, source, fix = *_of_library(name), "remove it, so that it is downloaded again"
        elif str(weights).startswith(RUN):
            path, source, fix = copy_output(str(weights), MODEL, Path(folder), KEY), str(weights), "run dvc repro there"
        else:
            path = user_path(str(weights), "model.pretrained")
            source, fix = path.name, "name a .safetensors file, or a .pth file with nothing but a state dict"
            if not path.exists():
                raise PipelineError(f"{KEY}: {path} does not exist; set it to a file, to true or to false")
        try:
            content, stated = _read(path)
        except Exception as error:  # a library may raise anything for a damaged file
            reason = one_line(str(error))[:200] or type(error).__name__
            raise PipelineError(f"{KEY}: {path} contains no usable weights ({reason}); {fix}") from None
        found = stated.pop("name", name)
        if found != name:
            raise PipelineError(f"{KEY}: {source} has the weights of {found}; set model.name to it (now {name})")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if weights is True and (digits := _digits(path.name)) and not sha256.startswith(digits):
            say(f"model.pretrained: warning: {path} is another file than the publisher's (its SHA-256 is {sha256})")
        yield content, Origin(source=source, sha256=sha256, **(stated or published_input(name)))


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The content of a file, and what a weights file of this project states about its network and input.

    Raises:
        Exception: the file is damaged, or contains anything but tensors and plain values.
    """
    if not path.is_file():  # reading a pipe would wait for its other end
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if not is_safetensors:
        # Checkpoints of timm contain its arguments.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise ValueError(f"it contains a {type(content).__name__}, not a state dict")
        return content, {}
    if SPEC not in read_metadata(path):
        return load_file(path), {}
    model, spec = load_model(path)
    names = ("name", "mean", "std", "image_size", "interpolation", "classes")
    return model.state_dict(), {name: getattr(spec, name) for name in names}


def published_input(name: str) -> dict[str, Any]:
    """The input that a network's library states for its default weights; empty for ``classifier``."""
    if name == "classifier":
        return {}
    if name.startswith(TIMM):
        import timm

        stated = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        if stated is None:
            return {}
        facts = {"mean": stated.mean, "std": stated.std, "image_size": stated.input_size[-1]}
        return facts | {"interpolation": stated.interpolation}
    from torchvision.models import get_model_weights

    transforms = get_model_weights(name).DEFAULT.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if name in ("googlenet", "inception_v3"):  # trained with these; torchvision's module converts its input to them
        mean = std = (0.5, 0.5, 0.5)
    facts = {"mean": mean, "std": std, "image_size": transforms.crop_size[0]}
    return facts | {"interpolation": transforms.interpolation.value}


def _of_library(name: str) -> tuple[Path, str]:
    """The file of the default weights, downloaded once, and its address."""
    if name.startswith(TIMM):
        import timm

        stated = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        if stated is None or not stated.has_weights or stated.custom_load:
            what = "in no format that can be read here" if stated and stated.has_weights else "nowhere"
            raise PipelineError(f"{KEY}: timm publishes weights of {name} {what}; set it to a path or to false")
        if stated.hf_hub_id:
            return _from_hub(name, stated.hf_hub_id, stated.hf_hub_filename)
        url = str(stated.url)
    else:
        from torchvision.models import get_model_weights

        url = get_model_weights(name).DEFAULT.url
    return _from_url(name, url), url


def _from_url(name: str, url: str) -> Path:
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not file.exists():
        say(f"pretrained: downloading {url}")
        try:
            _download(url, file)
        except (OSError, HTTPException, ValueError) as error:
            raise _not_downloaded(name, url, error, _digits(file.name), file) from None
    return file


def _download(url: str, file: Path) -> None:
    """Download a file; unlike torch's function, do not wait for ever, and notice that the end is missing.

    Raises:
        OSError, HTTPException, ValueError: it cannot be fetched, or is not the file of its name.
    """
    request = Request(url, headers={"User-Agent": "torch.hub"})
    with replacing(file) as temporary:
        with urlopen(request, timeout=SECONDS) as answer, temporary.open("wb") as part:
            shutil.copyfileobj(answer, part)
            if answer.length:
                raise ValueError(f"the last {answer.length:,} bytes are missing")
        with temporary.open("rb") as part:
            sha256 = hashlib.file_digest(part, "sha256").hexdigest()
        if not sha256.startswith(_digits(file.name) or ""):
            raise ValueError(f"it has the SHA-256 {sha256}")


def _from_hub(name: str, repository: str, file: str | None) -> tuple[Path, str]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces each of its five retries
    identity, _, revision = repository.partition("@")
    for filename in [file] if file else ["model.safetensors", "pytorch_model.bin"]:
        url = f"https://huggingface.co/{identity}/resolve/{revision or 'main'}/{filename}"
        try:
            return Path(hf_hub_download(identity, filename, revision=revision or None)), url
        except Exception as error:  # its clients raise errors of their own kinds
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                raise _not_downloaded(name, url, error) from None
    raise PipelineError(f"{KEY}: the hub's {identity} has no weights of {name}; set it to a path or to false")


def _not_downloaded(
    name: str, url: str, error: Exception, digits: str | None = None, file: Path | None = None
) -> PipelineError:
    place = f", or save it as {file}" if file else ""
    known = f"; its SHA-256 begins with {digits}" if digits else ""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    kind = PipelineError if status in REFUSED else MachineError
    return kind(
        f"{KEY}: the weights of {name} cannot be downloaded ({one_line(str(error))[:200]}); save {url} where there "
        f"is a network and set model.pretrained to its path here{place}{known}; false trains from scratch"
    )


def _digits(filename: str) -> str | None:
    """The first digits of the SHA-256 of a file, which torch has in its name."""
    found = re.search(r"-([0-9a-f]{8,})\.", filename)
    return found[1] if found else None
