"""Rows of ``record.py`` on a GPU of a machine that has no DVC, in several processes that share it.

    python benchmarks/record_gpu.py pack FOLDER woof.zip          # FOLDER: where record.py trained; 52 MB
    python3 benchmarks/record_gpu.py run woof.zip --minutes 9     # there, in the repository

*pack* re-encodes the prepared images as WebP, so that they can be carried there; the packages to carry are those of
``gpu_check.py`` and platformdirs. *run* trains the 20-, 80- and 200-epoch rows, or the jobs of a file: JSON lines such
as ``{"name": "a", "epochs": 5, "seed": 1, "held_out": 0.2, "settings": {"train.lr": 0.001}}``. With ``held_out``,
1/2, 1/3 … of the training images are validated on instead of the validation images. Each network's line is appended at
once, in the format of ``record.jsonl``, with its accuracy after each epoch; networks that the file has are left out.
They share the GPU, so their minutes are longer than those of a network alone.
"""

import io
import json
import math
import multiprocessing
import os
import queue
import time
import traceback
import zipfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch
import typer
from inputs import ROOT, SMALL, call, params_with_recipe, set_values, with_quick_mode, write_noise_archive
from PIL import Image
from record import ROWS, prepare, read_lines

from pipeline.common.dataset import PackedDataset, PackedSplit, create_array
from pipeline.network.device import describe_device
from pipeline.params.file import check_params
from pipeline.params.schema import Params
from pipeline.train.distributed import ProcessGroup
from pipeline.train.stage import open_trainer

QUALITY = 76
RECIPE = "recipe"
SEEDS = {20: 5, 80: 3, 200: 1}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def pack(folder: Path, file: Path) -> None:
    """Write the prepared dataset of a folder to a zip, its images as WebP."""
    source = folder / "data/dataset"
    with zipfile.ZipFile(file, "w") as archive, ProcessPoolExecutor() as pool:
        for name in ("index.csv", "manifest.json"):
            archive.write(source / name, name, zipfile.ZIP_DEFLATED)
        for split in ("train", "valid"):
            images = np.load(source / f"{split}.npy", mmap_mode="r")
            for row, content in enumerate(pool.map(encoded, images[:, 0], chunksize=64)):
                archive.writestr(f"{split}/{row:05}.webp", content)


def encoded(image: np.ndarray) -> bytes:
    """An image as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """The pixels of a file."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def unpack(file: Path, folder: Path) -> None:
    """Write what *pack* has read; with other pixels, so with another digest."""
    with zipfile.ZipFile(file) as archive, ProcessPoolExecutor() as pool:
        archive.extract("index.csv", folder)
        archive.extract("manifest.json", folder)
        content = json.loads((folder / "manifest.json").read_text("utf-8"))
        for split, shape in content["shapes"].items():
            path = folder / f"{split}.npy"
            create_array(path, tuple(shape))
            array = np.load(path, mmap_mode="r+")
            files = [archive.read(f"{split}/{row:05}.webp") for row in range(len(array))]
            for row, image in enumerate(pool.map(decoded, files, chunksize=64)):
                array[row, 0] = image
            array.flush()
    manifest = PackedDataset(folder).manifest
    replace(manifest, digest=f"{manifest.digest}-webp{QUALITY}").write(folder)


def params_of(settings: dict[str, Any]) -> Params:
    """``params.yaml`` with the recipe and some settings."""
    content = params_with_recipe("imagewoof")
    set_values(content, settings)
    return check_params(content, ROOT / "params.yaml")


def held_out(dataset: PackedDataset, fraction: float) -> Any:
    """The dataset with every n-th training image as its validation images.

    Raises:
        ValueError: the fraction is not 1 / n.
    """
    train, every = dataset.split("train"), round(1 / fraction)
    if every < 2 or not math.isclose(every * fraction, 1, rel_tol=0.01):
        raise ValueError(f"held_out: got {fraction}, allowed are 1/2, 1/3 …")
    chosen = np.arange(len(train)) % every == every - 1
    splits = {}
    for name, rows in (("train", ~chosen), ("valid", chosen)):
        names = np.array(train.ids)[rows].tolist()
        splits[name] = PackedSplit(name, np.ascontiguousarray(train.images[rows]), train.labels[rows], names, names)
    return SimpleNamespace(manifest=dataset.manifest, split=splits.__getitem__)


