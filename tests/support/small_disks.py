"""Commands that run while a folder is on a small disk: a tmpfs in a mount namespace, which ends with the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'


def small_disk(folder: str | Path, size: str) -> list[str]:
    """What precedes a command so that ``folder`` is an empty disk of ``size``; skip the test if none can be mounted."""
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", size, str(folder)]
    try:
        mounted = subprocess.run([*namespace, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user can mount nothing")
    return namespace


def run_on_small_disk(folder: str | Path, size: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run ``python -m pipeline`` with ``folder`` on an empty disk of ``size``; skip the test if none can be mounted."""
    command = [*small_disk(folder, size), sys.executable, "-m", "pipeline", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)
