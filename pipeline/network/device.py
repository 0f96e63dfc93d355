"""The device that torch runs on, and how reproducibly."""

import os

import torch

from pipeline.errors import PipelineError

PIXELS_AT_ONCE = {"cpu": 16 * 128**2}
PIXELS_AT_ONCE_ELSEWHERE = 256 * 128**2


def choose_device() -> torch.device:
    """Take CUDA, else MPS, else the CPU; the environment variable ``PIPELINE_DEVICE`` overrides it.

    Under ``torchrun`` each process takes the GPU of its local rank.
    """
    name = os.environ.get("PIPELINE_DEVICE")
    if name is None:
        best = torch.accelerator.current_accelerator(check_available=True)
        name = best.type if best is not None else "cpu"
    try:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", rank) if name == "cuda" else torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"PIPELINE_DEVICE: got {name!r}, allowed is a device of this machine ({reason})") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """Name the device for a log line."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def forward_batch_size(device: torch.device, image_size: int, most: int = 256) -> int:
    """How many images of ``image_size`` pixels a network takes at once where it does not train; ``most`` at most.

    What the layers hold grows with the pixels, and has to fit into the memory. For the homework's network and 256
    images of 128 pixels it is 2.1 GiB, for 16 of them 0.15 GiB, which on a CPU is as fast.
    """
    pixels = PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE_ELSEWHERE)
    return max(1, min(most, pixels // image_size**2))


def set_up_torch(seed: int, deterministic: bool) -> None:
    """Seed torch, and choose between the same bits on every run and the quickest kernels.

    Either way the matrices of fp32 layers are multiplied in TF32 on GPUs that have it.
    """
    if deterministic:
        # cuBLAS reads it when it starts, and is deterministic only with it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A layer of some torchvision model may have no such kernel: a warning serves its user better than an end.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Only a program that reads memory it never wrote would need it, and it takes a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(seed)
