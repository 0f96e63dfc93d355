"""Several processes that train one network, on the CPU with gloo."""

import copy
import json
import signal
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipeline.common.paths import METRICS, MODEL, PLOTS
from pipeline.errors import PipelineError
from pipeline.train.distributed import ProcessGroup, _sync_batch_norms, process_group
from tests.support.sections import MODEL as MODEL_PARAMS
from tests.support.sections import TRAIN
from tests.support.train_runs import forked_runs, outputs, read_until, start, write_params
from tests.support.trainers import build
from tests.train.test_fine_tuning import network

# Nothing in this run is random except the order of the images, which is the same in all processes.
PLAIN = {**TRAIN, "epochs": 4, "optimizer": "sgd", "lr": 0.05}


def run(processes: int, **changes) -> str:
    write_params(MODEL_PARAMS, **{**TRAIN, **changes})
    process = start(PIPELINE_PROCESSES=str(processes))
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output


@pytest.mark.usefixtures("dataset")
def test_two_processes_follow_the_loss_curve_of_one_and_are_reproducible():
    stateful = {**PLAIN, "hflip": 0.5, "mixup_alpha": 0.2, "precision": "bf16", "freeze_epochs": 1}
    # As many epochs as copies: the inputs of the last layer are computed once, by both processes.
    frozen = {**PLAIN, "freeze_epochs": 3, "layer_decay": 0.7, "norm_weight_decay": 0.1}
    together, first, second, alone, frozen_together, frozen_alone = forked_runs(
        {"train": PLAIN, "model": MODEL_PARAMS, "processes": 2},
        {"train": stateful, "model": MODEL_PARAMS, "processes": 2},
        {"train": stateful, "model": MODEL_PARAMS, "processes": 2},
        {"train": PLAIN, "model": MODEL_PARAMS},
        {"train": frozen, "model": MODEL_PARAMS, "processes": 2},
        {"train": frozen, "model": MODEL_PARAMS},
    )
    assert first["outputs"] == second["outputs"]
    assert together["exitcodes"] == first["exitcodes"] == [0, 0]
    assert "which are computed once" in frozen_together["log"]
    # Only one process prints.
    assert together["log"].count("epoch 4 of 4") == 1
    assert "on 2 × cpu" in together["log"]
    for several, one in ((together, alone), (frozen_together, frozen_alone)):
        steps, expected = (pd.DataFrame(report["steps"]) for report in (several, one))
        assert len(steps) == len(expected)
        for column in ("loss", "gradient_norm"):
            np.testing.assert_allclose(steps[column], expected[column], rtol=2e-3)
        np.testing.assert_array_equal(steps["accuracy"], expected["accuracy"])


@pytest.mark.usefixtures("dataset")
def test_pipeline_processes_starts_processes_whose_error_is_shown():
    write_params(MODEL_PARAMS, batch_size=9)
    process = start(PIPELINE_PROCESSES="2")
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "train.batch_size: got 9, allowed is a multiple of the 2 processes" in output


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_two_processes_of_torchrun_reach_the_accuracy_of_one():
    run(1, epochs=4, optimizer="sgd", lr=0.05)
    alone, weights = pd.read_csv(PLOTS / "steps.csv"), MODEL.read_bytes()
    output = run(2, epochs=4, optimizer="sgd", lr=0.05)
    assert "on 2 × cpu" in output
    assert output.count("epoch 4 of 4") == 1
    assert "Warning" not in output
    np.testing.assert_allclose(pd.read_csv(PLOTS / "steps.csv")["loss"], alone["loss"], rtol=2e-3)
    assert len(MODEL.read_bytes()) == len(weights)
    assert json.loads((METRICS / "train.json").read_text())["valid_accuracy"] > 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_two_processes_that_are_stopped_within_an_epoch_end_in_the_same_bits():
    write_params(MODEL_PARAMS, epochs=12, batch_size=2)
    process = start(PIPELINE_PROCESSES="2")
    read_until(process, "epoch 3 of")
    process.send_signal(signal.SIGINT)
    assert "the same command resumes from" in process.communicate(timeout=60)[0]
    assert "resumes from" in start(PIPELINE_PROCESSES="2").communicate(timeout=120)[0]
    resumed = outputs()
    assert "resumes from" not in start(PIPELINE_PROCESSES="2").communicate(timeout=120)[0]
    assert outputs() == resumed


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_norm_of_timm_keeps_its_activation_and_its_statistics(device, tmp_path):
    pytest.importorskip("timm")
    model, images = network("timm/tf_efficientnet_lite0", "cpu", 64), torch.randn(8, 3, 64, 64)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        synced = _sync_batch_norms(copy.deepcopy(model), torch.device(device))
        synced = _sync_batch_norms(synced, torch.device(device))  # for the next phase
        for mode in (False, True) if device == "cpu" else (False,):  # torch's own trains on GPUs only
            expected, found = (each.train(mode)(images) for each in (model, synced))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(synced.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-3)
    finally:
        dist.destroy_process_group()


def test_a_batch_norm_on_cpus_is_exact_for_channels_of_a_large_mean_or_no_variance(tmp_path):
    alone, images = nn.BatchNorm2d(2), torch.randn(8, 2, 16, 16) * torch.tensor([0.05, 0]).view(1, 2, 1, 1) + 100
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        synced = _sync_batch_norms(copy.deepcopy(alone), torch.device("cpu"))
        torch.testing.assert_close(synced(images), alone(images), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(synced.state_dict(), alone.state_dict())
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_process_that_dies_ends_the_run_with_a_message_and_without_a_hang():
    write_params(MODEL_PARAMS, **{**TRAIN, "epochs": 2000})
    process = start(PIPELINE_PROCESSES="2")
    read_until(process, "epoch 2")
    workers = [child for child in psutil.Process(process.pid).children() if "pipeline" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    died = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "Signal 9" in output or "SIGKILL" in output
    assert time.monotonic() - died < 45
    assert not any(worker.is_running() for worker in workers)
    assert not MODEL.exists()


def test_fewer_images_than_a_batch_that_the_processes_cannot_share_evenly_are_refused(tmp_path):
    line = r"train\.batch_size: got 8, allowed is a multiple of the 2 processes, up to the 5 training images"
    with pytest.raises(PipelineError, match=line):
        build(tmp_path, images=5, batch_size=8, group=ProcessGroup(0, 2))


def test_batch_that_cannot_be_divided_among_the_processes_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=r"train\.batch_size: got 9, allowed is a multiple of the 2 processes"):
        build(tmp_path, batch_size=9, group=ProcessGroup(0, 2))


def test_restarts_after_which_processes_can_wait_for_dead_ones_are_refused(monkeypatch):
    # What torchrun --max-restarts=1 sets.
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "::1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(PipelineError) as error, process_group(torch.device("cpu")):
        pass
    assert "got --max-restarts=1" in str(error.value)
    assert "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_restarts_are_refused_under_torchrun():
    write_params(MODEL_PARAMS)
    process = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "got --max-restarts=1" in output
