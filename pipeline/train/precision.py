"""The precision that the network is trained in."""

import torch

from pipeline.errors import PipelineError
from pipeline.params.schema import TrainParams


def choose_precision(params: TrainParams, device: torch.device) -> torch.dtype:
    """The type that ``train.precision`` means on a device.

    Raises:
        PipelineError: the device cannot compute in it.
    """
    if params.precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if params.precision == "fp16" and device.type == "cpu":
        raise PipelineError("params.yaml: train.precision: got fp16, which the CPU is slow in; use auto, bf16 or fp32")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[params.precision]


def describe_precision(dtype: torch.dtype, device: torch.device) -> str:
    """Name the precision for a log line, TF32 included."""
    name = str(dtype).removeprefix("torch.")
    return f"{name}, matrices of float32 in TF32" if device.type == "cuda" else name
