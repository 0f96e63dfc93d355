"""A small DVC repository with a stage train that writes curves and checkpoints as the real one does, in no time."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.small_repository import StagesRepository

# Accuracy rises to 1 − |log10(lr) + 2| / 4. An epoch takes a moment, or half a minute with a weight decay of 1.
TRAIN = """
import json, math, os, signal, sys, time
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))["train"]
best = 1 - abs(math.log10(float(params["lr"])) + 2) / 4
checkpoint = Path(os.environ.get("PIPELINE_CHECKPOINTS", ".checkpoints"), f"{params['lr']}.json")
values = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
if values:
    print(f"train: resumes from {checkpoint}, epoch {len(values) + 1}", flush=True)
if best < 0.3:
    raise SystemExit("error: train: the loss is nan in step 1 of epoch 1")
curve = Path("results/live/plots/metrics/valid/accuracy.tsv")
curve.parent.mkdir(parents=True)


def stop(*_):
    print("train: stopped", flush=True)
    sys.exit(130)


signal.signal(signal.SIGINT, stop)
with curve.open("w") as file:
    file.write("step\\taccuracy\\n" + "".join(f"{step}\\t{value}\\n" for step, value in enumerate(values)))
    file.flush()
    for step in range(len(values), params["epochs"]):
        time.sleep(30 if params["weight_decay"] == 1 and step else 0.05)
        values.append(best * (1 - 0.5 ** (step + 1)))
        file.write(f"{step}\\t{values[-1]}\\n")
        file.flush()
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        # Complete before the line: a test that reads it stops this at once.
        checkpoint.with_suffix(".part").write_text(json.dumps(values))
        checkpoint.with_suffix(".part").replace(checkpoint)
        print(f"train: epoch {step + 1} of {params['epochs']}", flush=True)
Path("results/metrics").mkdir(parents=True, exist_ok=True)
Path("results/metrics/train.json").write_text(json.dumps({"valid_accuracy": values[-1]}))
checkpoint.unlink()
"""
WORKFLOW = """
stages:
  download: {cmd: echo, deps: [pipeline/common, pipeline/download]}
  augment: {cmd: echo, deps: [pipeline/common, pipeline/augment]}
  pretrained: {cmd: echo, deps: [pipeline/common, pipeline/pretrained]}
  train:
    cmd: python pipeline/train/stage.py
    deps: [pipeline/common, pipeline/train]
    params: [seed, train]
    outs: [results/live]
    metrics:
      - results/metrics/train.json: {cache: false}
  evaluate:
    cmd: echo evaluate && cp results/metrics/train.json results/metrics/evaluate.json
    deps: [pipeline/common, pipeline/evaluate, results/live]
    metrics:
      - results/metrics/evaluate.json: {cache: false}
"""
# The seed tries the better value first.
GRID = """
sampler: grid
seed: 1
pruner: {name: median, startup_trials: 1}
space:
  train.lr: [0.01, 0.0001]
"""


class SweepRepository(StagesRepository):
    """The repository, with the file of a sweep."""

    def write_files(self) -> None:
        super().write_files()
        self.write("pipeline/train/stage.py", TRAIN)
        self.write("dvc.yaml", WORKFLOW)
        self.write("sweeps/lr.yaml", GRID)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", "sweep", "sweeps/lr.yaml", "-S", "train.epochs=4", *arguments]

    def sweep(self, *arguments: str, code: int = 0) -> str:
        """Run a sweep to its end; return its output."""
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a sweep in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> list[str]:
        """The commands of all processes that work in the repository or in a sandbox of it."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink().is_relative_to(self.folder) and int(process.name) != os.getpid():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found
