"""Throughput of our training compared with the loop that a user would write, side by side in one run.

The usual loop: a ``Dataset`` that decodes with PIL, ``Resize`` and ``ToTensor``, a ``DataLoader``, the network in NCHW
fp32, ``loss.item()`` at each step. Ours: ``Trainer`` on the same photos, packed once as the stage ``augment`` does.
Both train the network of homework 3 with Adam on the same images and batches. A round is one epoch of each, one after
the other; an epoch of the loop starts its workers, one of ours its reading thread, as in normal use. Without --photos
it uses noise of 512 px. On two CPU cores (about 4 minutes), then on a GPU with the usual and the largest sensible batch
size:

    OMP_NUM_THREADS=2 taskset -c 0,1 python benchmarks/train.py --photos photos.zip --workers 2 --device cpu --profile
    python benchmarks/train.py --photos photos.zip --workers 8 --device cuda --compile --profile
    python benchmarks/train.py --photos photos.zip --workers 8 --device cuda --compile --profile --batch-size 512

Measured:

    2 CPU cores (x86-64 with AVX512-BF16, quiet machine), torch 2.15.0, 128 px, width 64, batch size 64, photos of
    512 px, 2 workers, 4 steps per epoch, 3 rounds: the usual loop in fp32 14.5 images per second (14.4 to 14.7), ours
    in bf16 40.8 (40.7 to 41.5), 2.82 times as many; deterministic 40.5 (40.5 to 41.3), 2.81 times.
    In the profile of ours, convolutions took 65 % of the time, batch norms 15 %, max pooling 14 %.

    bf16 against fp32, recipe imagefolder with 64 px and 5 epochs, 3,120 food photos, seeds 1 to 3: valid accuracy
    0.486 ± 0.013 and 0.482 ± 0.018, 39 and 65 s.

    GPU: not measured.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from inputs import CLASSES, MEAN, SEED, STD, Photos, augment_params, photo_files
from loops import (
    FLOP_PER_IMAGE,
    Contender,
    OurEngine,
    UsualLoop,
    images_per_second,
    kernel_seconds,
    matrix_product_peak,
    profile_epoch,
    usual_network,
)
from PIL import Image

from pipeline.common.dataset import PackedSplit, create_array
from pipeline.images.decoding import decode
from pipeline.images.transforms import plain_copy
from pipeline.machine import worker_count
from pipeline.network.batches import Batches
from pipeline.network.device import choose_device, describe_device


def pack(photos: list[Path], path: Path, images: int, image_size: int) -> PackedSplit:
    """Pack the photos as the stage ``augment`` does, repeated up to ``images``."""
    resize = plain_copy(augment_params(image_size=image_size))
    pixels = np.stack([resize(decode(photo.read_bytes())) for photo in photos])
    create_array(path, (images, 1, image_size, image_size, 3))
    array = np.load(path, mmap_mode="r+")
    for start in range(0, images, len(photos)):
        array[start : start + len(photos), 0] = pixels[: images - start]
    array.flush()
    ids = [str(number) for number in range(images)]
    return PackedSplit("train", np.load(path, mmap_mode="r"), np.arange(images) % CLASSES, ids, ids)


def run_rounds(contenders: list[Contender], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Warm up each contender with an epoch, then run them in turns."""
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for contender in contenders:
            speed = images_per_second(contender, device)
            if number:
                speeds[contender.name].append(speed)
    return speeds


def print_table(speeds: dict[str, list[float]], peak: float | None) -> None:
    """Print one line per contender; a ratio is the median of the ratios of the rounds."""
    print(f"\n{'images per second':24}{'median':>10}{'min':>10}{'max':>10}{'× usual':>10}{'bf16 peak':>12}")
    for name, values in speeds.items():
        median, ratio = statistics.median(values), median_ratio(values, speeds[UsualLoop.name])
        share = f"{median * FLOP_PER_IMAGE / peak:.1%}" if peak else "–"
        print(f"{name:24}{median:10,.1f}{min(values):10,.1f}{max(values):10,.1f}{ratio:10.2f}{share:>12}")
    cost = 1 - median_ratio(speeds["ours, deterministic"], speeds["ours"])
    print(f"train.deterministic costs {cost:.1%} of the images per second\n")


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Compare within each round, because the load of the machine changes between rounds."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def print_profile(engine: OurEngine, milliseconds: float) -> None:
    """Print the ten most expensive operators of an epoch, and on a GPU the kernels' share of a step."""
    costs, steps = profile_epoch(engine), engine.trainer.steps
    print(f"{engine.name}, {steps} steps:")
    on_gpu = engine.trainer.device.type == "cuda"
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(costs.table(order, row_limit=10, max_name_column_width=60))
    if on_gpu:
        busy = 1000 * kernel_seconds(costs) / steps
        print(f"a step takes {milliseconds:.2f} ms, its kernels {busy:.2f} ms")


def main(
    photos: Path | None = None,
    image_size: int = 128,
    batch_size: int = 64,
    steps: Annotated[int | None, typer.Option(help="per epoch; 4 on a CPU and 150 elsewhere")] = None,
    rounds: int = 3,
    workers: Annotated[int | None, typer.Option(help="of the usual loop; one per core, at most 8")] = None,
    width: int = 64,
    device: str = "auto",
    compile: bool = False,
    profile: bool = False,
    quick: Annotated[bool, typer.Option(help="run everything in seconds, as a test; sets all sizes")] = False,
) -> None:
    """Compare the throughput; after an epoch that does not count."""
    if quick:
        image_size, batch_size, steps, rounds, workers, width, profile = 32, 8, 2, 1, 1, 4, True
    if device != "auto":
        os.environ["PIPELINE_DEVICE"] = device
    # cuBLAS reads it at its start. Set for all contenders, so that their order does not matter.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    target, cores = choose_device(), worker_count()
    steps = steps or (4 if target.type == "cpu" else 150)
    workers = min(8, cores) if workers is None else workers
    print(f"{describe_device(target)}, {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    torch.manual_seed(SEED)
    print(f"width {width}, {image_size} px, batch {batch_size}, {steps} steps per epoch, {rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        files = photo_files(photos, Path(name), 8 if quick else 100)
        split = pack(files, Path(name) / "train.npy", steps * batch_size, image_size)
        batches = Batches(split, MEAN, STD, target)
        usual = UsualLoop(
            Photos(files, len(split), image_size), batch_size, workers, usual_network(width, image_size), target
        )
        engines = [
            OurEngine("ours", batches, width, batch_size=batch_size),
            OurEngine("ours, deterministic", batches, width, batch_size=batch_size, deterministic=True),
            *[OurEngine("ours, compiled", batches, width, batch_size=batch_size, compile=True)] * compile,
        ]
        print(f"usual loop: {len(files)} photos of {max(Image.open(files[0]).size)} px, float32, {workers} workers")
        place = "resident on the device" if batches.resident else "streamed"
        print(f"ours: {engines[0].trainer.dtype}, images {place}")
        speeds = run_rounds([usual, *engines], rounds, target)
        peak = matrix_product_peak(target) if target.type == "cuda" else None
        if peak:
            print(f"bf16 peak, 8192³ matrix product: {peak / 1e12:,.0f} TFLOP/s")
        print_table(speeds, peak if (image_size, width) == (128, 64) else None)
        if profile:
            engine = engines[-1 if compile else 0]
            print_profile(engine, 1000 * batch_size / statistics.median(speeds[engine.name]))


if __name__ == "__main__":
    typer.run(main)
