"""A Ray cluster on this machine: processes of ``ray start``, each a machine of the cluster."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SECONDS = 180


class RayNodes:
    """The first node sees all files; the second one does not see ``hidden``, as another machine would not.

    Attributes:
        shared: a folder for checkpoints, which both see.
        cache: that of the second node, for its replicas.
    """

    def __init__(self, hidden: Path) -> None:
        # Short: the names of Ray's sockets have at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.hidden, self.shared, self.cache = hidden, self.folder / "shared", self.folder / "cache"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self.nodes = [
            self._start("--head", f"--port={port}", f"--temp-dir={self.folder / 'ray'}", "--include-dashboard=0")
        ]
        self._wait_for(1)
        self.add_node()

    def add_node(self) -> None:
        """Start the second node."""
        hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{self.hidden}" && exec "$@"', "sh")
        self.nodes.append(self._start(f"--address={self.address}", hide=hide, PIPELINE_CACHE=str(self.cache)))
        self._wait_for(2)

    def _start(self, *options: str, hide: tuple[str, ...] = (), **variables: str) -> subprocess.Popen:
        command = [*hide, sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--num-cpus=1", "--block"]
        common = ["--node-ip-address=127.0.0.1", "--object-store-memory=200000000", "--disable-usage-stats"]
        return subprocess.Popen(
            [*command, *common],
            env={**self.environment(), "PIPELINE_CHECKPOINTS": str(self.shared), **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """That of nodes and drivers."""
        return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}

    def _wait_for(self, nodes: int) -> None:
        program = f"import ray; ray.init('{self.address}', log_to_driver=False); print(ray.cluster_resources()['CPU'])"
        deadline = time.monotonic() + SECONDS
        found = ""
        while time.monotonic() < deadline and found != f"{nodes}.0":
            result = subprocess.run(
                [sys.executable, "-c", program], env=self.environment(), capture_output=True, text=True, timeout=SECONDS
            )
            found = result.stdout.strip()
        assert found == f"{nodes}.0", result.stderr

    def empty(self) -> None:
        """Remove all checkpoints and replicas: replicas keep experiments, which are not run again."""
        assert not self.processes()
        for folder in (self.shared, self.cache):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()

    def processes(self) -> list[str]:
        """What works in a replica, or runs an experiment."""
        replicas = [process.pid for process in psutil.process_iter() if _works_in(process.pid, self.cache)]
        return [str(process) for process in [*replicas, *self.workers()]]

    def workers(self) -> list[psutil.Process]:
        """The processes that run an experiment."""
        children = [psutil.Process(node.pid).children(recursive=True) for node in self.nodes if node.poll() is None]
        return [process for found in children for process in found if "ray::experiment" in _command(process)]

    def kill_second_node(self) -> None:
        """All its processes at once, as if the machine lost its power."""
        self._kill(self.nodes.pop())

    def _kill(self, node: subprocess.Popen) -> None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with suppress(psutil.Error):
                process.kill()
        node.wait()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            self._kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)


def _command(process: psutil.Process) -> str:
    """Empty for a process that has ended in the meantime."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _works_in(process: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{process}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False
