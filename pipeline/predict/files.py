"""Predicting image files with one or several weights files: all that is needed is in them, not in ``params.yaml``."""

import os
import stat
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.common.file_types import IMAGE_ENDINGS, is_image, is_junk
from pipeline.common.paths import PARAMS
from pipeline.errors import PipelineError, listed, shown_name
from pipeline.images.decoding import photo_for_views, plain_photo
from pipeline.images.transforms import augmented_view, plain_copy, view_seed
from pipeline.machine import worker_count
from pipeline.network.device import choose_device, forward_batch_size
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec
from pipeline.network.weights import load_model
from pipeline.params.file import load_params
from pipeline.params.schema import AugmentParams, Preset, Transform
from pipeline.predict.table import Predictions, print_table, write_csv
from pipeline.progress import progress, say


def find_images(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """List the files to predict, each once, and for each path that gives none, why not.

    Of a folder all files are taken that end like an image, in folders within it, too; hidden ones are passed over,
    and so are links to folders.
    """
    files: dict[str, Path] = {}
    failures: dict[Path, str] = {}
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            failures[path] = error.strerror or str(error)
            continue
        found = _images_below(path, failures) if is_folder else [path]
        for file in found:
            files.setdefault(os.path.abspath(file), file)  # noqa: PTH100  (resolve() would follow links)
        if not found and path not in failures:
            failures[path] = f"holds no images; allowed endings are {', '.join(sorted(IMAGE_ENDINGS))}"
    return list(files.values()), failures


def _images_below(root: Path, failures: dict[Path, str]) -> list[Path]:
    def note(error: OSError) -> None:
        failures[Path(error.filename)] = error.strerror or str(error)

    found = []
    for folder, _, names in os.walk(root, onerror=note):
        files = (Path(folder) / name for name in names)
        found += [file for file in files if is_image(file.name) and not is_junk(file.relative_to(root).as_posix())]
    return sorted(found)


# More would only make the first result wait for more files to be decoded.
MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Views:
    """What test-time augmentation draws beside the plain image.

    Attributes:
        params: ``views``, ``preset`` and ``transforms`` count; the image's size is the network's.
        seed: with a file's name and a view's number it makes the seed of a view.
    """

    params: AugmentParams
    seed: int


def predict_paths(paths: Sequence[Path], model_files: Sequence[Path], output: Path | None, top: int, tta: int) -> None:
    """Predict files and folders; print a table, or write a CSV.

    Args:
        paths: image files, whatever their ending, and folders, of which all images are taken.
        model_files: weights files; of several the mean of the probabilities counts.
        output: the CSV file; None prints the table.
        top: how many classes the table shows for an image.
        tta: how many views of an image are predicted beside the plain one, and averaged; 0 for none.

    Raises:
        PipelineError: a model is missing or does not fit the others, ``output`` cannot be, or, after the others are
            predicted and written, for each file that cannot be read.
    """
    if output is not None and (output.suffix.lower() != ".csv" or output.is_dir()):
        raise PipelineError(f"--output: got {str(output)!r}, allowed is the name of a file that ends in .csv")
    files, failures = find_images(paths)
    models = load_models(model_files)
    views = choose_views(tta) if tta else None
    # Into a pipe goes the table alone; a bar on stderr does no harm.
    quiet = output is None and not sys.stderr.isatty()
    found = predict_files(files, models, views, quiet)
    if found.paths:
        if output is not None:
            write_csv(output, found)
        else:
            print_table(found, top)
        _say_rate(found, output)
    failures |= found.failures
    if failures:
        count = f"{len(failures):,} of {len(failures) + len(found.paths):,} could not be predicted"
        lines = [f"{shown_name(path)}: {reason}" for path, reason in failures.items()]
        raise PipelineError("\n".join(lines if len(lines) == 1 else [f"predict: {count}", *lines]))


def _say_rate(found: Predictions, output: Path | None) -> None:
    where = f", written to {output}" if output is not None else ""
    count = f"{len(found.paths):,} image{'s' if len(found.paths) > 1 else ''}"
    rate = f"{len(found.paths) / found.seconds:,.0f} images a second"
    say(f"predict: {count} in {found.seconds:.2f} s, {rate}{where}")


def load_models(paths: Sequence[Path]) -> list[tuple[PixelClassifier, ModelSpec]]:
    """Open weights files of the same classes, on the device.

    Raises:
        PipelineError: one cannot be read, or the classes differ.
    """
    device = choose_device()
    models = []
    for path in paths:
        if path.is_dir():
            raise PipelineError(f"{path}: is a folder, allowed is a weights file, such as {path / 'model.safetensors'}")
        network, spec = load_model(path)
        models.append((PixelClassifier(network, spec).to(device).eval(), spec))
    first = models[0][1].classes
    for path, (_, spec) in zip(paths, models, strict=True):
        if spec.classes != first:
            raise PipelineError(
                f"{path}: its classes are {listed(spec.classes)}, those of {paths[0]} are {listed(first)}; models that "
                "predict together need the same classes in the same order: leave one out"
            )
    return models


def choose_views(count: int) -> Views:
    """What test-time augmentation draws: views as ``params.yaml`` has them, or the preset light; says which.

    Raises:
        PipelineError: ``params.yaml`` is there and wrong.
    """
    preset: Preset = "light"
    transforms: tuple[Transform, ...] = ()
    seed, why = 0, f"no {PARAMS} here"
    if PARAMS.exists():
        params = load_params(PARAMS)
        seed, why = params.seed, f"{PARAMS} names no transforms"
        if params.augment.preset != "none" or params.augment.transforms:
            preset, transforms, why = params.augment.preset, params.augment.transforms, f"as in {PARAMS}"
    say(f"predict: {count} views beside the plain image, preset {preset} and {len(transforms)} transforms ({why})")
    augment = AugmentParams(
        image_size=32, resize="stretch", views=count, test_views=0, preset=preset, transforms=transforms
    )
    return Views(augment, seed)


def predict_files(
    files: Sequence[Path],
    models: Sequence[tuple[PixelClassifier, ModelSpec]],
    views: Views | None = None,
    quiet: bool = False,
) -> Predictions:
    """Decode files in threads and predict them batch by batch, while the next ones are being decoded.

    Args:
        files: the image files.
        models: as ``load_models`` gives them; the mean of their probabilities counts.
        views: what to average over beside the plain image.
        quiet: show no progress.

    Raises:
        PipelineError: a transform of the views is wrong.
    """
    # Models that see the same pixels share the decoding.
    sizes = list(dict.fromkeys((spec.image_size, spec.resize) for _, spec in models))
    batch_size = forward_batch_size(models[0][0].scale.device, max(size for size, _ in sizes), MOST_AT_ONCE)
    known: list[Path] = []
    failures: dict[Path, str] = {}
    rows = [np.empty((0, len(models[0][1].classes)), np.float32)]
    start = time.perf_counter()
    # Set once around all threads: each of them sets and resets the filters, which they share.
    with warnings.catch_warnings(action="ignore"):
        photos = progress(_read_ahead(files, sizes, views, 2 * batch_size), len(files), "predict", quiet=quiet)
        for batch in _batches(zip(files, photos, strict=True), batch_size, failures):
            known += [file for file, _ in batch]
            arrays = [np.stack(arrays) for arrays in zip(*(photo for _, photo in batch), strict=True)]
            rows.append(_mean_probabilities(dict(zip(sizes, arrays, strict=True)), models))
    return Predictions(models[0][1].classes, known, np.concatenate(rows), failures, time.perf_counter() - start)


Photo = list[NDArray[np.uint8]]


def _read_ahead(
    files: Sequence[Path], sizes: Sequence[tuple[int, str]], views: Views | None, ahead: int
) -> Iterator[Photo | str]:
    """Give each file's copies, for each of ``sizes`` ``uint8`` ``(copies, size, size, 3)``, or why it has none."""
    local = threading.local()

    def read(file: Path) -> Photo | str:
        # The transforms hold a state, so every thread has its own.
        if not hasattr(local, "readers"):
            local.readers = [_make_reader(size, resize, views) for size, resize in sizes]
        try:
            if not file.is_file():
                return "is no plain file"
            content = file.read_bytes()
            return [reader(content, file.name) for reader in local.readers]
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:
            return str(error)

    workers = worker_count()
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Photo | str]] = deque()
        for file in files:
            waiting.append(pool.submit(read, file))
            if len(waiting) > ahead + workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Square:
    image_size: int
    resize: str


