"""The trials of a sweep on a Ray cluster of this machine, compared with one after the other.

    OMP_NUM_THREADS=1 python benchmarks/ray_trials.py run --trials 8 --epochs 20

The digits, in two temporary clones of the last commit in which the dataset exists already: a grid over the learning
rate, without a pruner, once as ``python -m pipeline sweep`` and once with ``--ray local``, which starts a cluster with
as many CPUs as this machine has. Both must have the same trials, values and hashes, or the benchmark fails.

*seconds* is the whole command, with the start and the end of Ray. *trial* is the median of the seconds that the sweep
notes for a trial: ``dvc exp run``, and copying the experiment. *overhead* is what a trial costs beyond its stages on an
idle machine: the whole time without Ray's start, times the workers, divided by the trials, minus *trial* of the first
sweep. Ray gives its workers a niceness of 15: other processes on the machine slow them down more than the first sweep.

Measured: 2 CPU cores, one run, load 1.8: 215.5 s one after the other, 119.4 s with Ray; a trial 26.1 and 26.9 s; Ray
starts in 5.5 s; overhead 2.4 s per trial.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import typer
from inputs import ROOT, set_parameters, with_quick_mode

app = typer.Typer(add_completion=False)
with_quick_mode(app, lambda: run(2, 1))


def clone(folder: Path, epochs: int, trials: int) -> Path:
    """Clone the repository, with a sweep and a dataset."""
    command(ROOT, "git", "clone", "--quiet", str(ROOT), str(folder))
    for key in ("name", "email"):
        command(folder, "git", "config", f"user.{key}", "benchmark")
    set_parameters(folder, {"model.width": 8, "train.epochs": epochs, "train.warmup_epochs": 0.0})
    rates = ", ".join(f"{0.0005 * (number + 1):.4f}" for number in range(max(trials, 2)))
    (folder / "sweeps/ray.yaml").write_text(f"sampler: grid\npruner: none\nspace:\n  train.lr: [{rates}]\n")
    command(folder, "dvc", "repro", "--quiet", "augment", "pretrained")
    command(folder, "git", "add", "--all")
    command(folder, "git", "commit", "--quiet", "--message", "benchmark")
    return folder


def command(folder: Path, *words: str) -> str:
    """Run a command and return its output."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def sweep(folder: Path, trials: int, *options: str) -> tuple[float, pd.DataFrame]:
    """Run the sweep; return the seconds and the table of its trials."""
    start = time.perf_counter()
    command(folder, sys.executable, "-m", "pipeline", "sweep", "sweeps/ray.yaml", "--trials", str(trials), *options)
    return time.perf_counter() - start, pd.read_csv(next(folder.glob(".sweeps/*/trials.csv")))


def hashes(folder: Path) -> list[str]:
    """What ``dvc.lock`` says about the outputs of each experiment."""
    references = command(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
    return [command(folder, "git", "show", f"{reference}:dvc.lock") for reference in sorted(references)]


@app.command("run")
def run(trials: int = 8, epochs: int = 20) -> None:
    """Run both sweeps and print the times."""
    with tempfile.TemporaryDirectory() as name:
        first = clone(Path(name) / "local", epochs, trials)
        second = Path(shutil.copytree(first, Path(name) / "ray", symlinks=True))
        start = time.perf_counter()
        command(
            ROOT,
            sys.executable,
            "-c",
            "import ray; ray.init('local', include_dashboard=False); ray.get(ray.remote(lambda: 0).remote())",
        )
        start_of_ray, workers = time.perf_counter() - start, os.cpu_count() or 1
        rows = {"one after the other": sweep(first, trials), "--ray local": sweep(second, trials, "--ray", "local")}
        tables = [table.drop(columns="seconds") for _, table in rows.values()]
        pd.testing.assert_frame_equal(*tables)
        assert hashes(first) == hashes(second)
    print(f"{trials} trials of {epochs} epochs, {workers} workers, load {os.getloadavg()[0]:.1f}; the same results")
    for label, (seconds, table) in rows.items():
        print(f"  {label:20} {seconds:7.1f} s, trial {statistics.median(table['seconds']):5.1f} s")
    trial = statistics.median(rows["one after the other"][1]["seconds"])
    overhead = (rows["--ray local"][0] - start_of_ray) * min(workers, trials) / trials - trial
    print(f"  Ray starts in {start_of_ray:.1f} s; overhead {overhead:.1f} s per trial")


if __name__ == "__main__":
    app()
