"""Checks of torch and the device: the one that is asked for is there, and computes."""

import importlib.metadata
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.programs import ask
from pipeline.doctor.python import installing
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import torch

TOLERANCE = 5e-2  # relative to the largest value; TF32 keeps ten bits of a factor


def torch_version(_: Surroundings) -> Iterator[Finding]:
    """Torch can be imported, and torchvision is of the same build."""
    try:
        import torch
    except Exception as problem:  # a library that is missing is an OSError, a half installed one anything
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        yield error("torch", f"cannot be imported: {reason}", installing("--force-reinstall -c constraints.txt torch"))
        return
    build = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    yield ok("torch", f"{torch.__version__}, {f'built for {build}' if build else 'built without CUDA'}")
    # Builds for different versions of CUDA do not go together: operators such as nms are then missing.
    local = {name: importlib.metadata.version(name).partition("+")[2] for name in ("torch", "torchvision")}
    if all(local.values()) and len(set(local.values())) > 1:
        yield error(
            "torchvision",
            f"built for {local['torchvision']}, torch for {local['torch']}",
            installing("--force-reinstall -c constraints.txt torch torchvision"),
        )


def device(_: Surroundings) -> Iterator[Finding]:
    """The device that the stages would take is there."""
    import torch

    from pipeline.network.device import choose_device, describe_device

    asked = os.environ.get("PIPELINE_DEVICE")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            chosen = choose_device()
    except PipelineError as problem:
        mend = "`unset PIPELINE_DEVICE` takes the best device" if asked else "`export PIPELINE_DEVICE=cpu`"
        yield error("device", str(problem), mend)
        return
    by = "by PIPELINE_DEVICE" if asked else "the best there is"
    named = "" if chosen.type == describe_device(chosen).split()[0] else f"{chosen}, "
    yield ok("device", f"{named}{describe_device(chosen)}; {by}")
    if chosen.type == "cpu" and not asked:
        yield from _why_no_gpu([str(warning.message) for warning in said], torch.version.cuda is not None)


def _why_no_gpu(said: list[str], has_cuda: bool) -> Iterator[Finding]:
    """Where there is a GPU of Nvidia that torch does not use: why not."""
    answer = ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    there = answer.text if answer is not None and not answer.code else ""
    if not there and Path("/proc/driver/nvidia/version").exists():
        there = "a driver of Nvidia"
    if answer is not None and answer.code:
        complaint = (answer.text or answer.complaint or "no reason given").splitlines()[0]
        mend = "in a container `docker run --gpus all`; else install the driver anew, or restart the machine"
        yield note("GPU", f"none that works, nvidia-smi fails: {complaint}", mend)
    elif not there:
        return
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield note("GPU", f"CUDA_VISIBLE_DEVICES hides {there}", "`unset CUDA_VISIBLE_DEVICES`")
    elif not has_cuda:
        yield error(
            "GPU",
            f"{there} is here, but torch is built without CUDA",
            installing("--force-reinstall -c constraints.txt torch torchvision"),
        )
    else:
        reason = next((line.split(" (Triggered")[0] for line in said if "CUDA" in line or "driver" in line), "")
        import torch

        yield error(
            "GPU",
            f"{there} is here, but torch cannot use it{f': {reason}' if reason else ''}",
            f"update the driver to one that has CUDA {torch.version.cuda} (nvidia-smi shows what it has), or install "
            "a torch for an older CUDA: https://pytorch.org/get-started",
        )


def gpus(here: Surroundings) -> Iterator[Finding]:
    """Show each GPU: whether torch has kernels for it, and room on it."""
    import torch

    if not torch.cuda.is_available():
        return
    kernels = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        line = (
            f"cuda:{index}, {properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{free / 2**30:,.1f} GiB free of {total / 2**30:,.1f}, bfloat16 {'yes' if properties.major >= 8 else 'no'}"
        )
        if torch.version.cuda and not _has_kernels((properties.major, properties.minor), kernels):
            yield error(
                "GPU",
                f"{line}; this torch has no kernels for it, only for {', '.join(kernels)}",
                "install a torch that has: https://pytorch.org/get-started; or `export PIPELINE_DEVICE=cpu`",
            )
        elif free < 2**30 or free < total / 4:
            yield note("GPU", f"{line}; other processes hold the rest", "`nvidia-smi` shows which")
        else:
            yield ok("GPU", line)
    yield ok("cuDNN", str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else "none")


def _has_kernels(capability: tuple[int, int], kernels: list[str]) -> bool:
    """Whether one was compiled for this GPU, or for an older one of its kind, or can be compiled at run time (PTX)."""
    major, minor = capability
    for kernel in kernels:
        kind, _, digits = kernel.rstrip("af").partition("_")
        if digits.isdigit():
            have = (int(digits[:-1]), int(digits[-1]))
            if (kind == "compute" and have <= capability) or (have[0] == major and have[1] <= minor):
                return True
    return False


def computation(_: Surroundings) -> Iterator[Finding]:
    """A small network computes on the device what it computes on the CPU, gradients included."""
    import torch

    from pipeline.network.device import choose_device

    try:
        chosen = choose_device()
    except PipelineError:
        return
    expected, found = _gradients(torch.device("cpu")), _gradients(chosen)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        yield error(
            "computation",
            f"a convolution and a matrix product on {chosen} differ from the CPU's by {difference:.2g} of the largest",
            "update the driver; until then `export PIPELINE_DEVICE=cpu`",
        )
    else:
        yield ok("computation", f"a convolution and a matrix product on {chosen} agree with the CPU's")


def _gradients(device: "torch.device") -> "torch.Tensor":
    """All gradients of a small network on fixed input, one after the other, on the CPU."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(16 * 64, 32)
        )
        images = torch.randn(8, 3, 8, 8)
    network.to(device)(images.to(device)).square().mean().backward()
    return torch.cat([weights.grad.flatten().cpu() for weights in network.parameters() if weights.grad is not None])


def precision(here: Surroundings) -> Iterator[Finding]:
    """The device computes in the precision that is asked for."""
    if here.valid_params is None:
        return
    from pipeline.network.device import choose_device
    from pipeline.train.precision import choose_precision, describe_precision

    try:
        chosen = choose_device()
    except PipelineError:
        return
    try:
        yield ok("precision", describe_precision(choose_precision(here.valid_params.train, chosen), chosen))
    except PipelineError as problem:
        yield error("precision", str(problem), "set train.precision: auto in params.yaml")


def compiler(here: Surroundings) -> Iterator[Finding]:
    """There is a compiler where ``train.compile`` wants one."""
    if here.valid_params is None or not here.valid_params.train.compile:
        return
    name = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if name is None or shutil.which(name) is None:
        yield error(
            "compiler",
            "train.compile is true, and torch.compile needs a C compiler, which is not here",
            "`apt install gcc`, or set train.compile: false in params.yaml",
        )
    else:
        yield ok("compiler", name)


def pretrained(here: Surroundings) -> Iterator[Finding]:
    """Weights that ``model.pretrained`` wants are here already, or will be downloaded."""
    params = here.valid_params
    if params is None or not params.model.pretrained or params.model.name == "classifier":
        return
    import torch
    from torchvision.models import get_model_weights

    name = Path(get_model_weights(params.model.name).DEFAULT.url).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if (folder / name).is_file():
        yield ok("weights", f"{name} is in {folder}")
    else:
        yield note("weights", f"{name} is not in {folder} yet: train will download it, which needs a network")
