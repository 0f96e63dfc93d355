"""What the training engine does on a GPU: speed, memory, the same bits, and what the machine allows; in 9 minutes.

For a machine that has Python 3.12, torch 2.11, torchvision 0.26 and what these need, but no registry. Elsewhere,
collect the rest (3 MB):

    python -m pip download --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels \\
        pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 typing-inspection==0.4.5 \\
        typing-extensions==4.16.0 ruamel.yaml==0.19.1 psutil==7.2.2

There, in the repository, with the folder ``wheels``:

    python3 -m pip install --no-index --no-deps --target /tmp/site wheels/*.whl
    PYTHONPATH=/tmp/site:. python3 benchmarks/gpu_check.py --out gpu.jsonl

Each section runs in a process of its own within its own limit of time, the most valuable first. Each figure is appended
to the file at once as a line of JSON, so an error, or the end of the 9 minutes, costs only what was not yet measured; a
section that could not run leaves a line that says why. What the sections print is in the same folder, ``gpu.log``.
``--only step,bits`` runs the sections whose names start like that. ``--table gpu.jsonl`` prints the lines as the table
of ``benchmarks/RESULTS.md``. ``--quick --device cpu`` runs everything with tiny sizes, as a test.

The images are random pixels. Speeds are medians over epochs, after a first one that does not count.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

# Before torch is imported. With the first one, torch looks for GPUs without starting CUDA, after which copies of this
# process could not use it. cuBLAS reads the second one when it starts, and is deterministic with it only.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch
import torch._dynamo  # or the first optimizer of each process would import it
import torchvision
from inputs import CLASSES, MEAN, SEED, STD, Photos, photo_files
from loops import (
    FLOP_PER_IMAGE,
    OurEngine,
    TimmLoop,
    UsualLoop,
    copy_bandwidth,
    kernel_seconds,
    kernels,
    layer_costs,
    matrix_product_peak,
    median_seconds,
    profile_epoch,
    seconds,
    synchronise,
    usual_network,
)
from sections import Figure, Section, SkippedError, run_sections, table, way_to_start

from pipeline.common.code import code_digest
from pipeline.common.dataset import PackedSplit, create_array
from pipeline.network.batches import Batches, shuffled_plan
from pipeline.network.device import describe_device
from pipeline.train.checkpoint import Checkpointer, resume, save_checkpoint
from pipeline.train.trainer import Trainer

MINUTES = 9.0
# Of an epoch with batch 512, and images of the validation.
FOOD11_STEPS, FOOD11_VALID = 19, 3430
# A run of 4 epochs of 10 steps that draws every kind of random number.
EPOCHS, EPOCH_STEPS, STOP = 4, 10, 15
AUGMENTED = {"hflip": 0.5, "random_resized_crop": 0.6, "color_jitter": 0.2, "random_erase": 0.3, "mixup_alpha": 0.2}
AVERAGED = {"ema_decay": 0.999}
MODES = ("eager", "graph", "compile", "compile + graph")
# The compiler reads it when torchvision is imported, long before set_up_torch.
DETERMINISTIC = {"TORCHINDUCTOR_DETERMINISTIC": "1"}


@dataclass(frozen=True)
class Sizes:
    """The settings of a run. The batch sizes are divided by ``divisor``."""

    device: torch.device
    out: Path
    folder: Path
    photos: Path | None
    start: str
    image_size: int = 128
    width: int = 64
    steps: int = 40
    rounds: int = 5
    divisor: int = 1

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def batch(self, size: int) -> int:
        """A batch size."""
        return size // self.divisor

    def split(self, images: int) -> PackedSplit:
        """Random pixels; the same block again and again, because drawing gigabytes takes long."""
        shape = (images, 1, self.image_size, self.image_size, 3)
        return PackedSplit("train", np.resize(_block(self.image_size), shape), np.arange(images) % CLASSES, [], [])

    def batches(self, images: int) -> Batches:
        """The same on the device."""
        return Batches(self.split(images), MEAN, STD, self.device, resident=True)


@lru_cache(1)
def _block(image_size: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 256, (512, 1, image_size, image_size, 3), np.uint8)


def new_engine(sizes: Sizes, batches: Batches, mode: str, network: str = "classifier", **changes: Any) -> OurEngine:
    """Our engine with one of the ways to launch a step: eager, graph, compile, compile + graph.

    Raises:
        SkippedError: there is no such way on this device.
    """
    if "compile" in mode and not sizes.on_gpu:
        raise SkippedError("torch.compile takes a minute on a CPU")
    if "graph" in mode and not sizes.on_gpu:
        raise SkippedError("CUDA graphs need a GPU")
    engine = OurEngine(mode, batches, sizes.width, network, compile="compile" in mode, **changes)
    if "graph" not in mode:
        engine.trainer.gradients = engine.trainer.compute_gradients
    return engine


def warm_engine(sizes: Sizes, batch: int, mode: str, steps: int = 0, **changes: Any) -> OurEngine:
    """The same after an epoch, in which it has compiled and recorded."""
    batches = sizes.batches((steps or sizes.steps) * batch)
    engine = new_engine(sizes, batches, mode, batch_size=batch, **changes)
    engine.epoch()
    if "graph" in mode and engine.trainer.gradients.replay is None:
        raise RuntimeError("the step was not recorded as a CUDA graph; the log says why")
    return engine


def speed(sizes: Sizes, name: str, engine: OurEngine) -> Iterator[Figure]:
    """Images per second; what the host needs to queue a step, and the kernels to do it."""
    totals, hosts = [], []
    for _ in range(sizes.rounds):
        engine.set_up()
        synchronise(sizes.device)
        start = time.perf_counter()
        engine.queue_epoch()
        hosts.append(time.perf_counter() - start)
        synchronise(sizes.device)
        totals.append(time.perf_counter() - start)
    yield Figure(name, engine.images / median(totals), "images/s")
    yield Figure(f"{name}: step", 1000 * median(totals) / engine.trainer.steps, "ms")
    yield Figure(f"{name}: the host, to queue a step", 1000 * median(hosts) / engine.trainer.steps, "ms")
    if sizes.on_gpu:
        costs = profile_epoch(engine)
        count = sum(kernel.count for kernel in kernels(costs))
        yield Figure(f"{name}: the kernels of a step", 1000 * kernel_seconds(costs) / engine.trainer.steps, "ms")
        yield Figure(f"{name}: the kernels of a step", count / engine.trainer.steps, "kernels")


def peaks(sizes: Sizes) -> tuple[float, float]:
    """FLOP per second of a bf16 matrix product, and bytes per second of a copy."""
    product = matrix_product_peak(sizes.device, 8192 // sizes.divisor)
    return product, copy_bandwidth(sizes.device, 2**31 // sizes.divisor**2)


def machine(sizes: Sizes) -> Iterator[Figure]:
    """What the machine can do."""
    product, bandwidth = peaks(sizes)
    yield Figure("bf16 matrix product", product / 1e12, "TFLOP/s")
    yield Figure("copy, read and written", bandwidth / 1e9, "GB/s")
    yield Figure("CPU cores", len(os.sched_getaffinity(0)), "")


def step(sizes: Sizes) -> Iterator[Figure]:
    """A step launched kernel by kernel, and what the GPU does in that time."""
    for batch in map(sizes.batch, (64, 128, 512)):
        for changes in ({}, AVERAGED):
            name = f"eager, batch {batch}{', moving average' if changes else ''}"
            engine = warm_engine(sizes, batch, "eager", **changes)
            yield from speed(sizes, name, engine)


def syncs(sizes: Sizes) -> Iterator[Figure]:
    """How often the host waits for the GPU in an epoch, and where."""
    if not sizes.on_gpu:
        raise SkippedError("only a GPU is waited for")
    for mode in ("eager", "graph"):
        engine = warm_engine(sizes, sizes.batch(128), mode, **AVERAGED, **AUGMENTED)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            engine.queue_epoch()
        torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in found if "synchronizing" in str(w.message)]
        yield Figure(f"{mode}: in an epoch of {engine.trainer.steps} steps", len(places), "synchronisations")
        for place in sorted(set(places)):
            yield Figure(f"{mode}: at {place}", places.count(place), "synchronisations")


def launched(sizes: Sizes, size: int, mode: str = "", deterministic: bool = False) -> Iterator[Figure]:
    """The speed of one way to launch a step, or of the best one; in a new process, which compiles for one size only."""
    batch, mode = sizes.batch(size), mode or best_mode(sizes)
    start = time.perf_counter()
    engine = warm_engine(sizes, batch, mode, deterministic=deterministic)
    name = f"{mode}, batch {batch}{', deterministic' if deterministic else ''}"
    yield Figure(f"{name}: until the end of the first epoch", time.perf_counter() - start, "s")
    for figure in speed(sizes, name, engine):
        yield figure
        if figure.unit == "images/s" and sizes.divisor == 1:
            share = 100 * figure.value * FLOP_PER_IMAGE / matrix_product_peak(sizes.device)
            yield Figure(f"{name}: of the bf16 matrix product", share, "%")
    if sizes.on_gpu:
        yield Figure(f"{name}: peak memory, images included", torch.cuda.max_memory_allocated() / 2**20, "MiB")


def best_mode(sizes: Sizes) -> str:
    """The fastest way on this device in the file, not deterministic; the engine's default if none was measured."""
    lines = [json.loads(line) for line in sizes.out.read_text().splitlines()] if sizes.out.exists() else []
    sections = {f"modes: {mode}": mode for mode in MODES}
    here = [line for line in lines if line["device"] == describe_device(sizes.device) and line["unit"] == "images/s"]
    speeds = {line["value"]: sections[line["section"]] for line in here if line["section"] in sections}
    return speeds[max(speeds)] if speeds else default_mode(sizes)


