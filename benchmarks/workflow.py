"""The cost of DVC itself: nothing to do, an experiment without its stages' own time, links instead of copies.

    OMP_NUM_THREADS=1 python benchmarks/workflow.py digits
    OMP_NUM_THREADS=1 python benchmarks/workflow.py food --images 16643

*digits*: the default run of this repository, in a temporary clone of its last commit. *food*: a dataset of Food-11's
size, noise photos of some 70 KB, 9,866 for training, 3,430 for validation, 3,347 for testing, packed at 128 pixels; the
network is small enough to train one epoch on any machine. For comparison, in the same run, the naive layout: the same
photos as one DVC output, a folder of small files, on which a stage depends.

*nothing to do*: ``dvc repro``. *checkout*: ``dvc checkout`` after the output was removed. *experiment*, *--temp*: ``dvc
exp run -S train.lr=...`` in the workspace and in a temporary one, minus the time of the stages' commands. Medians over
the rounds; the CPU seconds, too, are DVC's own, and more reliable than wall time on a busy machine. *disk* is the
largest size of the temporary workspace without its links into the cache.

Measured (2 CPU cores without other load, DVC 3.67.1, ext4, hard links; medians of three rounds in seconds):

    digits: nothing to do 1.3, checkout 1.0, an experiment 6.7, --temp 9.5 with 9.7 MB on disk; the dataset has 34 MB.

    16,643 images, the naive layout in brackets: nothing to do 1.1 (1.9), checkout 1.2 (2.5), an experiment 4.1 (10.2),
    --temp 7.2 (12.2) with 9.5 MB on disk; the dataset has 819 MB.

These are from before the stage ``source``, which lists the folder each time. Its cost, ``dvc repro download`` with
nothing to do and 16,643 photos of 609 MB, medians of five rounds before and with it on an idle machine with 2 cores:
0.80 and 1.37 s. The stage takes 0.5 s of that (0.15 ``stat`` of all files, 0.15 reading ``params.yaml``); the rest is
DVC, which reads and writes ``dvc.lock`` after a stage.
"""

import os
import resource
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import typer
from inputs import CLASSES, ROOT, set_parameters, with_quick_mode

# Of Food-11's 16,643 images.
SHARES = {"train": 9866, "valid": 3430, "test": 3347}
PHOTO_SIZE, QUALITY = 256, 92
SMALL = {"model.width": 2, "model.dropout": 0.0, "train.epochs": 1, "train.warmup_epochs": 0.0, "train.ema_decay": 0.0}
# Logs the start and the end of a stage's command, and its CPU time: of the shell, and of its children.
SHIM = """#!/bin/sh
begin=$(date +%s.%N)
"{python}" "$@"
code=$?
{{ echo "$begin $(date +%s.%N)"; times; }} >> "{log}"
exit $code
"""
NAIVE = """
stages:
  photos:
    cmd: python copy_photos.py
    outs: [photos]
  train:
    cmd: python train.py
    deps: [photos]
    params: [lr]
    outs: [model]
"""

app = typer.Typer(add_completion=False)
with_quick_mode(app, lambda: food(60, 1))


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of a command without its stages, and the wall seconds of the stages."""

    wall: float
    cpu: float
    stages: float


class Repository:
    """A repository of git and DVC, with a ``python`` that logs the time of each stage."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self._log = folder, tools / "log"
        (tools / "python").write_text(SHIM.format(python=sys.executable, log=self._log))
        (tools / "python").chmod(0o755)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path}
        self._environment.pop("PYTHONPATH", None)

    def run(self, *command: str) -> Cost:
        self._log.write_text("")
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        lines, stages = self._log.read_text().splitlines(), 0.0
        for moments, _, children in zip(*[iter(lines)] * 3, strict=True):
            start, end = moments.split()
            stages += float(end) - float(start)
            cpu -= sum(_seconds(text) for text in children.split())
        return Cost(wall - stages, cpu, stages)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "benchmark")


def _seconds(text: str) -> float:
    """Parse the shell's format, such as 1m2.34s."""
    minutes, seconds = text.removesuffix("s").split("m")
    return 60 * float(minutes) + float(seconds)


def new_repository(folder: Path, tools: Path) -> Repository:
    """Clone this repository's last commit, with an empty cache."""
    for path in (folder.parent, tools):
        path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    for key, value in {"name": "benchmark", "email": "benchmark@localhost"}.items():
        subprocess.run(["git", "config", f"user.{key}", value], cwd=folder, check=True)
    return Repository(folder, tools)


