"""Throughput of the stage ``augment`` compared with what a user would write, side by side in one run; and its time and
memory as the dataset grows.

    OMP_NUM_THREADS=1 python benchmarks/augment.py speed photos.zip
    OMP_NUM_THREADS=1 python benchmarks/augment.py growth photos.zip
    OMP_NUM_THREADS=1 python benchmarks/augment.py cluster photos.zip
    python benchmarks/augment.py quality photos.zip

*speed*: decode and resize to 128 px: (a) PIL and torchvision's ``Resize`` in a ``DataLoader``; our code for the same
work; and our whole stage, which also measures each image for the audit and writes the arrays. With the preset medium:
(b) cv2 and albumentations in a ``DataLoader``, which decodes each photo for its plain copy and for each of its 4 views,
as five epochs do; (c) the same, but it decodes each photo once; and our whole stage. All of them use 2 worker
processes, which start again in each round; the loaders discard their batches.

*growth*: the whole stage, audit and page included, on repeated photos, in one new process per size; memory is the peak
over time of the sum of all processes' anonymous memory, so pages of the written files do not count.

*cluster*: the whole stage on repeated photos by 1 and 2 processes, and by a Ray cluster of 1 and 2 nodes of one CPU on
this machine; a difference in a byte of the dataset is an error.

*quality*: how much decoding a JPEG at 1/2, 1/4 or 1/8 of its scale changes the resized copy, compared with how much the
choice of the library changes it (cv2's area filter and PIL's antialiased bilinear filter, both after a full decode).

Measured:

    2 CPU cores (x86-64, shared machine), 3,000 photos of 512 px, median of 3 rounds, photos per second: (a) 476, our
    code for the same work 1,471 (3.1 times), our stage with audit and arrays 1,068 (2.2 times); with 4 views (b) 166,
    our stage 211 (1.27 times), (c) 371. Decoding once for all epochs matters most.

    Cluster, 50,000 photos of 512 px: 1 process 96.0 s, 2 processes 60.9 s; 1 node 105.6 s, 2 nodes 73.6 s; one run.

    Growth: 1,000 images 1.4 s, 10,000 9.7 s, 50,000 49.6 s; peak memory 170, 196 and 408 MiB.

    Quality, 300 photos: decoding at a reduced scale: PSNR 51.3 dB (worst 32.3), mean difference 0.38 of 255 (worst
    3.37); another library: PSNR 39.9 dB (worst 34.2), mean difference 1.49 (worst 3.20).
"""

import hashlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from inputs import CLASSES, NAMES, Photos, augment_params, photo_files, with_quick_mode
from peak_memory import watch_memory

from pipeline.augment.packing import CHUNK, create_arrays, pack
from pipeline.common.paths import DATASET, RAW_ARCHIVE
from pipeline.common.raw_archive import read_raw_archive, write_raw_archive
from pipeline.images.decoding import PLAIN_DETAIL, decode
from pipeline.images.transforms import PRESETS, albumentations, plain_copy
from pipeline.params.schema import AugmentParams

WORKERS = 2
BATCH_SIZE = 64
IMAGE_SIZE = 128
VIEWS = 4
PLAIN_LEAST = round(PLAIN_DETAIL * IMAGE_SIZE)

ZIP = Annotated[Path | None, typer.Argument(help="photos; without it, noise")]

app = typer.Typer(add_completion=False)
with_quick_mode(app, lambda: (speed(None, 8, 1), growth(None, "8"), quality(None, 4)))


def views_params(views: int) -> AugmentParams:
    """The section ``augment`` of the benchmark."""
    return augment_params(image_size=IMAGE_SIZE, views=views, preset="medium" if views else "none")


def repeat_photos(photos: list[Path], count: int) -> None:
    """Write ``data/raw.zip`` with ``count`` photos, all in the training split."""
    entries = {f"train/{row % CLASSES}_{row:06}.jpg": photos[row % len(photos)] for row in range(count)}
    RAW_ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    write_raw_archive(RAW_ARCHIVE, NAMES, entries, Path.read_bytes)