def default_mode(sizes: Sizes) -> str:
    """What ``Trainer`` does without ``train.compile``."""
    return "graph" if sizes.on_gpu else "eager"


def run_to_digest(sizes: Sizes, mode: str, path: Path | None = None, stop: int | None = None) -> str:
    """Train, or continue from a checkpoint, and hash the state; with ``stop``, save after that step and end.

    Batch norms, augmentation, mixup, the moving average and the optimizer all have a state.
    """
    batch = sizes.batch(128)
    settings = {"batch_size": batch, "epochs": EPOCHS, "patience": 0, "deterministic": True, **AUGMENTED, **AVERAGED}
    trainer = new_engine(sizes, sizes.batches(EPOCH_STEPS * batch), mode, **settings).trainer
    if path is None:
        trainer.fit(lambda: None, lambda row: None)
        return digest(trainer.state_dict())
    if stop is None:
        resume(trainer, path)
        if (trainer.epoch - 1) * EPOCH_STEPS + trainer.step != STOP:
            raise RuntimeError(f"resumed at epoch {trainer.epoch}, step {trainer.step}")
    saver = Checkpointer(trainer, path, lambda: (trainer.epoch - 1) * EPOCH_STEPS + trainer.step == stop)
    with suppress(KeyboardInterrupt):  # raised after the save
        trainer.fit(saver.save_if_due, lambda row: saver.save_if_due(at_epoch_end=True))
    return digest(trainer.state_dict())


