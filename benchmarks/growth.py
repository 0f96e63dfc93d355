"""Time, memory and disk of each stage as the dataset grows, and of tables with one row per image.

    OMP_NUM_THREADS=1 python benchmarks/growth.py stages --sizes 1000,3000,10000
    OMP_NUM_THREADS=1 python benchmarks/growth.py tables --sizes 10000,100000,1000000
    OMP_NUM_THREADS=1 python benchmarks/growth.py tables --sizes 1000,2000,4000,8000 --names pages
    python benchmarks/growth.py dvc --gigabytes 1

*stages*: a folder of JPEGs of 48 pixels, all different, goes through the pipeline at 32 pixels, without views, with a
network of width 4 and one epoch, each stage in a new process. Decoding and the network are as cheap as possible, so the
rest of each stage's work per image remains. *tables*: reading the archive's table of contents and the index, the
bootstrap (1,000 resamples, 10 classes), and the search for close hashes, on random values; *pages*: the search for
duplicates in scanned pages of text, which look alike. *dvc*: hashing, linking and copying one large file.

The time is wall time, and the CPU time of the process and its children, because other processes may use the machine.
Memory is the peak over time of the sum of all processes' anonymous memory, imports included, without pages of files.

Measured:

    2 CPU cores (x86-64) of a shared machine, load 5 to 25, one run each: compare the CPU seconds, not the wall time.
    CPU seconds, peak MiB and MiB written, for 1,000, 3,000 and 10,000 images, 65 % of them in the training split and
    20 % in the split that is evaluated:

    download   0.5   0.6   1.6      57   60   66     1.7   5.2  17.3
    augment    1.6   4.6  13.9     164  167  181     3.0   9.0  29.8
    train      3.5   3.5   5.5     507  508  512     0.2   0.2   0.2
    evaluate   5.3   6.0   5.4     550  551  568     0.5   0.6   0.9
    tsne       1.5   3.8   3.2     422  430  434     0.1   0.3   0.2
    predict    0.1   0.3   0.3     344  356  360     0.0   0.1   0.2
    report     3.3   3.9   3.7     182  187  191     1.1   1.5   2.1

    Tables, CPU seconds and peak MiB of 10,000, 100,000 and 1 million rows: contents 0.1, 1.5 and 15.5, 34, 124 and 955;
    index below 0.1, 0.2 and 1.9, 54, 85 and 429. Of 10,000 and 100,000: bootstrap 0.4 and 3.7, 455 and 456; the search
    for duplicates, plain and mirrored, 0.2 and 11.9, 58 and 91. Of 1,000, 2,000, 4,000 and 8,000 scanned pages 0.9,
    2.2, 4.7 and 10.0, 59, 65, 78 and 96.

    DVC 3.67.1, one file of 1.07 GB, CPU seconds of two runs: add 8.9 and 10.9, push 5.4 and 4.5, checkout 0.9 and 1.0,
    status 1.0 and 1.1, pull 5.3 and 4.2.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import typer
from inputs import ROOT, noise_photo, text_page, with_quick_mode
from peak_memory import watch_memory

PHOTO_SIDE, IMAGE_SIZE, CLASSES = 48, 32, 10
STAGES = ("download", "augment", "train", "evaluate", "tsne", "predict", "report")
MIB = 2**20

app = typer.Typer(add_completion=False)
with_quick_mode(app, lambda: (stages("60"), tables("100"), tables("100", "pages"), dvc(0.01)))


def write_photos(folder: Path, count: int) -> None:
    """Write JPEGs of smooth noise, one folder per class."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        photo = noise_photo(random, PHOTO_SIDE, patches=8, noise=0)
        photo.save(folder / str(number % CLASSES) / f"{number:07}.jpg", quality=95)


def write_params(folder: Path) -> None:
    """Write ``params.yaml`` of the default run for the photos, with as little work for the network as possible."""
    from pipeline.common.yaml_file import read_yaml

    params = read_yaml(ROOT / "params.yaml")
    params["data"] |= {"source": "folder", "location": "photos"}
    params["augment"] |= {"image_size": IMAGE_SIZE, "views": 0, "preset": "none", "transforms": []}
    params["model"] |= {"width": 4, "dropout": 0.0}
    params["train"] |= {"epochs": 1, "warmup_epochs": 0.0}
    params["tsne"] |= {"max_images": 500}
    (folder / "params.yaml").write_text(json.dumps(params))


def cost(work: Callable[[], object]) -> dict[str, float]:
    """Measure ``seconds``, ``cpu`` seconds and ``peak`` bytes of some work."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    with watch_memory(0.02) as peak:
        work()
    return {"seconds": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu, "peak": peak.bytes}


def _cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def disk(folder: Path) -> int:
    """Bytes of all files in ``data`` and ``results``."""
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and file.relative_to(folder).parts[0] in ("data", "results")
    )


def in_new_process(folder: Path, *arguments: str) -> dict[str, float]:
    """Run a command of this script, and return the cost that it prints."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIPELINE_DEVICE": "cpu", "DVC_NO_ANALYTICS": "true"}
    found = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def print_line(what: str, count: int, found: dict[str, float], more: str = "") -> None:
    print(
        f"{what:18}{count:10,}{found['seconds']:9.1f}{found['cpu']:9.1f}{found['peak'] / MIB:9,.0f} MiB{more}",
        flush=True,
    )


