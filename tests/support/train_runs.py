"""Runs of the stage ``train`` in other processes, and what they wrote.

As a module (``python -m tests.support.train_runs RUNS``) it is a process that imports torch once and then forks for
each run, so that a run, and a kill, costs no import.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from pipeline.common.paths import DETAILS, LIVE, METRICS, MODEL, PLOTS
from tests.support.sections import EVERYTHING, TRAIN
from tests.support.sections import MODEL as MODEL_PARAMS

ROOT = Path(__file__).parents[2]
STATEFUL = {**TRAIN, **EVERYTHING, "epochs": 25}
DROPOUT = {**MODEL_PARAMS, "dropout": 0.2}
COMMAND = [sys.executable, "-m", "pipeline", "train"]
FORK = multiprocessing.get_context("fork")
LOG = Path("train.log")


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PIPELINE_DEVICE": "cpu", **values}


def write_params(model: dict = DROPOUT, **train) -> None:
    """Write ``params.yaml``: the repository's, with these sections."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params |= {"seed": 1, "model": model, "train": {**STATEFUL, **train}}
    Path("params.yaml").write_text(json.dumps(params))


def start(*launcher: str, **variables: str) -> subprocess.Popen:
    """Start ``python -m pipeline train``; ``launcher`` are arguments of Python before those."""
    command = [COMMAND[0], *launcher, *COMMAND[1:]]
    return subprocess.Popen(
        command, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def read_until(process: subprocess.Popen, text: str) -> str:
    """Read the output of a process up to the line that contains a text."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"ended before {text!r}: {''.join(lines)}")


def outputs() -> dict[str, str]:
    """The hash of each file that the stage writes."""
    files = [MODEL, METRICS / "train.json", DETAILS / "train.json", PLOTS / "steps.csv", *LIVE.rglob("*.tsv")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def forked_runs(*runs: dict, **variables: str) -> list[dict]:
    """Train in the current folder once for each of ``runs``, each in a folder ``results/`` that is empty at first.

    Args:
        runs: arguments of ``_run``.

    Returns:
        For each run: ``exitcodes`` of the last processes, ``killed``, the number of kills, ``outputs``, ``steps``
        and ``log``.
    """
    command = [sys.executable, "-m", "tests.support.train_runs", json.dumps(runs)]
    result = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def _run(train: dict, model: dict = DROPOUT, processes: int = 1, kills: int = 0, seed: int = 0) -> dict:
    """Train with a group of processes, and kill and restart a single one at random moments, ``kills`` times."""
    shutil.rmtree("results", ignore_errors=True)
    LOG.unlink(missing_ok=True)
    moments, killed = random.Random(seed), 0
    while True:
        group = _start_group(model, train, processes)
        if killed == kills:
            break
        # Some die while they start, the others some steps after they have resumed.
        if moments.random() < 0.7:
            _wait_for_checkpoint(group[0])
            group[0].join(moments.uniform(0, 0.05))
        else:
            group[0].join(moments.uniform(0, 0.3))
        if group[0].exitcode is not None:
            break
        group[0].kill()
        group[0].join()
        killed += 1
    for process in group:
        process.join()
    exitcodes = [process.exitcode for process in group]
    steps = pd.read_csv(PLOTS / "steps.csv").to_dict("list")
    return {"exitcodes": exitcodes, "killed": killed, "outputs": outputs(), "steps": steps, "log": LOG.read_text()}


def _wait_for_checkpoint(process: multiprocessing.process.BaseProcess) -> None:
    """Until a process has written a new one."""

    def times() -> list[int]:
        with suppress(FileNotFoundError):
            return [path.stat().st_mtime_ns for path in Path(".checkpoints").glob("[!.]*.pt")]
        return []

    before = times()
    while times() == before and process.exitcode is None:
        time.sleep(0.001)


def _start_group(model: dict, params: dict, processes: int) -> list:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    group = []
    for rank in range(processes):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        variables = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}}
        group.append(FORK.Process(target=_train, args=(model, params, variables)))
        group[-1].start()
    return group


def _train(model: dict, params: dict, variables: dict[str, str]) -> None:
    from pipeline.params.schema import ModelParams, TrainParams
    from pipeline.train.stage import train

    os.environ.update(variables)
    with LOG.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        train(ModelParams(**model), TrainParams(**params), seed=1)


if __name__ == "__main__":
    # What the first run would import.
    import dvclive.live  # noqa: F401
    import torch._inductor  # noqa: F401

    import pipeline.train.stage  # noqa: F401

    print(json.dumps([_run(**arguments) for arguments in json.loads(sys.argv[1])]))
