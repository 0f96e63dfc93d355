"""A step on a GPU: it does not make the host wait, and a CUDA graph replays it to the same bits."""

import io

import pytest
import torch

from pipeline.network.device import set_up_torch
from pipeline.train.trainer import Trainer
from tests.support.sections import EVERYTHING
from tests.support.trainers import batches_of, build, fit

CUDA = torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_the_cpu_and_several_processes_have_no_graph(tmp_path):
    trainer = build(tmp_path)
    assert trainer.gradients == trainer.compute_gradients


def run(folder, graph=True, **changes) -> Trainer:
    set_up_torch(5, deterministic=True)
    trainer = build(folder, device=CUDA, **{**EVERYTHING, **changes})
    if not graph:
        trainer.gradients = trainer.compute_gradients
    fit(trainer)
    return trainer


def assert_same(left: Trainer, right: Trainer) -> None:
    torch.testing.assert_close(left.model.state_dict(), right.model.state_dict(), rtol=0, atol=0)
    assert torch.equal(left.history.step_rows(), right.history.step_rows())


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_replayed_steps_have_the_bits_of_eager_ones(tmp_path, precision, compiled):
    replayed, eager = (run(tmp_path, graph, precision=precision, compile=compiled) for graph in (True, False))
    assert replayed.gradients.replay is not None
    assert_same(replayed, eager)


@needs_gpu
def test_run_with_a_graph_resumes_to_the_same_bits(tmp_path):
    whole, saved = run(tmp_path), io.BytesIO()
    set_up_torch(5, deterministic=True)
    stopped = build(tmp_path, device=CUDA, **EVERYTHING)
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
    resumed = build(tmp_path, device=CUDA, **EVERYTHING)
    resumed.load_state_dict(torch.load(saved, weights_only=True, map_location="cpu"))
    fit(resumed)
    assert_same(resumed, whole)


@needs_gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_step_does_not_synchronise(tmp_path, graph):
    trainer = build(tmp_path, device=CUDA, **EVERYTHING)
    if not graph:
        trainer.gradients = trainer.compute_gradients
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
