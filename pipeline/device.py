"""The device that torch runs on, and how reproducibly."""

import os

import torch

from pipeline.errors import PipelineError


def choose_device() -> torch.device:
    """Take CUDA, else MPS, else the CPU; the environment variable ``PIPELINE_DEVICE`` overrides it."""
    name = os.environ.get("PIPELINE_DEVICE")
    if name is None:
        best = torch.accelerator.current_accelerator(check_available=True)
        return best if best is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"PIPELINE_DEVICE: got {name!r}, allowed is a device of this machine ({reason})") from None
    return device


def describe_device(device: torch.device) -> str:
    """Name the device for a log line."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def make_deterministic(seed: int) -> None:
    """Seed torch and let it use only algorithms that give the same bits on every run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)