@app.command()
def stages(sizes: str = "1000,3000,10000", names: str = ",".join(STAGES)) -> None:
    """Print one line per stage and number of images."""
    print(f"{'stage':18}{'images':>10}{'seconds':>9}{'CPU s':>9}{'memory':>13}{'written':>13}")
    for count in map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_photos(folder / "photos", count)
            write_params(folder)
            for stage in names.split(","):
                before = disk(folder)
                found = in_new_process(folder, "stage", stage)
                print_line(stage, count, found, f"{(disk(folder) - before) / MIB:9,.1f} MiB")


@app.command(hidden=True)
def stage(name: str) -> None:
    """Run a stage in the current folder after its imports, and print its cost as JSON."""
    from importlib import import_module

    from pipeline import cli

    import_module(f"pipeline.{name}.stage")
    run = getattr(cli, name)
    print("\n" + json.dumps(cost(lambda: run(None, None, None, None, None) if name == "predict" else run())))


@app.command()
def tables(sizes: str = "10000,100000", names: str = "contents,index,bootstrap,hashes") -> None:
    """Print one line per table and number of rows."""
    print(f"{'table':18}{'images':>10}{'seconds':>9}{'CPU s':>9}{'memory':>13}")
    for name in names.split(","):
        for count in map(int, sizes.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                print_line(name, count, in_new_process(Path(folder), "table", name, str(count)))


@app.command(hidden=True)
def table(name: str, count: int) -> None:
    """Create a table in the current folder, and print the cost of the work on it as JSON."""
    makers = {"contents": _contents, "index": _index, "bootstrap": _bootstrap, "hashes": _hashes, "pages": _pages}
    print("\n" + json.dumps(cost(makers[name](count))))


def _contents(count: int) -> Callable[[], object]:
    from pipeline.common.raw_archive import read_raw_archive, write_raw_archive

    path = Path("raw.zip")
    entries = {f"train/{number % CLASSES}_{number:08}.jpg": "" for number in range(count)}
    write_raw_archive(path, map(str, range(CLASSES)), entries, lambda _: b"x")
    entries.clear()

    return lambda: read_raw_archive(path)


def _index(count: int) -> Callable[[], object]:
    from memory import make_dataset

    from pipeline.common.dataset import PackedDataset

    make_dataset(Path(), count)
    return lambda: PackedDataset(Path()).split("train")


def _bootstrap(count: int) -> Callable[[], object]:
    from pipeline.evaluate.intervals import confidence_intervals

    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(CLASSES), count)
    return lambda: confidence_intervals(random.integers(0, CLASSES, count), probabilities, 3, 1000)


def _hashes(count: int) -> Callable[[], object]:
    from pipeline.images.duplicates import FINGERPRINT, find_duplicates

    random = np.random.default_rng(0)
    prints = np.frombuffer(random.bytes(count * FINGERPRINT.itemsize), FINGERPRINT)
    image = random.integers(0, 256, (64, 64), dtype=np.uint8)
    return lambda: find_duplicates(prints, np.zeros(count, np.int64), lambda row: image)


def _pages(count: int) -> Callable[[], object]:
    import cv2

    from pipeline.images.duplicates import FINGERPRINT, find_duplicates, fingerprint, thumbnail

    random = np.random.default_rng(0)
    prints, thumbnails = np.zeros(count, FINGERPRINT), []
    for row in range(count):
        page = text_page(random)
        small = cv2.resize(page, (128, 128), interpolation=cv2.INTER_AREA)
        prints[row] = fingerprint(page.tobytes(), page, cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        thumbnails.append(thumbnail(small))
    return lambda: find_duplicates(prints, np.zeros(count, np.int64), thumbnails.__getitem__)


@app.command()
def dvc(gigabytes: float = 1.0) -> None:
    """Print the cost of DVC's commands for one large file, in a new repository with this project's settings."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        # A separate site cache, so that no other clone is affected.
        environment = {**os.environ, "DVC_NO_ANALYTICS": "true", "DVC_SITE_CACHE_DIR": f"{name}/site"}

        def run(*command: str) -> None:
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

        def dvc_command(*arguments: str) -> None:
            run(sys.executable, "-m", "dvc", *arguments, "--quiet")

        def without(file: str, command: str, *folders: str) -> None:
            for folder in folders:
                shutil.rmtree(folder)
            Path(file).unlink()
            dvc_command(command)

        run("git", "init", "--quiet")
        dvc_command("init")
        shutil.copy(ROOT / ".dvc/config", ".dvc/config")
        dvc_command("remote", "add", "--default", "store", f"{name}/remote")
        random = np.random.default_rng(0)
        with Path("large.npy").open("wb") as file:
            for _ in range(round(gigabytes * 64)):
                file.write(random.bytes(2**24))
        size = Path("large.npy").stat().st_size
        steps: dict[str, Callable[[], object]] = {
            "add: hash, link": lambda: dvc_command("add", "large.npy"),
            "push: copy": lambda: dvc_command("push"),
            "checkout: link": lambda: without("large.npy", "checkout"),
            "status: unchanged": lambda: dvc_command("status"),
            "pull: copy": lambda: without("large.npy", "pull", ".dvc/cache"),
        }
        print(f"one file of {size / 1e9:.2f} GB{'seconds':>21}{'CPU s':>9}{'MB per s':>13}")
        for what, work in steps.items():
            found = cost(work)
            print(
                f"{what:18}{found['seconds']:23.1f}{found['cpu']:9.1f}{size / 1e6 / found['seconds']:13,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    app()
