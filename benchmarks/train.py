"""Throughput of our training compared with the loop that a user would write, side by side in one run.

The usual loop: a ``Dataset`` that decodes with PIL, ``Resize`` and ``ToTensor``, a ``DataLoader``, the network in NCHW
fp32, ``loss.item()`` at each step. Ours: ``Trainer`` on the same photos, packed once as the stage ``augment`` does.
Both train the network of homework 3 with Adam on the same images and batches. A round is one epoch of each, one after
the other; an epoch of the loop starts its workers, one of ours its reading thread, as in normal use. Without --photos
it uses noise of 512 px. On two CPU cores, then on a GPU with the usual and the largest sensible batch size:

    OMP_NUM_THREADS=2 taskset -c 0,1 python benchmarks/train.py --photos photos.zip --workers 2 --device cpu --profile
    python benchmarks/train.py --photos photos.zip --workers 8 --device cuda --compile --profile
    python benchmarks/train.py --photos photos.zip --workers 8 --device cuda --compile --profile --batch-size 512

Measured:

    2 CPU cores (x86-64, shared machine), torch 2.15.0, 128 px, width 64, batch size 64, photos of 512 px, 2 workers,
    4 steps per epoch, 3 rounds: the usual loop 12.2 images per second (10.6 to 12.7), ours 20.7 (19.7 to 21.9), 1.72
    times as many; deterministic 18.7 (18.3 to 21.0), 1.65 times, measured when deterministic mode still filled new
    tensors. With THP_MEM_ALLOC_ENABLE=1, which the product sets itself, 2 rounds: 14.3, 23.2 and 22.4.
    In the profile of ours, convolutions took 70 % of the time, batch norms 17 %, max pooling 5 %.

    GPU: not measured.
"""

import itertools
import os
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.common.dataset import PackedSplit, create_array
from pipeline.common.yaml_file import read_yaml
from pipeline.images.decoding import decode
from pipeline.images.transforms import plain_copy
from pipeline.machine import worker_count
from pipeline.network.batches import Batches, shuffled_plan
from pipeline.network.device import choose_device, describe_device, set_up_torch
from pipeline.network.models import ModelSpec, build_model
from pipeline.params.schema import AugmentParams, TrainParams
from pipeline.train.distributed import ProcessGroup
from pipeline.train.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 11
SEED = 6666
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
# Forward and backward of the homework's network (width 64) at 128 px: 6 × 1.09 GMAC.
FLOP_PER_IMAGE = 6.5e9


class Photos(Dataset):
    """Photos that are decoded on access, repeated up to ``images``."""

    def __init__(self, files: list[Path], images: int, image_size: int) -> None:
        self.files, self.images = files, images
        self.transform = transforms.Compose([transforms.Resize((image_size, image_size)), transforms.ToTensor()])

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(self.files[index % len(self.files)]).convert("RGB")), index % CLASSES


class UsualLoop:
    """The loop of homeworks and tutorials, with torch's default settings."""

    name = "the usual loop"

    def __init__(self, photos: Photos, batch_size: int, workers: int, model: nn.Module, device: torch.device) -> None:
        self.batch_size, self.device, self.model = batch_size, device, model.to(device)
        pinned = device.type == "cuda"
        self.loader = DataLoader(photos, batch_size, shuffle=True, num_workers=workers, pin_memory=pinned)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-4, weight_decay=1e-5)

    def set_up(self) -> None:
        """Reset the process-wide settings of ours."""
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("highest")

    def epoch(self, steps: int) -> None:
        """Train for ``steps`` steps."""
        self.model.train()
        losses, accuracies = [], []
        for images, labels in itertools.islice(self.loader, steps):
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.model(images)
            loss = self.criterion(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10)
            self.optimizer.step()
            accuracies.append((logits.argmax(dim=-1) == labels).float().mean().item())
            losses.append(loss.item())


