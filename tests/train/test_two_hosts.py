"""Two hosts that train one network: network namespaces with a link between them, each with its own disk."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from pipeline.common.paths import MODEL, PLOTS
from tests.support.sections import MODEL as MODEL_PARAMS
from tests.support.sections import TRAIN
from tests.support.train_runs import COMMAND, environment, read_until, write_params

# With the process id, so that the test can run twice at the same time on this machine.
ADDRESSES = {f"pipeline-{host}-{os.getpid()}": f"10.77.0.{number}" for number, host in enumerate("ab", start=1)}
FIRST, SECOND = ADDRESSES.values()
EPOCHS = 12


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True)


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
            # A run that hangs must not outlive the test.
            for process in ip("netns", "pids", host, check=False).stdout.split():
                os.kill(int(process), signal.SIGKILL)
            ip("netns", "del", host, check=False)


def namespaces_work() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        with two_hosts():
            return True
    except subprocess.CalledProcessError:
        return False


needs_namespaces = pytest.mark.skipif(
    not namespaces_work(), reason="needs root, iproute2 and a kernel that lets it make namespaces"
)


def static_rendezvous(rank: int) -> list[str]:
    return [f"--node-rank={rank}", f"--master-addr={FIRST}", "--master-port=29511"]


def c10d_rendezvous(rank: int) -> list[str]:
    # By default torchrun finds the host of the store by its name, which both namespaces have in common.
    own = [f"--local-addr={(FIRST, SECOND)[rank]}", f"--rdzv-conf=is_host={1 - rank}"]
    endpoint = f"--rdzv-endpoint={FIRST}:29512"
    return ["--rdzv-backend=c10d", endpoint, "--rdzv-id=digits", "--max-restarts=1", *own]


@pytest.fixture
def alone(dataset):
    """The steps of a run in one process, of which the model is removed; only the order of the images is random."""
    write_params(MODEL_PARAMS, **{**TRAIN, "epochs": EPOCHS, "optimizer": "sgd", "lr": 0.01})
    subprocess.run(COMMAND, env=environment(), check=True, capture_output=True)
    MODEL.unlink()
    return pd.read_csv(PLOTS / "steps.csv")


def start_host(rank: int, folder: Path, rendezvous: list[str]) -> subprocess.Popen:
    """Train as host ``rank``, with ``folder`` as its disk."""
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
    return subprocess.Popen(
        ["ip", "netns", "exec", list(ADDRESSES)[rank], sys.executable, *torchrun, "-m", "pipeline", "train"],
        cwd=folder,
        env=environment(GLOO_SOCKET_IFNAME=f"veth-{'ab'[rank]}", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_together(processes: list[subprocess.Popen], outputs: list[str], alone: pd.DataFrame, disk: Path) -> None:
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    together = pd.read_csv(PLOTS / "steps.csv")
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=2e-3)
    # Only the process of the first host writes.
    assert MODEL.exists()
    assert not (disk / MODEL).exists()
    assert f"epoch {EPOCHS} of {EPOCHS}" in outputs[0]
    assert f"epoch {EPOCHS} of {EPOCHS}" not in outputs[1]


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("rendezvous", [static_rendezvous, c10d_rendezvous])
def test_two_hosts_follow_the_loss_curve_of_one(alone, tmp_path_factory, rendezvous):
    other_disk = tmp_path_factory.mktemp("other-host")
    shutil.copytree(".", other_disk, dirs_exist_ok=True)
    with two_hosts():
        processes = [start_host(rank, folder, rendezvous(rank)) for rank, folder in enumerate((Path.cwd(), other_disk))]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    check_together(processes, outputs, alone, other_disk)


@pytest.mark.slow
@needs_namespaces
def test_process_killed_on_one_host_restarts_both_from_the_checkpoint(alone, tmp_path_factory):
    other_disk = tmp_path_factory.mktemp("other-host")
    shutil.copytree(".", other_disk, dirs_exist_ok=True)
    with two_hosts():
        processes = [
            start_host(rank, folder, c10d_rendezvous(rank)) for rank, folder in enumerate((Path.cwd(), other_disk))
        ]
        # The checkpoint of an epoch is written after its line.
        before = read_until(processes[0], f"epoch 2 of {EPOCHS}")
        # ip has replaced itself by torchrun, of which the training process is the only child.
        [worker] = psutil.Process(processes[1].pid).children()
        worker.kill()
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert "train: resumes from" in outputs[0]
    check_together(processes, [before + outputs[0], outputs[1]], alone, other_disk)