def digest(value: Any) -> str:
    """A hash of all tensors and values in a state."""
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(content).hexdigest()
    if isinstance(value, dict):
        return digest([[str(key), digest(item)] for key, item in value.items()])
    if isinstance(value, list | tuple):
        return hashlib.sha256("".join(map(digest, value)).encode()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def bits(sizes: Sizes) -> Iterator[Figure]:
    """Whether runs end with the same bits. This process does not use the device, so that its copies can."""

    def alone(mode: str, *arguments: Any) -> str:
        with multiprocessing.get_context(sizes.start).Pool(1) as pool:
            return pool.apply(run_to_digest, (sizes, mode, *arguments))

    modes = ["graph", "eager", "compile + graph"] if sizes.on_gpu else ["eager"]
    ends: dict[str, str] = {}
    for mode in modes:
        ends[mode] = alone(mode)
        yield Figure(f"{mode}: two processes, 40 steps", float(alone(mode) == ends[mode]), "same bits")
        path = sizes.folder / f"{mode}.pt"
        alone(mode, path, STOP)
        resumed = alone(mode, path)
        yield Figure(f"{mode}: stopped after step 15 of 40 and resumed", float(resumed == ends[mode]), "same bits")
        if mode == "eager" and "graph" in ends:
            yield Figure("replayed and eager", float(ends["graph"] == ends["eager"]), "same bits")


def layers(sizes: Sizes) -> Iterator[Figure]:
    """Forward and backward of the layers of each block, and the shortest time that the measured peaks allow."""
    product, bandwidth = peaks(sizes)
    for name, work, flop, values in layer_costs(sizes.batch(512), sizes.image_size, sizes.width, sizes.device):
        taken = median_seconds(lambda work=work: [work() for _ in range(10)], sizes.device) / 10
        yield Figure(name, 1000 * taken, "ms")
        yield Figure(f"{name}: of the machine's peak", 100 * max(flop / product, 2 * values / bandwidth) / taken, "%")


def optimizers(sizes: Sizes) -> Iterator[Figure]:
    """A network with short steps, which leave the host little time to launch the kernels of an optimizer."""
    for name in ("adamw", "muon"):
        engine = warm_engine(
            sizes, sizes.batch(64), default_mode(sizes), network="resnet18", optimizer=name, **AVERAGED
        )
        yield from speed(sizes, f"resnet18, batch {sizes.batch(64)}, {name}", engine)


def boundary(sizes: Sizes) -> Iterator[Figure]:
    """What comes between the last step of an epoch and the first of the next one."""
    changes = {"steps": FOOD11_STEPS, "epochs": 10**4, "patience": 0, **AVERAGED}
    engine = warm_engine(sizes, sizes.batch(512), default_mode(sizes), **changes)
    trainer = engine.trainer
    trainer.valid = sizes.batches(sizes.batch(FOOD11_VALID))
    one_epoch = median(seconds(engine.epoch, sizes.device) for _ in range(sizes.rounds))
    yield Figure(f"the {FOOD11_STEPS} steps of an epoch of Food-11, batch {sizes.batch(512)}", 1000 * one_epoch, "ms")
    path = sizes.folder / "checkpoint.pt"
    yield Figure("an epoch with validation", 1000 * whole_epoch(sizes, trainer, lambda: None), "ms")
    saver = Checkpointer(trainer, path, lambda: False)
    saved = whole_epoch(sizes, trainer, partial(saver.save_if_due, at_epoch_end=True))
    yield Figure("an epoch with validation, and checkpoints when they are due", 1000 * saved, "ms")
    save = median(seconds(lambda: save_checkpoint(path, trainer.state_dict()), sizes.device) for _ in range(3))
    yield Figure("a checkpoint", 1000 * save, "ms")
    yield Figure("a checkpoint: file", path.stat().st_size / 1e6, "MB")
    state = trainer.evaluated_model.state_dict()
    copies = median_seconds(lambda: [tensor.clone() for tensor in state.values()], sizes.device)
    yield Figure("a copy of the best state", 1000 * copies, "ms")


def whole_epoch(sizes: Sizes, trainer: Trainer, save: Callable[[], None]) -> float:
    """The mean seconds of some epochs of ``fit``, after the first one."""
    ends: list[float] = []

    def on_epoch(row: Any) -> None:
        save()
        ends.append(time.perf_counter())
        if len(ends) > 4 * sizes.rounds:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        trainer.fit(lambda: None, on_epoch)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def of_torchvision(sizes: Sizes, name: str) -> Iterator[Figure]:
    """A network of torchvision: timm's loop and ours, each eager and compiled."""
    batch = sizes.batch(256)
    source = "timm's" if find_spec("timm") else "timm's, written out,"
    for compiled in (False, True) if sizes.on_gpu else (False,):
        loop = TimmLoop(sizes.batches(sizes.steps * batch), name, batch, AVERAGED["ema_decay"], compiled)
        theirs = loop.images / median_seconds(loop.epoch, sizes.device, sizes.rounds)
        yield Figure(f"{name}, batch {batch}: {source} loop, {'compile' if compiled else 'eager'}", theirs, "images/s")
        del loop
        modes = ("compile", "compile + graph") if compiled else ("eager", "graph")
        for mode in modes if sizes.on_gpu else ("eager",):
            engine = warm_engine(sizes, batch, mode, network=name, optimizer="adamw", **AVERAGED)
            ours = engine.images / median_seconds(engine.epoch, sizes.device, sizes.rounds)
            yield Figure(f"{name}, batch {batch}: ours, {mode}", ours, "images/s")
            yield Figure(f"{name}, batch {batch}: ours, {mode}, of timm's loop", ours / theirs, "×")


def photos(sizes: Sizes) -> Iterator[Figure]:
    """The usual loop, which decodes photos of 512 px in worker processes."""
    count, batch = max(3000 // sizes.divisor**2, 8), sizes.batch(64)
    files = photo_files(sizes.photos, sizes.folder / "photos", min(count, 300))
    kind = "photos" if sizes.photos else "photos of noise"
    mode = default_mode(sizes)
    engines = [(size, warm_engine(sizes, sizes.batch(size), mode)) for size in (64, 512)]
    for workers in (8, 16) if sizes.divisor == 1 else (1, 2):
        model = usual_network(sizes.width, sizes.image_size)
        usual = UsualLoop(Photos(files, count, sizes.image_size), batch, workers, model, sizes.device)
        usual.set_up()
        theirs = usual.images / median_seconds(usual.epoch, sizes.device, 2 if sizes.on_gpu else 1)
        yield Figure(f"usual loop, {workers} workers, {count} {kind}, {len(files)} files", theirs, "images/s")
        for size, engine in engines:
            engine.set_up()
            ours = engine.images / median_seconds(engine.epoch, sizes.device, sizes.rounds)
            yield Figure(f"ours, {mode}, batch {sizes.batch(size)}, against {workers} workers", ours / theirs, "×")


def streaming(sizes: Sizes) -> Iterator[Figure]:
    """Images that do not fit on the device: read from the disk ahead of the steps."""
    batch = sizes.batch(512)
    images, path = sizes.steps * batch, sizes.folder / "train.npy"
    split = sizes.split(images)
    create_array(path, split.images.shape)
    array = np.load(path, mmap_mode="r+")
    array[:] = split.images
    array.flush()
    del array  # pages that are mapped stay in memory
    split = replace(split, images=np.load(path, mmap_mode="r"))
    batches = Batches(split, MEAN, STD, sizes.device, resident=False)

    def read() -> None:
        for _ in batches.load(shuffled_plan(images, 1, batch, SEED, 1)):
            pass

    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    cold = images / seconds(read, sizes.device)
    yield Figure("read, cold: the file is not in memory, if its file system can drop it", cold, "images/s")
    yield Figure("read, warm", images / median_seconds(read, sizes.device, 3), "images/s")
    engine = OurEngine("streamed", batches, sizes.width, batch_size=batch)
    trained = images / median_seconds(engine.epoch, sizes.device, 3)
    yield Figure(f"trained, streamed, warm, batch {batch}", trained, "images/s")


SECTIONS = [
    Section("machine", 30, machine),
    Section("step", 60, step),
    Section("synchronisations", 20, syncs),
    *[Section(f"modes: {mode}", 60, partial(launched, mode=mode, size=512)) for mode in MODES],
    *[
        Section(f"modes: {mode}, deterministic", 60, partial(launched, mode=mode, size=512, deterministic=True), read)
        for mode, read in zip(MODES, ({}, {}, DETERMINISTIC, DETERMINISTIC), strict=True)
    ],
    *[Section(f"best mode: batch {size}", 45, partial(launched, size=size)) for size in (64, 128, 1024)],
    Section("bits", 90, bits, DETERMINISTIC),
    Section("optimizers", 40, optimizers),
    Section("layers", 40, layers),
    Section("epoch's boundary", 40, boundary),
    Section("usual loop", 60, photos),
    *[Section(f"network: {name}", 110, partial(of_torchvision, name=name)) for name in ("resnet34", "regnet_y_800mf")],
    Section("streaming", 40, streaming),
]


def identity(device: torch.device) -> dict[str, Any]:
    """The device by name, and the versions; in a process that may use the device."""
    torch.zeros(1, device=device).item()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"torchvision": torchvision.__version__, "cuda": torch.version.cuda, "code": code_digest("train")[:12]}
    if device.type == "cuda":
        versions |= {"cudnn": torch.backends.cudnn.version(), "bf16": torch.cuda.is_bf16_supported()}
    return {"device": describe_device(device), "versions": versions}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="lines are appended")
    parser.add_argument("--photos", type=Path, help="a zip of photos of 512 px for the usual loop; without it, noise")
    parser.add_argument("--only", default="", help="names of sections, or how they start, separated by commas")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--quick", action="store_true", help="run everything in two minutes, as a test")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the lines of a file as Markdown and end")
    options = parser.parse_args()
    if options.table:
        print(table(SECTIONS, [json.loads(line) for line in options.table.read_text().splitlines()]))
        return
    out, device = options.out.resolve(), torch.device(options.device)
    small = {"image_size": 32, "width": 4, "steps": 2, "rounds": 1, "divisor": 32} if options.quick else {}
    _block(small.get("image_size", Sizes.image_size))  # once, for all copies of this process
    start, facts = way_to_start(identity, device)
    chosen = [section for section in SECTIONS if section.name.startswith(tuple(options.only.split(",")))]
    if device.type == "cpu":  # nothing is compiled; and it may be busy
        chosen = [section._replace(limit=4 * section.limit, variables={}) for section in chosen]
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        sizes = Sizes(device, out, Path(folder), options.photos, start, **small)
        run_sections(chosen, sizes, out, facts, options.minutes)


if __name__ == "__main__":
    main()
