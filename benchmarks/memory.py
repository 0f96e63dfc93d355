"""Peak memory of training on the CPU with 10,000 and 100,000 images of 128 px, resident and streamed.

    python benchmarks/memory.py
    python benchmarks/memory.py --steps 1562    # a whole epoch of the larger dataset

Each line is a new process that opens a packed dataset as the stage ``train`` does and trains a narrow network (width 4)
with batch size 64, with images drawn at random from the whole dataset. The datasets are sparse files of zeros, which
take no disk space. *Resident* on a CPU is a memory map: its pages count in the RSS, but belong to the page cache and
are freed as soon as another process needs the memory. *Streamed* reads by position, a few batches ahead. So training
itself needs the anonymous part, sampled every few milliseconds. Linux only.

Measured:

    2 CPU cores, torch 2.15.0, 150 steps, MiB:

               images  pixels  mode      peak RSS  peak anonymous
               10,000     469  resident     1,346             563
               10,000     469  streamed       956             614
              100,000   4,688  resident     1,905             616
              100,000   4,688  streamed       978             636
"""

import csv
import itertools
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from inputs import CLASSES, NAMES, train_params
from peak_memory import anonymous_bytes, watch_memory

from pipeline.common.dataset import INDEX_COLUMNS, Manifest

IMAGE_SIZE = 128
BATCH_SIZE = 64
WIDTH = 4
MIB = 2**20


def make_dataset(folder: Path, images: int) -> None:
    """Write a packed dataset of black images."""
    shapes = {"train": (images, 1, IMAGE_SIZE, IMAGE_SIZE, 3), "valid": (BATCH_SIZE, 1, IMAGE_SIZE, IMAGE_SIZE, 3)}
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(INDEX_COLUMNS)
        for split, shape in shapes.items():
            # Not create_array, which takes the disk space at once.
            np.lib.format.open_memmap(folder / f"{split}.npy", mode="w+", dtype=np.uint8, shape=shape)
            for row in range(shape[0]):
                label = row % CLASSES
                table.writerow([split, row, f"{row:06}", label, NAMES[label], f"{split}/{label}_{row:06}.jpg", ""])
    Manifest(NAMES, IMAGE_SIZE, "stretch", "area", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), shapes, "").write(folder)


def train(folder: Path, resident: bool, steps: int) -> int:
    """Train on the dataset in ``folder`` and return the number of steps, at most those of one epoch."""
    import torch

    from pipeline.common.dataset import PackedDataset
    from pipeline.network.batches import Batches, shuffled_plan
    from pipeline.network.device import set_up_torch
    from pipeline.network.models import ModelSpec, build_model
    from pipeline.train.distributed import ProcessGroup
    from pipeline.train.trainer import Trainer

    device = torch.device("cpu")
    params = train_params(batch_size=BATCH_SIZE, deterministic=True)
    set_up_torch(0, params.deterministic)
    dataset = PackedDataset(folder)
    mean, std = dataset.manifest.mean, dataset.manifest.std
    spec = ModelSpec("classifier", WIDTH, 0.0, "default", CLASSES, IMAGE_SIZE, "stretch", "area", NAMES, mean, std)
    batches, valid = (Batches(dataset.split(split), mean, std, device, resident) for split in ("train", "valid"))
    trainer = Trainer(build_model(spec), batches, valid, CLASSES, params, 0, ProcessGroup())
    plan = shuffled_plan(len(batches), 1, BATCH_SIZE, seed=0, epoch=1)
    done = 0
    for images, labels in batches.load(itertools.islice(plan, steps)):
        trainer.train_step(images, labels)
        done += 1
    return done


def measure(folder: Path, resident: bool, steps: int) -> dict[str, int]:
    """Train in this process and return its memory in bytes."""
    with watch_memory(0.005) as peak:
        steps = train(folder, resident, steps)
    return {
        "steps": steps,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "anonymous_peak": peak.bytes,
        "anonymous_end": anonymous_bytes(),
    }


def measure_in_new_process(folder: Path, resident: bool, steps: int) -> dict[str, int]:
    """Train in a new process.

    A child's ru_maxrss starts at its parent's, so this process must stay smaller and does not import torch.
    """
    mode = "--resident" if resident else "--no-resident"
    command = [sys.executable, __file__, "--steps", str(steps), "--folder", str(folder), mode]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(
    steps: Annotated[int, typer.Option(help="maximum; one epoch of the smaller dataset has 156")] = 300,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    resident: Annotated[bool, typer.Option(hidden=True)] = True,
    quick: Annotated[bool, typer.Option(help="run everything in seconds, as a test")] = False,
) -> None:
    """Print one line per size and mode."""
    if folder is not None:  # the new process
        print(json.dumps(measure(folder, resident, steps)))
        return
    print(f"{'MiB':>14}{'pixels':>8}{'steps':>7}  {'mode':8}{'peak RSS':>10}{'peak anonymous':>16}{'at the end':>12}")
    sizes, steps = ((BATCH_SIZE,), 1) if quick else ((10_000, 100_000), steps)
    for count in sizes:
        with tempfile.TemporaryDirectory() as name:
            make_dataset(Path(name), count)
            for mode in ("resident", "streamed"):
                found = measure_in_new_process(Path(name), mode == "resident", steps)
                print(
                    f"{count:7,} images{count * IMAGE_SIZE**2 * 3 / MIB:8,.0f}{found['steps']:7,}  {mode}"
                    f"{found['peak'] / MIB:10,.0f}{found['anonymous_peak'] / MIB:16,.0f}"
                    f"{found['anonymous_end'] / MIB:12,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    typer.run(main)
