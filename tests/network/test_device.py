"""The device, and how reproducibly it computes."""

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.network.device import choose_device, describe_device, forward_batch_size, set_up_torch


@pytest.fixture
def settings(monkeypatch):
    """Whatever a test sets in torch is set back."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    benchmark, tf32 = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = benchmark, tf32


def test_the_environment_chooses_the_device(monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    assert choose_device() == torch.device("cpu")
    assert describe_device(choose_device()) == f"cpu ({torch.get_num_threads()} threads)"


def test_without_a_choice_it_is_the_best_there_is(monkeypatch):
    monkeypatch.delenv("PIPELINE_DEVICE", raising=False)
    best = torch.accelerator.current_accelerator(check_available=True)
    assert choose_device().type == (best.type if best else "cpu")


# meta holds no numbers: a run on it would learn nothing.
@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x", "xpu:7", "meta"])
def test_a_device_that_this_machine_lacks_is_one_line(monkeypatch, name):
    monkeypatch.setenv("PIPELINE_DEVICE", name)
    with pytest.raises(PipelineError) as error:
        choose_device()
    assert str(error.value).startswith(f"PIPELINE_DEVICE: got {name!r}, allowed is a device of this machine")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_seed_gives_the_same_numbers_and_deterministic_chooses_the_kernels(deterministic):
    set_up_torch(3, deterministic)
    first = torch.rand(4)
    set_up_torch(3, deterministic)
    assert torch.equal(first, torch.rand(4))
    set_up_torch(4, deterministic)
    assert not torch.equal(first, torch.rand(4))
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.benchmark != deterministic


@pytest.mark.parametrize(
    ("device", "image_size", "images"),
    [("cpu", 32, 256), ("cpu", 64, 64), ("cpu", 128, 16), ("cpu", 1024, 1), ("cuda", 128, 256), ("cuda", 512, 16)],
)
def test_larger_images_come_in_smaller_batches(device, image_size, images):
    assert forward_batch_size(torch.device(device), image_size) == images
    assert forward_batch_size(torch.device(device), image_size, most=8) == min(images, 8)