def trained(dataset: Any, job: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Train one network; the line of ``record.jsonl``, and the curve."""
    start = time.monotonic()
    params = params_of(job.get("settings", {}) | {"train.epochs": job["epochs"]})
    trainer, _ = open_trainer(dataset, params.model, params.train, job["seed"], device, ProcessGroup())
    ends: list[float] = []
    rows = trainer.fit(lambda: None, lambda row: ends.append(time.monotonic())).epochs
    return {
        "epochs": job["epochs"],
        "name": name_of(job),
        "seed": job["seed"],
        "accuracy": round(rows[-1]["valid_accuracy"], 6),
        "minutes": round((ends[-1] - start) / 60, 3),
        "device": describe_device(device),
        "precision": str(trainer.dtype),
        "parameters": sum(weights.numel() for weights in trainer.model.parameters()),
        "epoch_seconds": round((ends[-1] - ends[0]) / max(1, len(ends) - 1), 2),
        "first_epoch_seconds": round(ends[0] - start, 2),
        "valid_accuracies": [round(row["valid_accuracy"], 4) for row in rows],
        "valid_loss": round(rows[-1]["valid_cross_entropy"], 4),
        "train_loss": round(rows[-1]["train_loss"], 4),
        **{key: job[key] for key in ("held_out", "settings") if key in job},
    }


def name_of(job: dict[str, Any]) -> str:
    """The name of a job; by default that of the rows, unless it is judged on other images than they are."""
    return job.get("name") or (f"{RECIPE}, held out {job['held_out']:g}" if job.get("held_out") else RECIPE)


def work(folder: Path, log: Path, device: str, jobs: Any, lines: Any) -> None:
    """Train one job after the other until there is none."""
    with log.open("a") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    torch.set_num_threads(1)
    dataset, parts = PackedDataset(folder), {}
    for job in iter(jobs.get, None):
        try:
            fraction = job.get("held_out", 0)
            if fraction not in parts:
                parts[fraction] = held_out(dataset, fraction) if fraction else dataset
            line = trained(parts[fraction], job, torch.device(device))
        except Exception as error:
            traceback.print_exc()
            line = {**job, "name": name_of(job), "error": f"{type(error).__name__}: {error}"}
        lines.put(line)


@app.command()
def run(
    file: Path,
    jobs: Path | None = None,
    out: Path = Path("record.jsonl"),
    device: str = "cuda",
    workers: int = 4,
    minutes: float = 9.0,
) -> None:
    """Train the networks, the first jobs first, until the time is over."""
    end = time.monotonic() + 60 * minutes
    if jobs:
        chosen = [json.loads(line) for line in jobs.read_text("utf-8").splitlines() if line.strip()]
    else:
        rows = [(epochs, seed) for epochs in SEEDS for seed in range(1, SEEDS[epochs] + 1)]
        chosen = [{"epochs": epochs, "seed": seed, "settings": ROWS[epochs]} for epochs, seed in rows]
    done = read_lines(out).dropna(subset="accuracy")
    found = {(line.epochs, line.name, line.seed) for line in done.itertuples(index=False)}
    chosen = [job for job in chosen if (job["epochs"], name_of(job), job["seed"]) not in found]
    context = multiprocessing.get_context("spawn")
    todo, lines = context.Queue(), context.Queue()
    for job in [*chosen, *[None] * workers]:
        todo.put(job)
    with TemporaryDirectory(dir=out.resolve().parent) as folder:
        unpack(file, Path(folder))
        arguments = (Path(folder), out.with_suffix(".log"), device, todo, lines)
        processes = [context.Process(target=work, args=arguments, daemon=True) for _ in range(workers)]
        for process in processes:
            process.start()
        missing = len(chosen)
        # A process that has ended has sent all of its lines.
        while (
            missing
            and time.monotonic() < end
            and (any(process.is_alive() for process in processes) or not lines.empty())
        ):
            with suppress(queue.Empty):
                line = lines.get(timeout=1)
                missing -= 1
                with out.open("a") as target:
                    print(json.dumps(line), file=target)
                print(json.dumps(line), flush=True)
        if missing:
            print(
                f"{missing} networks are missing: the time is over, or {out.with_suffix('.log')} says why", flush=True
            )
        for process in processes:
            process.kill()
            process.join()


def quick() -> None:
    """Two small networks of one epoch."""
    with TemporaryDirectory() as temporary:
        clone, archive, packed, out = (Path(temporary, name) for name in ("clone", "a.zip", "b.zip", "a.jsonl"))
        write_noise_archive(archive, 8)
        prepare(clone, archive, SMALL | {"augment.store_size": None})
        call(clone, "pipeline", "augment")
        pack(clone, packed)
        settings = SMALL | {"model.name": "timm/resnet10t", "augment.store_size": None}
        lines = [
            {"name": "a", "epochs": 1, "seed": 1, "held_out": fraction, "settings": settings} for fraction in (0, 0.25)
        ]
        jobs = Path(temporary, "jobs")
        jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run(packed, jobs, out, device="cpu", workers=2, minutes=2)
        if len(read_lines(out).dropna(subset="accuracy")) != len(lines):
            raise SystemExit(out.with_suffix(".log").read_text())


with_quick_mode(app, quick)
if __name__ == "__main__":
    app()
