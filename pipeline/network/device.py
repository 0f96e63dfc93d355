"""The device, the precision and the reproducibility of torch."""

import os
import stat
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.machine import check_device_name, local_rank

PIXELS_AT_ONCE = {"cpu": 16 * 128**2}
PIXELS_AT_ONCE_ELSEWHERE = 256 * 128**2


def choose_device() -> torch.device:
    """The device that ``PIPELINE_DEVICE`` names; without it CUDA, MPS or the CPU, the first that is available.

    Under ``torchrun`` each process takes the GPU of its local rank.

    Raises:
        PipelineError: the device does not exist, or cannot compute.
    """
    check_device_name()
    name = os.environ.get("PIPELINE_DEVICE")
    if name is None:
        best = torch.accelerator.current_accelerator(check_available=True)
        name = best.type if best is not None else "cpu"
    try:
        device = torch.device("cuda", local_rank()) if name == "cuda" else torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"PIPELINE_DEVICE: got {name!r}, allowed is a device of this machine ({reason})") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """Name a device for a message."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that a value of ``train.precision`` means on a device.

    Raises:
        PipelineError: the device is too slow in it.
    """
    if precision == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if _cpu_has_bf16() else torch.float32
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise PipelineError("params.yaml: train.precision: got fp16, which is slow on the CPU; use auto, bf16 or fp32")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies in bf16 (AVX512-BF16 or AMX); others convert to fp32 and back, which is slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def facts_of(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What decides, besides the code, the version of torch and the input, the bits of a training."""
    facts = {"device": device.type, "precision": str(dtype)}
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}
    return facts


def describe_precision(dtype: torch.dtype, device: torch.device) -> str:
    """Name a precision for a message, TF32 included."""
    name = str(dtype).removeprefix("torch.")
    return f"{name}, float32 matrix products in TF32" if device.type == "cuda" else name


def forward_batch_size(device: torch.device, image_size: int, most: int = 256) -> int:
    """The batch size for inference on images of ``image_size`` pixels, at most ``most``.

    The memory for activations grows with the number of pixels: for ``classifier`` of width 64 and images of 128 pixels
    it is 2.1 GiB with 256 images, and 0.15 GiB with 16, which is as fast on a CPU.
    """
    pixels = PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE_ELSEWHERE)
    return max(1, min(most, pixels // image_size**2))


def check_compiler_cache() -> None:
    """Check the folder whose programs ``torch.compile`` runs: by default one in ``/tmp``, which any user can create.

    Raises:
        PipelineError: another user can write there.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir())
    state = folder.stat()
    if state.st_uid not in (0, os.geteuid()) or state.st_mode & stat.S_IWOTH:
        raise PipelineError(
            f"train.compile: another user can write programs to torch's folder {folder}; set the environment variable "
            "TORCHINDUCTOR_CACHE_DIR to a folder of your own"
        )


def set_up_torch(seed: int, deterministic: bool) -> None:
    """Seed torch, and choose deterministic kernels or the fastest ones.

    In both cases GPUs that support TF32 use it for the matrix products of fp32 layers.
    """
    if deterministic:
        # cuBLAS is deterministic only with this variable, which it reads when it is initialised.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # What torch.compile generates depends on measured times otherwise; read when its compiler is imported.
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    # Some layers of torchvision models have no deterministic kernel: warn instead of stopping.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Nothing here reads uninitialised memory, and filling it takes a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(seed)