def _make_reader(size: int, resize: str, views: Views | None) -> Callable[[bytes, str], NDArray[np.uint8]]:
    """Make the function from a file's bytes and name to its plain copy and views, just as ``augment`` makes them."""
    plain = plain_copy(_Square(size, resize))
    if views is None:
        return lambda content, name: plain(plain_photo(content, size))[None]
    draw = augmented_view(views.params.model_copy(update={"image_size": size, "resize": resize}))
    numbers = range(1, views.params.views + 1)

    def read(content: bytes, name: str) -> NDArray[np.uint8]:
        photo = plain_photo(content, size)
        detailed = photo_for_views(content, size, photo)
        drawn = (draw(detailed, view_seed(views.seed, name, number)) for number in numbers)
        return np.stack([plain(photo), *drawn])

    return read


def _batches(
    photos: Iterable[tuple[Path, Photo | str]], size: int, failures: dict[Path, str]
) -> Iterator[list[tuple[Path, Photo]]]:
    """Gather the readable files; why the others are none is noted in ``failures``."""
    batch: list[tuple[Path, Photo]] = []
    for file, photo in photos:
        if isinstance(photo, str):
            failures[file] = photo
            continue
        batch.append((file, photo))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.inference_mode()
def _mean_probabilities(
    pixels: dict[tuple[int, str], NDArray[np.uint8]], models: Sequence[tuple[PixelClassifier, ModelSpec]]
) -> NDArray[np.float32]:
    """Average over models and copies; ``pixels`` are ``uint8``, ``(n, copies, size, size, 3)``."""
    of_each = []
    for network, spec in models:
        images = torch.from_numpy(pixels[spec.image_size, spec.resize]).to(network.scale.device)
        of_each += [network(copy)[0] for copy in images.unbind(1)]
    return torch.stack(of_each).mean(0).cpu().numpy()
