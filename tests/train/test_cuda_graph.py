"""A step on a GPU: it does not make the host wait, and a CUDA graph replays it to the same bits."""

import io
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.network.batches import Batches
from pipeline.network.device import set_up_torch
from pipeline.network.models import Classifier
from pipeline.train.cuda_graph import CudaGraph
from pipeline.train.distributed import ProcessGroup
from pipeline.train.trainer import Trainer
from tests.support import sections
from tests.support.tiny_datasets import MEAN, STD, train_params, write_split
from tests.support.trainers import batches_of, build, fit

ROOT = Path(__file__).parents[2]
CUDA = torch.device("cuda", 0)
EVERYTHING = sections.EVERYTHING | {"trivial_augment": True}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class CopiesBetweenDevices(TorchDispatchMode):
    """Records each copy between the host and the device, for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._sample_dirichlet.default:  # torch cannot compute its shape
            return torch.empty_like(args[0])
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if copies and len({tensor.device.type for tensor in tensors}) > 1:
            self.copies.append(str(func))
        return output


def step_on_a_gpu_without_data(folder: Path) -> None:
    """Take a step with tensors that have a shape and a device but no data: reading a value of one is an error."""
    torch.Tensor.backward = lambda loss: None  # needs a driver
    params, split = train_params(**EVERYTHING, precision="bf16"), write_split(folder, 24)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with CUDA:
            model = Classifier(width=2, dropout=0.1, image_size=32, outputs=3)
        batches = Batches(split, MEAN, STD, CUDA, resident=True)
        trainer = Trainer(model, batches, batches, 3, params, 5, ProcessGroup())
        assert isinstance(trainer.gradients, CudaGraph)
        images = torch.empty(8, 32, 32, 3, dtype=torch.uint8, device=CUDA)
        with CopiesBetweenDevices() as watch:
            measures = trainer.compute_gradients(images, torch.zeros(8, dtype=torch.int64, device=CUDA))
            trainer.ema.update()
    assert measures.device == CUDA
    assert watch.copies == []


def test_a_step_reads_nothing_from_the_device_and_copies_nothing_to_it(tmp_path):
    # In a process that frees none of these tensors: without a driver, torch can abort when it does.
    code = (
        "import gc, os, sys, pathlib; gc.disable(); from tests.train.test_cuda_graph import *; "
        "step_on_a_gpu_without_data(pathlib.Path(sys.argv[1])); print('done', flush=True); os._exit(0)"
    )
    # Also on a machine with a GPU, where the tests below take real steps.
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (child.returncode, child.stdout) == (0, "done\n"), child.stderr


def test_the_cpu_and_several_processes_have_no_graph(tmp_path):
    trainer = build(tmp_path)
    assert trainer.gradients == trainer.compute_gradients


def run(folder, graph=True, **changes) -> Trainer:
    set_up_torch(5, deterministic=True)
    with without_graphs(not graph):
        trainer = build(folder, device=CUDA, **{**EVERYTHING, **changes})
        fit(trainer)
    return trainer


@contextmanager
def without_graphs(really: bool = True):
    """Launch the kernels one by one, those of Muon as well."""
    with pytest.MonkeyPatch.context() as patch:
        if really:
            patch.setattr(CudaGraph, "_record", lambda graph, *inputs: None)
        yield


def assert_same(left: Trainer, right: Trainer) -> None:
    torch.testing.assert_close(left.model.state_dict(), right.model.state_dict(), rtol=0, atol=0)
    assert torch.equal(left.history.step_rows(), right.history.step_rows())


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_replayed_steps_have_the_bits_of_eager_ones(tmp_path, precision, compiled):
    replayed, eager = (run(tmp_path, graph, precision=precision, compile=compiled) for graph in (True, False))
    assert replayed.gradients.replay is not None
    assert eager.gradients.replay is None
    assert_same(replayed, eager)


@needs_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_replayed_steps_of_muon_have_the_bits_of_eager_ones(tmp_path, precision):
    settings = {"optimizer": "muon", "lr": 0.002, "precision": precision}
    replayed, eager = (run(tmp_path, graph, **settings) for graph in (True, False))
    assert replayed.optimizers[0].graph.replay is not None
    assert eager.optimizers[0].graph.replay is None
    assert_same(replayed, eager)


@needs_gpu
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_run_with_a_graph_resumes_to_the_same_bits(tmp_path, optimizer):
    settings = EVERYTHING | {"optimizer": optimizer}
    whole, saved = run(tmp_path, **settings), io.BytesIO()
    set_up_torch(5, deterministic=True)
    stopped = build(tmp_path, device=CUDA, **settings)
    for images, labels in batches_of(stopped):
        stopped.log[stopped.step] = stopped.train_step(images, labels)
        stopped.rates[stopped.step] = stopped.schedules[0].get_last_lr()[0]
        for schedule in stopped.schedules:
            schedule.step()
        stopped.step += 1
        if stopped.step == 2:
            break
    torch.save(stopped.state_dict(), saved)
    saved.seek(0)
    resumed = build(tmp_path, device=CUDA, **settings)
    resumed.load_state_dict(torch.load(saved, weights_only=True, map_location="cpu"))
    fit(resumed)
    assert_same(resumed, whole)


@needs_gpu
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_step_does_not_synchronise(tmp_path, graph, optimizer):
    with without_graphs(not graph):
        trainer = build(tmp_path, device=CUDA, **EVERYTHING | {"optimizer": optimizer})
        batches = list(batches_of(trainer))
        trainer.train_step(*batches[0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches[1:]:
                trainer.train_step(*batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_step_that_cannot_be_recorded_runs_without_a_graph_to_the_same_bits(tmp_path, capsys):
    eager = run(tmp_path, graph=False)
    set_up_torch(5, deterministic=True)
    trainer = build(tmp_path, device=CUDA, **EVERYTHING)

    def read_a_value(model, inputs, outputs):  # which is not allowed in a recording
        outputs.sum().item()

    trainer.model.register_forward_hook(read_a_value)
    fit(trainer)
    assert trainer.gradients.replay is None
    assert "since no CUDA graph can be used" in capsys.readouterr().out
    assert_same(trainer, eager)
    torch.cuda.empty_cache()
