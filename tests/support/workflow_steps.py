"""Run the steps of GitHub workflows."""

import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[2] / ".github/workflows"


def workflow(name: str) -> dict:
    """Return the contents of a workflow file."""
    return YAML(typ="safe").load(FOLDER / f"{name}.yml")


def run_steps(name: str, job: str) -> dict[str, str]:
    """Return the scripts of a job by the names of their steps."""
    return {step["name"]: step["run"] for step in workflow(name)["jobs"][job]["steps"] if "run" in step}


def run_step(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in a folder as a runner does for ``shell: bash``, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