class OurEngine:
    """``Trainer`` with the settings of the recipe food11, the same as in the usual loop."""

    def __init__(self, name: str, batches: Batches, width: int, batch_size: int, **changes: Any) -> None:
        self.name, self.batch_size = name, batch_size
        train = read_yaml(ROOT / "params.yaml")["train"] | read_yaml(ROOT / "recipes" / "food11.yaml")["train"]
        train |= {"batch_size": batch_size, "precision": "auto", "deterministic": False, "compile": False}
        params = TrainParams(**(train | changes))
        names = tuple(str(label) for label in range(CLASSES))
        spec = ModelSpec("classifier", width, 0.0, "default", CLASSES, batches.shape[2], "stretch", names, MEAN, STD)
        model = build_model(spec).to(batches.device)
        self.trainer = Trainer(model, batches, batches, CLASSES, params, SEED, ProcessGroup())

    def set_up(self) -> None:
        """Apply the process-wide settings of the stage ``train``."""
        set_up_torch(SEED, self.trainer.params.deterministic)

    def epoch(self, steps: int) -> None:
        """Train for ``steps`` steps as ``Trainer.fit`` does, without validation."""
        trainer = self.trainer
        trainer.model.train()
        plan = shuffled_plan(len(trainer.train), trainer.train.shape[1], self.batch_size, SEED, trainer.epoch)
        for step, (images, labels) in enumerate(trainer.train.load(itertools.islice(plan, steps))):
            trainer.log[step] = trainer.train_step(images, labels)
            trainer.rates[step] = trainer.schedules[0].get_last_lr()[0]
            for schedule in trainer.schedules:
                schedule.step()
        trainer.log.cpu()
        trainer.epoch += 1


Contender = UsualLoop | OurEngine


