"""Checks of Python, its packages, the environment variables, torch and its device, memory and disks."""

import difflib
import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.text import listed, one_line
from pipeline.doctor.finding import ERROR, NOTE, OK, Finding, ask, check, complaint, shell_path
from pipeline.errors import PipelineError
from pipeline.machine import (
    VARIABLES,
    control_group,
    crowded,
    process_count,
    variable_problems,
    worker_count,
)

if TYPE_CHECKING:
    import torch

PROJECT = "image-classification-pipeline"
# Other variables that change what the commands do. None is a secret, once a URL is without its user.
OTHER_VARIABLES = re.compile(
    "CUDA_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|OMP_NUM_THREADS|PYTORCH_(CUDA_)?ALLOC_CONF|PYTHON(SAFE)?PATH|TMPDIR|"
    "DVC_(ROOT|SITE_CACHE_DIR|GLOBAL_CONFIG_DIR)|GIT_(DIR|WORK_TREE|INDEX_FILE)|MODELSCOPE_ENDPOINT|SSL_CERT_FILE|"
    "(HTTPS?|NO)_PROXY|REQUESTS_CA_BUNDLE|WORLD_SIZE|LOCAL_RANK",
    re.IGNORECASE,
)
TOLERANCE = 5e-2  # of gradients, relative to the largest; TF32 keeps ten bits of a factor
GB = 1e9


@check("Python", "on PATH")
def programs_on_path() -> Iterator[Finding]:
    """``python``, which every stage calls, is this one, and ``dvc`` belongs to the same environment."""
    python, dvc, folder = shutil.which("python"), shutil.which("dvc"), Path(sys.executable).parent
    has_activate = (folder / "activate").is_file()  # not in an environment of conda, for which PATH is enough
    fix = f"`source {shell_path(folder / 'activate')}`" if has_activate else f"`export PATH={shell_path(folder)}:$PATH`"
    answer = ask("python", "-c", "import sys; print(sys.prefix)")
    if python is None:
        yield Finding(ERROR, "there is no python on PATH, which every stage calls", fix)
    elif answer.returncode:
        yield Finding(ERROR, f"{shell_path(python)} does not run: {complaint(answer)}", fix)
    elif Path(answer.stdout.strip()).resolve() != Path(sys.prefix).resolve():
        other = f"stages call {shell_path(python)}, which belongs to another environment than"
        yield Finding(ERROR, f"{other} {shell_path(sys.executable)}", fix)
    elif dvc is None or Path(dvc).absolute().parent != Path(sysconfig.get_path("scripts")):
        yield Finding(NOTE, f"dvc of another environment: {dvc and shell_path(dvc)}", fix)
    else:
        yield Finding(OK, f"{shell_path(python)}, {shell_path(dvc)}")


def installing(what: str = "-c constraints.txt -e .") -> str:
    """How to install something into this environment, which has no pip if uv made it."""
    # Not find_spec: setuptools takes that for an import of pip, after which torch cannot compile in this process.
    if installed("pip"):
        return f"`{shell_path(sys.executable)} -m pip install {what}`"
    return f"`uv pip install --python {shell_path(sys.executable)} {what}`"