class AlbumentationsPhotos:
    """(b), (c): a ``Dataset`` that returns a plain copy and views of a photo, decoded for each of them or once."""

    def __init__(self, files: list[Path], decode_once: bool) -> None:
        size = {"size": (IMAGE_SIZE, IMAGE_SIZE)}
        resize = albumentations.Resize(IMAGE_SIZE, IMAGE_SIZE)
        own = [
            getattr(albumentations, keys["name"])(
                **{name: value for name, value in keys.items() if name != "name"},
                **(size if keys["name"] == "RandomResizedCrop" else {}),
            )
            for keys in PRESETS["medium"]
        ]
        self.files, self.decode_once = files, decode_once
        self.plain, self.view = albumentations.Compose([resize]), albumentations.Compose([*own, resize])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        photo = self._read(row)
        copies = [self.plain(image=photo)["image"]]
        for _ in range(VIEWS):
            copies.append(self.view(image=photo if self.decode_once else self._read(row))["image"])
        return np.stack(copies)

    def _read(self, row: int) -> np.ndarray:
        return cv2.cvtColor(cv2.imread(str(self.files[row])), cv2.COLOR_BGR2RGB)


def load_all(photos) -> None:
    """Load all batches."""
    from torch.utils.data import DataLoader

    for _ in DataLoader(photos, BATCH_SIZE, num_workers=WORKERS):
        pass


def pack_all(views: int) -> None:
    """Fill the arrays as the stage does."""
    _, images, _ = read_raw_archive(RAW_ARCHIVE)
    with tempfile.TemporaryDirectory() as folder:
        params = views_params(views)
        pack(create_arrays(Path(folder), images, params), params, seed=0)


def resize_all() -> None:
    """Decode and resize as the stage does, without audit and arrays."""
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    with ProcessPoolExecutor(WORKERS, initializer=_open_archive) as workers:
        for _ in workers.map(_resize_chunk, chunks):
            pass


def _open_archive() -> None:
    global _archive, _resize
    _archive, _resize = zipfile.ZipFile(RAW_ARCHIVE), plain_copy(views_params(0))


def _resize_chunk(names: list[str]) -> int:
    return sum(_resize(decode(_archive.read(name), PLAIN_LEAST)).nbytes for name in names)


_archive: zipfile.ZipFile
_resize: Callable[[np.ndarray], np.ndarray]


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@app.command()
def speed(photos: ZIP = None, images: int = 1200, rounds: int = 3) -> None:
    """Print the photos per second of each method, the median over the rounds, and the ratios."""
    os.environ["PIPELINE_WORKERS"] = str(WORKERS)
    with tempfile.TemporaryDirectory() as folder:
        found = photo_files(photos, Path(folder), min(images, 100))
        files = [found[row % len(found)] for row in range(images)]
        methods: dict[str, Callable[[], None]] = {
            "(a) PIL, torchvision": lambda: load_all(Photos(files, images, IMAGE_SIZE)),
            "ours, the same": resize_all,
            "ours, no views": lambda: pack_all(0),
            "(b) albumentations": lambda: load_all(AlbumentationsPhotos(files, decode_once=False)),
            "(c) decoded once": lambda: load_all(AlbumentationsPhotos(files, decode_once=True)),
            f"ours, {VIEWS} views": lambda: pack_all(VIEWS),
        }
        rates: dict[str, list[float]] = {name: [] for name in methods}
        with chdir(folder):
            repeat_photos(files, images)
            for _ in range(rounds):
                for name, work in methods.items():
                    rates[name].append(images / _seconds(work))
    for name, found in rates.items():
        print(f"{name:22}{statistics.median(found):8.0f} photos per second ({min(found):.0f} to {max(found):.0f})")
    middle = {name: statistics.median(found) for name, found in rates.items()}
    views = f"ours, {VIEWS} views"
    for ours, other in (("ours, the same", "(a)"), ("ours, no views", "(a)"), (views, "(b)"), (views, "(c)")):
        theirs = next(rate for name, rate in middle.items() if name.startswith(other))
        print(f"{ours} / {other}: {middle[ours] / theirs:.2f}")