def write_photos(folder: Path, images: int) -> None:
    """Write JPEG files of noise over smooth colours, all different, in the layout of Food-11."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    noise = random.normal(0, 18, (PHOTO_SIZE * 2, PHOTO_SIZE * 2, 3)).astype(np.float32)
    for split, share in SHARES.items():
        (folder / split).mkdir(parents=True)
        for number in range(round(images * share / sum(SHARES.values()))):
            colours = random.uniform(30, 220, (6, 6, 3)).astype(np.float32)
            top, left = random.integers(0, PHOTO_SIZE, 2)
            photo = cv2.resize(colours, (PHOTO_SIZE, PHOTO_SIZE), interpolation=cv2.INTER_CUBIC)
            photo += noise[top : top + PHOTO_SIZE, left : left + PHOTO_SIZE]
            content = cv2.imencode(".jpg", photo.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            label = f"{number % CLASSES}_" if split != "test" else ""
            (folder / split / f"{label}{number:05}.jpg").write_bytes(content.tobytes())


def naive_repository(folder: Path, tools: Path, photos: Path) -> Repository:
    """Create the naive layout: the photos as one output, and a stage that depends on it."""
    for path in (folder, tools):
        path.mkdir(parents=True)
    repository = Repository(folder, tools)
    (folder / "copy_photos.py").write_text(f"import shutil; shutil.copytree({str(photos)!r}, 'photos')")
    (folder / "train.py").write_text("import shutil; shutil.copy('params.yaml', 'model')")
    (folder / "params.yaml").write_text("lr: 0.1\n")
    (folder / "dvc.yaml").write_text(NAIVE)
    repository.run("git", "init", "--quiet")
    for key in ("name", "email"):
        repository.run("git", "config", f"user.{key}", "benchmark")
    repository.run("dvc", "init", "--quiet")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    repository.commit()
    repository.run("dvc", "repro")
    repository.commit()
    return repository


def own_bytes(folder: Path) -> int:
    """Bytes on disk of a folder's files without other hard links, such as links into the cache."""
    total = 0
    # Unlike rglob, walk ignores a folder that is removed in the meantime.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found = os.lstat(f"{parent}/{name}")
                total += found.st_blocks * 512 if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else 0
    return total


@contextmanager
def watched(folder: Path) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the largest growth of ``own_bytes`` during the block."""
    peak, done, before = 0, threading.Event(), own_bytes(folder)

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.3):
            peak = max(peak, own_bytes(folder) - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: peak
    finally:
        done.set()
        watcher.join()


def show(what: str, costs: list[Cost], more: str = "") -> None:
    """Print the medians of DVC's own cost, and of the stages."""
    wall, cpu, stages = ([getattr(cost, name) for cost in costs] for name in ("wall", "cpu", "stages"))
    spread = f"({min(wall):.1f} to {max(wall):.1f})"
    dvc = f"{statistics.median(wall):7.1f} s {spread:>16}{statistics.median(cpu):7.1f} CPU s"
    print(f"  {what:16}{dvc}{statistics.median(stages):9.1f} s in stages {more}", flush=True)


def measure(repository: Repository, data: str, parameter: str, target: tuple[str, ...], rounds: int) -> None:
    """Print all measurements of a repository in which everything has run."""
    show("nothing to do", [repository.run("dvc", "repro", *target) for _ in range(rounds)])
    costs = []
    for _ in range(rounds):
        shutil.rmtree(repository.folder / data)
        costs.append(repository.run("dvc", "checkout", data))
    show("checkout", costs)
    values = iter(range(1, 1000))

    def experiment(*options: str) -> Cost:
        return repository.run("dvc", "exp", "run", "-S", f"{parameter}=0.001{next(values)}", *options, *target)

    show("experiment", [experiment() for _ in range(rounds)])
    size = sum(path.stat().st_size for path in (repository.folder / data).rglob("*") if path.is_file()) / 1e6
    with watched(repository.folder / ".dvc/tmp") as peak:
        costs = [experiment("--temp") for _ in range(rounds)]
    show("--temp", costs, f"disk {peak() / 1e6:.1f} MB, dataset {size:.0f} MB")


@app.command()
def digits(rounds: int = 3) -> None:
    """Measure the default run of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        repository = new_repository(Path(folder) / "digits", Path(folder) / "tools")
        set_parameters(repository.folder, SMALL)
        repository.run("dvc", "repro")
        repository.commit()
        print(f"digits, load {os.getloadavg()[0]:.1f}")
        measure(repository, "data/dataset", "train.lr", (), rounds)


@app.command()
def food(images: int = 16643, rounds: int = 3) -> None:
    """Measure a dataset of Food-11's size, and the naive layout for comparison."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", images)
        repository = new_repository(folder / "food", folder / "tools")
        data = {"data.source": "folder", "data.location": str(folder / "photos")}
        plain = {"augment.image_size": 128, "augment.views": 0, "augment.transforms": []}
        set_parameters(repository.folder, {**SMALL, **data, **plain})
        repository.run("dvc", "repro", "train")
        repository.commit()
        print(f"{images:,} images, load {os.getloadavg()[0]:.1f}")
        measure(repository, "data/dataset", "train.lr", ("train",), rounds)
        naive = naive_repository(folder / "naive", folder / "naive-tools", folder / "photos")
        print(f"the naive layout, load {os.getloadavg()[0]:.1f}")
        measure(naive, "photos", "lr", ("train",), rounds)


if __name__ == "__main__":
    app()
