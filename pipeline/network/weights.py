"""The weights file: safetensors, with all that is needed to use the network again in its metadata."""

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
    """Write a network's state and its specification."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # One entry: the order of several would differ from run to run, and with it the file's hash.
    metadata = {"spec": json.dumps(asdict(spec), ensure_ascii=False)}
    with replacing(path) as beside:
        beside.touch()
        permissions = beside.stat().st_mode
        save_file(tensors, beside, metadata)
        # Safetensors' own leave a colleague who shares the folder without.
        beside.chmod(permissions)


def load_model(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Build the network of a weights file, in evaluation mode.

    Raises:
        PipelineError: no such file, or it was not written by ``save_model``.
    """
    mend = "run dvc repro train" if path == MODEL else "name one that the stage train wrote"
    try:
        with safe_open(path, "pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})["spec"])
        content = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        spec = ModelSpec(**content)
        model = build_model(spec)
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; {mend}") from None
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"{path}: no weights file of this project ({reason}); {mend}") from None
    return model.eval(), spec