def installed(name: str) -> str:
    """The version of a package; empty if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@check("Python", "packages")
def packages() -> Iterator[Finding]:
    """The packages that ``pyproject.toml`` lists are installed, in the versions of ``constraints.txt``."""
    lines = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0].replace(".", "-") for line in lines]
    versions = {name: installed(name) for name in names}
    missing = [name for name, version in versions.items() if not version]
    if missing:
        yield Finding(ERROR, f"missing: {listed(missing, 40)}", installing())
        return
    from packaging.requirements import Requirement

    text = Path("constraints.txt").read_text("utf-8")
    pins = [Requirement(line.partition(" #")[0]) for line in text.splitlines() if line[:1].isalnum()]
    pinned = {pin.name: str(pin.specifier)[2:] for pin in pins if pin.marker is None or pin.marker.evaluate()}
    # Torch for a version of CUDA has a version such as 2.11.0+cu130.
    other = {name: version for name, version in versions.items() if version.split("+")[0] != pinned.get(name)}
    if other:
        found = [f"{name} {version} (pinned is {pinned.get(name)})" for name, version in other.items()]
        line = f"other versions than in constraints.txt, so the last bits may differ: {listed(found, 40)}"
        yield Finding(NOTE, line, installing())
    else:
        yield Finding(OK, f"all {len(versions)} in the versions of constraints.txt")


@check("Python", "pip check")
def conflicts() -> Iterator[Finding]:
    """``pip check`` has no complaint; those about other packages than ours are notes."""
    uv = ("uv", "pip", "check", "--python", sys.executable)
    answer = ask(*((sys.executable, "-m", "pip", "check") if installed("pip") else uv))
    lines = (answer.stdout.strip() or answer.stderr).splitlines()
    if answer.returncode:
        yield Finding(ERROR if PROJECT in answer.stdout else NOTE, listed(lines, 10), installing())
    else:
        yield Finding(OK, listed(lines))


@check("Python", "variables")
def variables() -> Iterator[Finding]:
    """The variables ``PIPELINE_*`` are known and their values allowed; others point git and DVC to this repository."""
    for name in sorted(os.environ):
        if name.startswith("PIPELINE_") and name not in VARIABLES:
            hint = "".join(f"did you mean {close}? " for close in difflib.get_close_matches(name, VARIABLES, n=1))
            line = f"{name} is unknown and has no effect; allowed are {', '.join(VARIABLES)}"
            yield Finding(ERROR, line, f"{hint}`unset {name}`")
        elif (name.startswith("GIT_") and OTHER_VARIABLES.fullmatch(name)) or name == "DVC_ROOT":
            yield Finding(NOTE, f"{name}: git or DVC works on another repository than this one", f"`unset {name}`")
    for problem in variable_problems():
        line, _, fix = problem.partition("; ")
        yield Finding(ERROR, line, f"{fix}: `unset {line.partition(':')[0]}`")
    names = [name for name in sorted(os.environ) if name in VARIABLES or OTHER_VARIABLES.fullmatch(name)]
    # A password is recognised up to the next white space.
    values = ("%20".join(os.environ[name].split()) for name in names)
    yield Finding(OK, ", ".join(map("=".join, zip(names, values, strict=True))) or "none is set")


@check("Machine", "torch")
def torch_build() -> Iterator[Finding]:
    """Torch and torchvision can be imported (not if built for different versions of CUDA), and torch sees the GPU."""
    reinstall = installing("--force-reinstall -c constraints.txt torch torchvision")
    try:
        import torch
        import torchvision  # noqa: F401
    except Exception as problem:  # a missing library is an OSError, a half installed package any error
        yield Finding(ERROR, f"cannot be imported: {one_line(str(problem))[:400]}", reinstall)
        return
    from torch.utils import collect_env

    gpus, cuda = collect_env.get_gpu_info(collect_env.run), torch.version.cuda
    driver = collect_env.get_nvidia_driver_version(collect_env.run)
    line = f"{torch.__version__} for CUDA {cuda}; Nvidia driver: {driver or 'none'}; GPUs: {gpus or 'none'}"
    if not gpus and shutil.which("nvidia-smi"):
        fix = "in a container `docker run --gpus all`; else reinstall the driver, or restart the machine"
        yield Finding(NOTE, f"{line}; nvidia-smi lists none", fix)
    elif gpus and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding(NOTE, f"{line}; CUDA_VISIBLE_DEVICES hides them", "`unset CUDA_VISIBLE_DEVICES`")
    elif gpus and not torch.cuda.is_available():
        fix = f"update the driver to one for CUDA {cuda}, or install another torch: https://pytorch.org/get-started"
        yield Finding(ERROR, f"{line}; torch cannot use them", fix if cuda else reinstall)
    else:
        yield Finding(OK, line)


@check("Machine", "device")
def device() -> Iterator[Finding]:
    """The device that the stages take exists, has free memory, and computes what the CPU computes."""
    import torch

    from pipeline.network.device import choose_device, describe_device

    try:
        chosen = choose_device()
    except PipelineError as problem:
        yield Finding(
            ERROR, str(problem), "`unset PIPELINE_DEVICE` for the best device; or `export PIPELINE_DEVICE=cpu`"
        )
        return
    expected, found = _gradients(torch.device("cpu")), _gradients(chosen)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:  # also if it is NaN
        line = f"{chosen}: gradients differ from those on the CPU by {difference:.2g} of the largest"
        yield Finding(ERROR, line, "update the driver; until then `export PIPELINE_DEVICE=cpu`")
    else:
        yield Finding(OK, f"{describe_device(chosen)}: computes the same gradients as the CPU")
    if chosen.type == "cpu" and (line := crowded(torch.get_num_threads())):
        yield Finding(NOTE, line, "`export OMP_NUM_THREADS=1`")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        line = f"cuda:{index}: {free / 2**30:,.1f} GiB free of {total / 2**30:,.1f}"
        used = free < max(2**30, total / 4)
        yield Finding(NOTE, line, "`nvidia-smi` lists the other processes") if used else Finding(OK, line)


def _gradients(device: "torch.device") -> "torch.Tensor":
    """The gradients of a small convolution followed by a matrix product, on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images, kernels = torch.randn(8, 3, 8, 8, generator=generator), torch.randn(16, 3, 3, 3, generator=generator)
    kernels = kernels.to(device).requires_grad_()
    features = torch.nn.functional.conv2d(images.to(device), kernels).tanh().flatten(1)
    (gradients,) = torch.autograd.grad((features @ features.T).mean(), kernels)
    return gradients.cpu()


