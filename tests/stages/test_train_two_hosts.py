"""Two hosts that train one network: network namespaces with a cable between them, and a disk each."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.paths import MODEL, PLOTS
from tests.stages.conftest import MODEL as MODEL_PARAMS
from tests.stages.conftest import TRAIN

ROOT = Path(__file__).parents[2]
ADDRESSES = {"pipeline-a": "10.77.0.1", "pipeline-b": "10.77.0.2"}


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@contextmanager
def two_hosts():
    first, second = ADDRESSES
    try:
        for host in ADDRESSES:
            ip("netns", "add", host)
        ip("link", "add", "veth-a", "netns", first, "type", "veth", "peer", "name", "veth-b", "netns", second)
        for (host, address), link in zip(ADDRESSES.items(), ("veth-a", "veth-b"), strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", host, "link", "set", link, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in ADDRESSES:
            ip("netns", "del", host, check=False)


def namespaces_work() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        with two_hosts():
            return True
    except subprocess.CalledProcessError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not namespaces_work(), reason="needs root, iproute2 and a kernel that lets it make namespaces")
def test_two_hosts_follow_the_loss_curve_of_one(dataset, tmp_path_factory):
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params |= {"seed": 1, "model": MODEL_PARAMS, "train": {**TRAIN, "optimizer": "sgd", "lr": 0.05}}
    Path("params.yaml").write_text(json.dumps(params))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PIPELINE_DEVICE": "cpu"}
    subprocess.run([sys.executable, "-m", "pipeline", "train"], env=environment, check=True, capture_output=True)
    alone = pd.read_csv(PLOTS / "steps.csv")
    MODEL.unlink()
    other_disk = tmp_path_factory.mktemp("other-host")
    shutil.copytree(".", other_disk, dirs_exist_ok=True)
    with two_hosts():
        processes = []
        for rank, (host, folder) in enumerate(zip(ADDRESSES, (Path.cwd(), other_disk), strict=True)):
            torchrun = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
            rendezvous = [f"--master-addr={ADDRESSES['pipeline-a']}", "--master-port=29511"]
            command = [sys.executable, *torchrun, *rendezvous, "-m", "pipeline", "train"]
            interface = {"GLOO_SOCKET_IFNAME": "veth-a" if rank == 0 else "veth-b"}
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, *command],
                    cwd=folder,
                    env=environment | interface,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    together = pd.read_csv(PLOTS / "steps.csv")
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=2e-3)
    # The first host's process writes, and no other.
    assert MODEL.exists()
    assert not (other_disk / MODEL).exists()
    assert "epoch 3 of 3" in outputs[0]
    assert "epoch 3 of 3" not in outputs[1]