def usual_network(width: int, image_size: int) -> nn.Sequential:
    """The network as the homework defines it."""
    channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2, 2, 0)]
    layers += [nn.Flatten(), nn.Linear(8 * width * (image_size // 32) ** 2, 16 * width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16 * width, 8 * width), nn.ReLU(), nn.Linear(8 * width, CLASSES))


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack the photos of a zip."""
    with zipfile.ZipFile(archive) as content:
        names = [name for name in content.namelist() if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png")]
        photos = [Path(content.extract(name, folder)) for name in names]
    if not photos:
        raise typer.BadParameter(f"{archive} contains no .jpg, .jpeg or .png")
    return photos


def make_photos(folder: Path, count: int = 100, size: int = 512) -> list[Path]:
    """Write JPEGs of noise as smooth as photos, about 50 kB each."""
    random = np.random.default_rng(SEED)
    photos = [folder / f"{number}.jpg" for number in range(count)]
    for photo in photos:
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).resize((size, size))
        noise = random.normal(0, 6, (size, size, 1))
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(photo, quality=85)
    return photos


def augment_params(image_size: int) -> AugmentParams:
    """The section ``augment`` for plain copies without views."""
    return AugmentParams(
        image_size=image_size,
        resize="stretch",
        store_size=None,
        views=0,
        test_views=0,
        preset="none",
        transforms=(),
    )


def pack(photos: list[Path], path: Path, images: int, image_size: int) -> PackedSplit:
    """Pack the photos as the stage ``augment`` does, repeated up to ``images``."""
    resize = plain_copy(augment_params(image_size))
    pixels = np.stack([resize(decode(photo.read_bytes())) for photo in photos])
    create_array(path, (images, 1, image_size, image_size, 3))
    array = np.load(path, mmap_mode="r+")
    for start in range(0, images, len(photos)):
        array[start : start + len(photos), 0] = pixels[: images - start]
    array.flush()
    ids = [str(number) for number in range(images)]
    return PackedSplit("train", np.load(path, mmap_mode="r"), np.arange(images) % CLASSES, ids, ids)


def images_per_second(contender: Contender, steps: int, device: torch.device) -> float:
    """Time an epoch, until the device has finished."""
    synchronise = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    contender.set_up()
    synchronise()
    start = time.perf_counter()
    contender.epoch(steps)
    synchronise()
    return steps * contender.batch_size / (time.perf_counter() - start)


def run_rounds(contenders: list[Contender], steps: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Warm up each contender, then run them in turns."""
    for contender in contenders:
        images_per_second(contender, min(steps, 2 if device.type == "cpu" else 20), device)
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            speeds[contender.name].append(images_per_second(contender, steps, device))
    return speeds


def bf16_peak(device: torch.device, size: int = 8192, products: int = 10) -> float:
    """FLOP per second of a large matrix product in bf16, which is bound by arithmetic; the median of 10 runs."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run() -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(products):
            left @ right
        end.record()
        end.synchronize()
        return products * 2 * size**3 / (start.elapsed_time(end) / 1000)

    run()
    return statistics.median(run() for _ in range(10))


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


def print_profile(engine: OurEngine, milliseconds: float, steps: int = 5) -> None:
    """Print the ten most expensive operators of a few steps, and on a GPU the kernels' share of a step."""
    device, on_gpu = engine.trainer.device, engine.trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    steps = min(steps, engine.trainer.steps)
    images_per_second(engine, steps, device)
    with torch.profiler.profile(activities=activities) as profiler:
        images_per_second(engine, steps, device)
    costs = profiler.key_averages()
    print(f"{engine.name}, {steps} steps:")
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(costs.table(order, row_limit=10, max_name_column_width=60))
    if on_gpu:
        kernels = [cost for cost in costs if cost.device_type == DeviceType.CUDA and not cost.is_user_annotation]
        busy = sum(kernel.self_device_time_total for kernel in kernels) / steps / 1000
        print(f"a step takes {milliseconds:.2f} ms, its kernels {busy:.2f} ms")


def main(
    photos: Path | None = None,
    image_size: int = 128,
    batch_size: int = 64,
    steps: int | None = None,
    rounds: int = 3,
    workers: int | None = None,
    width: int = 64,
    device: str = "auto",
    compile: bool = False,
    profile: bool = False,
) -> None:
    """Compare the throughput. Defaults: 20 steps per epoch on a CPU, 150 elsewhere; one worker per core, at most 8."""
    if device != "auto":
        os.environ["PIPELINE_DEVICE"] = device
    # cuBLAS reads it at its start. Set for all contenders, so that their order does not matter.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    target, cores = choose_device(), worker_count()
    steps = steps or (20 if target.type == "cpu" else 150)
    workers = min(8, cores) if workers is None else workers
    print(f"{describe_device(target)}, {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    torch.manual_seed(SEED)
    print(f"width {width}, {image_size} px, batch {batch_size}, {steps} steps per epoch, {rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        files = unpack(photos, Path(name)) if photos else make_photos(Path(name))
        split = pack(files, Path(name) / "train.npy", steps * batch_size, image_size)
        batches = Batches(split, MEAN, STD, target)
        model = usual_network(width, image_size)
        usual = UsualLoop(Photos(files, len(split), image_size), batch_size, workers, model, target)
        engines = [
            OurEngine("ours", batches, width, batch_size),
            OurEngine("ours, deterministic", batches, width, batch_size, deterministic=True),
            *[OurEngine("ours, compiled", batches, width, batch_size, compile=True)] * compile,
        ]
        sides = f"{len(files)} photos of {max(Image.open(files[0]).size)} px"
        print(f"usual loop: {sides}, float32, {workers} workers")
        print(
            f"ours: {engines[0].trainer.dtype}, images {'resident on the device' if batches.resident else 'streamed'}"
        )
        speeds = run_rounds([usual, *engines], steps, rounds, target)
        peak = bf16_peak(target) if target.type == "cuda" else None
        if peak:
            print(f"bf16 peak, 8192³ matrix product: {peak / 1e12:,.0f} TFLOP/s")
        print_table(speeds, peak if (image_size, width) == (128, 64) else None)
        if profile:
            engine = engines[-1 if compile else 0]
            print_profile(engine, 1000 * batch_size / statistics.median(speeds[engine.name]))


if __name__ == "__main__":
    typer.run(main)