@check("Machine", "memory")
def memory() -> Iterator[Finding]:
    """There is enough memory for torch; in a container its limit counts."""
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit = control_group("memory.max")
    if limit.isdecimal() and int(limit) < total:
        # The page cache counts as used, but is released when memory is needed.
        cache = dict(line.split() for line in control_group("memory.stat").splitlines()).get("inactive_file", 0)
        total, free = int(limit), min(free, int(limit) - int(control_group("memory.current") or 0) + int(cache))
    line = f"{free / GB:,.1f} GB free of {total / GB:,.1f}; {os.cpu_count()} cores, {worker_count()} workers"
    if free < GB:
        fix = "close other programs; or lower train.batch_size, and `export PIPELINE_WORKERS=1`"
        yield Finding(NOTE, f"{line}: little memory for torch, so a process may be killed", fix)
    else:
        yield Finding(OK, line)


@check("Machine", "disk")
def disks() -> Iterator[Finding]:
    """Each disk that is written to has free space, and may be written to."""
    places = {"workspace": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    with suppress(Exception):  # packages may be missing, or DVC's configuration broken, which other checks report
        from dvc.config import Config

        from pipeline.download.cache import cache_folder

        places["downloads"] = cache_folder()
        places["DVC's cache"] = Path(Config(dvc_dir=".dvc")["cache"].get("dir", ".dvc/cache"))
    if process_count() > 1 and sys.platform == "linux":
        places["PIPELINE_PROCESSES (`docker run --shm-size=8g`)"] = Path("/dev/shm")
    disks: dict[int, tuple[list[str], Path]] = {}
    for use, place in places.items():
        place = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        disks.setdefault(place.stat().st_dev, ([], place))[0].append(use)
    for uses, place in disks.values():
        usage = shutil.disk_usage(place)
        line = f"{usage.free / GB:,.1f} GB free of {usage.total / GB:,.1f} for {listed(uses)}"
        if not os.access(place, os.W_OK):
            fix = f"`sudo chown -R $(id -un) {shell_path(place)}`, or move it to a disk that is not read-only"
            yield Finding(ERROR, f"{line}: {shell_path(place)} cannot be written to", fix)
        elif usage.free < GB:
            fix = "free space there; `dvc gc --workspace` removes what no current file needs from DVC's cache"
            yield Finding(ERROR if usage.free < GB / 4 else NOTE, f"{line}: little space", fix)
        else:
            yield Finding(OK, line)
