"""Every benchmark runs with ``--quick``, so that a change of what it measures cannot break it unnoticed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text())
# They start a dozen processes each, of the stages or of DVC.
LONG = {
    "answers",
    "few_images",
    "fine_tune",
    "growth",
    "label_errors",
    "pseudo_labels",
    "ray_trials",
    "record",
    "record_gpu",
    "tsne",
    "workflow",
}
# It has a test of its own.
SCRIPTS = [name for name in SCRIPTS if name != "gpu_check"]


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in SCRIPTS]
)
def test_quick_mode_runs_the_whole_benchmark(script):
    if script == "ray_trials":
        pytest.importorskip("ray", reason="Ray is not installed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIPELINE_DEVICE": "cpu"}
    command = [sys.executable, f"benchmarks/{script}.py", "--quick"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stdout
