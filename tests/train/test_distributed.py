"""Several processes that train one network, on the CPU with gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import METRICS, MODEL, PLOTS
from tests.support.sections import MODEL as MODEL_PARAMS
from tests.support.sections import TRAIN

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("dataset")]


def start(processes: int, launcher: tuple[str, ...] = (), **changes) -> subprocess.Popen:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params |= {"seed": 1, "model": MODEL_PARAMS, "train": {**TRAIN, **changes}}
    Path("params.yaml").write_text(json.dumps(params))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PIPELINE_PROCESSES": str(processes),
        "PIPELINE_DEVICE": "cpu",
    }
    command = [sys.executable, *launcher, "-m", "pipeline", "train"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(processes: int, **changes) -> str:
    process = start(processes, **changes)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output


def test_two_processes_follow_the_loss_curve_of_one_with_the_same_global_batch():
    run(1, epochs=4, optimizer="sgd", lr=0.05)
    alone, weights = pd.read_csv(PLOTS / "steps.csv"), MODEL.read_bytes()
    output = run(2, epochs=4, optimizer="sgd", lr=0.05)
    together = pd.read_csv(PLOTS / "steps.csv")
    assert "on 2 × cpu" in output
    # One process writes, and says so once.
    assert output.count("epoch 4 of 4") == 1
    assert len(together) == len(alone)
    for column in ("loss", "gradient_norm"):
        np.testing.assert_allclose(together[column], alone[column], rtol=2e-3)
    np.testing.assert_array_equal(together["accuracy"], alone["accuracy"])
    assert len(MODEL.read_bytes()) == len(weights)
    assert json.loads((METRICS / "train.json").read_text())["valid_accuracy"] > 0.6


def test_two_runs_of_two_processes_give_the_same_bytes():
    results = []
    for _ in range(2):
        run(2, hflip=0.5, mixup_alpha=0.2)
        results.append(MODEL.read_bytes())
    assert results[0] == results[1]


def test_a_process_that_dies_ends_the_run_with_a_message_and_no_hang():
    process = start(2, epochs=2000)
    while "epoch 2" not in process.stdout.readline():
        pass
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


def test_a_batch_that_cannot_be_shared_is_refused():
    process = start(2, batch_size=9)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "train.batch_size: got 9, allowed is a multiple of the 2 processes" in output


def test_restarts_after_which_processes_could_wait_for_dead_ones_are_refused():
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    process = start(2, torchrun)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "got --max-restarts=1" in output
    assert "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in output
