"""The weights file: safetensors, with the specification of the network in its metadata."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.common.files import replacing
from pipeline.common.paths import MODEL
from pipeline.errors import PipelineError
from pipeline.network.models import ModelSpec, build_model


def save_model(path: Path, state: dict[str, Tensor], spec: ModelSpec) -> None:
    """Write the state dict of a network and its specification."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # A single entry: the order of several is random, and would change the hash of the file.
    metadata = {"spec": json.dumps(asdict(spec), ensure_ascii=False)}
    with replacing(path) as temporary:
        temporary.touch()
        permissions = temporary.stat().st_mode
        save_file(tensors, temporary, metadata)
        # safetensors makes the file readable by its owner only.
        temporary.chmod(permissions)


def load_model(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Load the network of a weights file, in evaluation mode.

    Raises:
        PipelineError: the file does not exist, or was not written by ``save_model``.
    """
    fix = "run dvc repro train" if path == MODEL else "name one that the stage train wrote"
    try:
        with safe_open(path, "pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})["spec"])
        content = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        spec = ModelSpec(**content)
        model = build_model(spec)
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; {fix}") from None
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"{path}: not a weights file of this project ({reason}); {fix}") from None
    return model.eval(), spec