@app.command()
def growth(
    photos: ZIP = None, sizes: Annotated[str, typer.Option(help="numbers of images")] = "1000,10000,50000"
) -> None:
    """Print time and peak memory of the whole stage for each number of images."""
    print(f"{'images':>8}{'seconds':>9}{'ms per image':>14}{'peak memory':>13}")
    for count in (int(size) for size in sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(Path(__file__).resolve()), "stage", str(count)]
            command += [str(photos.resolve())] if photos else []
            result = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(result.stdout.splitlines()[-1])
        print(
            f"{count:8,}{found['seconds']:9.1f}{1000 * found['seconds'] / count:14.2f}{found['peak'] / 2**20:9.0f} MiB",
            flush=True,
        )


@app.command()
def cluster(photos: ZIP = None, images: int = 50_000) -> None:
    """Print the time of the whole stage on processes and on nodes of a Ray cluster, and check that all agree."""
    digests = set()
    for kind, count in itertools.product(("processes", "nodes"), (1, WORKERS)):
        with tempfile.TemporaryDirectory() as folder, ray_nodes(count if kind == "nodes" else 0) as variables:
            command = [sys.executable, str(Path(__file__).resolve()), "stage", str(images)]
            command += [str(photos.resolve())] if photos else []
            own = {key: value for key, value in os.environ.items() if key != "PIPELINE_RAY"}
            env = own | {"PIPELINE_WORKERS": str(count)} | variables
            result = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env=env)
        found = json.loads(result.stdout.splitlines()[-1])
        digests.add(found["digest"])
        print(
            f"{count} {kind}: {found['seconds']:.1f} s, {images / found['seconds']:,.0f} images per second", flush=True
        )
    if len(digests) > 1:
        raise SystemExit("the datasets differ")


@contextmanager
def ray_nodes(count: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables for a cluster of nodes of one CPU each; none without nodes."""
    if not count:
        yield {}
        return
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        for _ in range(count):
            nodes.add_node(num_cpus=1, object_store_memory=500_000_000)
        yield {"PIPELINE_RAY": nodes.address}
    finally:
        nodes.shutdown()


@app.command(hidden=True)
def stage(count: int, photos: ZIP = None) -> None:
    """Run the stage once in the current folder, and print its time, its memory and a hash of the dataset as JSON."""
    from pipeline.augment.stage import augment

    repeat_photos(photo_files(photos, Path("photos"), min(count, 100)), count)
    with watch_memory() as peak:
        seconds = _seconds(lambda: augment(views_params(0), 0, on_bad_image="error", on_leak="warn"))
    digest = hashlib.blake2b()
    for path in sorted(DATASET.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    print(json.dumps({"seconds": seconds, "peak": peak.bytes, "digest": digest.hexdigest()}))


@app.command()
def quality(photos: ZIP = None, images: int = 300) -> None:
    """Print PSNR and mean absolute difference of the resized copies, median and worst over the photos."""
    from PIL import Image
    from torchvision import transforms

    resize = plain_copy(views_params(0))
    usual = transforms.Resize((IMAGE_SIZE, IMAGE_SIZE))
    compared: dict[str, list[tuple[float, float]]] = {"reduced decode": [], "another library": []}
    with tempfile.TemporaryDirectory() as folder:
        for photo in photo_files(photos, Path(folder), images)[:images]:
            content = photo.read_bytes()
            full = resize(decode(content))
            pillow = np.asarray(usual(Image.open(io.BytesIO(content)).convert("RGB")))
            reduced = resize(decode(content, PLAIN_LEAST))
            compared["reduced decode"].append(_difference(full, reduced))
            compared["another library"].append(_difference(full, pillow))
    for what, pairs in compared.items():
        psnr, mean = np.array(pairs).T
        print(
            f"{what:16} PSNR {np.median(psnr):.1f} dB (worst {psnr.min():.1f}), "
            f"mean difference {np.median(mean):.2f} of 255 (worst {mean.max():.2f})"
        )


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    difference = one.astype(float) - other.astype(float)
    return 10 * np.log10(255**2 / max(float((difference**2).mean()), 1e-9)), float(np.abs(difference).mean())


if __name__ == "__main__":
    app()
