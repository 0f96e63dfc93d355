"""The device, the precision and the reproducibility of torch."""

import os
import subprocess
import sys

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.network.device import (
    check_compiler_cache,
    choose_device,
    choose_precision,
    describe_device,
    describe_precision,
    facts_of,
    forward_batch_size,
    set_up_torch,
)


@pytest.fixture
def settings(monkeypatch):
    """Restore the settings of torch after the test."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_DETERMINISTIC"):
        monkeypatch.delenv(name, raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    benchmark, tf32 = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = benchmark, tf32


def test_environment_chooses_the_device(monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    assert choose_device() == torch.device("cpu")
    assert describe_device(choose_device()) == f"cpu ({torch.get_num_threads()} threads)"


def test_default_is_the_best_device_of_the_machine(monkeypatch):
    monkeypatch.delenv("PIPELINE_DEVICE", raising=False)
    best = torch.accelerator.current_accelerator(check_available=True)
    assert choose_device().type == (best.type if best else "cpu")


# Tensors on meta have no data.
@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x", "xpu:7", "meta"])
def test_device_that_the_machine_does_not_have_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setenv("PIPELINE_DEVICE", name)
    with pytest.raises(PipelineError) as error:
        choose_device()
    assert str(error.value).startswith(f"PIPELINE_DEVICE: got {name!r}, allowed is a device of this machine")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("deterministic", [True, False])
def test_seed_decides_the_random_numbers_and_deterministic_the_kernels(deterministic):
    set_up_torch(3, deterministic)
    first = torch.rand(4)
    set_up_torch(3, deterministic)
    assert torch.equal(first, torch.rand(4))
    set_up_torch(4, deterministic)
    assert not torch.equal(first, torch.rand(4))
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.benchmark != deterministic
    assert os.environ.get("TORCHINDUCTOR_DETERMINISTIC") == ("1" if deterministic else None)


@pytest.mark.parametrize(
    ("device", "image_size", "images"),
    [("cpu", 32, 256), ("cpu", 64, 64), ("cpu", 128, 16), ("cpu", 1024, 1), ("cuda", 128, 256), ("cuda", 512, 16)],
)
def test_larger_images_have_smaller_batches(device, image_size, images):
    assert forward_batch_size(torch.device(device), image_size) == images
    assert forward_batch_size(torch.device(device), image_size, most=8) == min(images, 8)


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_precision_auto_is_bf16_on_a_cpu_that_computes_in_it(monkeypatch, avx512_bf16, amx, expected):
    # What other CPUs answer.
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    cpu = torch.device("cpu")
    names = [describe_precision(choose_precision(name, cpu), cpu) for name in ("auto", "fp32", "bf16")]
    assert names == [expected, "float32", "bfloat16"]
    with pytest.raises(PipelineError, match="got fp16, which is slow on the CPU; use auto, bf16 or fp32"):
        choose_precision("fp16", cpu)


def test_gpu_multiplies_float32_matrices_in_tf32():
    cuda = torch.device("cuda")
    assert choose_precision("fp16", cuda) == torch.float16
    assert describe_precision(torch.float16, cuda) == "float16, float32 matrix products in TF32"


def test_compiler_reads_the_variable_that_makes_it_deterministic():
    script = (
        "from pipeline.network.device import set_up_torch\n"
        "set_up_torch(1, True)\n"
        "from torch._inductor import config\n"
        "print(config.deterministic)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"


def test_facts_that_decide_the_bits_contain_the_precision():
    cpu = torch.device("cpu")
    assert facts_of(cpu, torch.float32) == {"device": "cpu", "precision": "torch.float32"}
    assert facts_of(cpu, torch.bfloat16) != facts_of(cpu, torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_facts_that_decide_the_bits_contain_the_gpu_and_cudnn():
    facts = facts_of(torch.device("cuda"), torch.float32)
    assert (facts["gpu"], facts["cudnn"]) == (torch.cuda.get_device_name(), torch.backends.cudnn.version())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to another user")
def test_compiled_programs_of_another_user_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check_compiler_cache()
    (folder,) = tmp_path.iterdir()
    os.chown(folder, 1234, 1234)
    with pytest.raises(
        PipelineError, match=rf"^train.compile: another user can write programs to torch's folder {folder}; "
    ):
        check_compiler_cache()
    os.chown(folder, 0, 0)
    folder.chmod(0o777)
    with pytest.raises(PipelineError, match="set the environment variable TORCHINDUCTOR_CACHE_DIR"):
        check_compiler_cache()
