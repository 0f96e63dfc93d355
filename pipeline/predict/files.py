"""Predicting image files with one or several weights files, which contain everything that is needed."""

import os
import stat
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.file_types import HEAD, IMAGE_ENDINGS, LARGEST_FILE, is_image, junk_reason, other_reason, reasons
from pipeline.common.paths import MODEL, PARAMS
from pipeline.common.runs import RUN, copy_output
from pipeline.common.text import listed, shown_name
from pipeline.errors import PipelineError
from pipeline.images.decoding import one_large_image, photo_for_views, plain_photo
from pipeline.images.transforms import augmented_view, plain_copy, view_seed
from pipeline.machine import worker_count
from pipeline.network.answers import choose_answers, class_thresholds
from pipeline.network.calibrating import energies
from pipeline.network.device import choose_device, forward_batch_size
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec
from pipeline.network.onnx_file import open_onnx
from pipeline.network.tta import METHODS, variants
from pipeline.network.weights import load_model
from pipeline.params.file import load_params
from pipeline.params.schema import AugmentParams
from pipeline.predict.onnx_network import OnnxNetwork, spec_of
from pipeline.predict.table import Predictions, print_table, require_csv, write_csv
from pipeline.progress import progress, say

# With larger batches, the first result would wait longer.
MAX_BATCH_SIZE = 64
MOST_VIEWS = 64
SMALLEST = torch.finfo(torch.float32).tiny
# For each kind of input of the models, ``uint8``, ``(copies, size, size, 3)``.
Photo = list[NDArray[np.uint8]]
# A file, or an image of an archive.
Image = TypeVar("Image")


def predict_paths(
    paths: Sequence[Path],
    model_files: Sequence[Path],
    output: Path | None,
    top: int,
    tta: str = "none",
    abstain: float | None = None,
    precision: float | None = None,
) -> None:
    """Predict files and folders; print a table, or write a CSV file.

    Args:
        paths: image files with any extension, and folders, of which all images are predicted.
        model_files: as for ``load_models``; of several, the mean of the probabilities is used.
        output: the CSV file; None prints the table.
        top: number of classes per image in the table.
        tta: test-time augmentation: one of ``METHODS``, or the number of augmented views to average with the image.
        abstain, precision: below which probability the answer is ``unsure``; see ``class_thresholds``.

    Raises:
        PipelineError: a model is missing or does not fit the others, ``output`` is not a CSV file, a probability is
            not finite, or, after the others are predicted and written, for each file that cannot be read.
    """
    require_csv("--output", output)
    files, failures, left_out = find_images(paths)
    if left_out:
        say(f"predict: left out {len(left_out):,} other files: {reasons(left_out)}")
    models = load_models(model_files)
    specs = [spec for _, spec in models]
    thresholds = class_thresholds(specs, abstain, precision, "--")
    method, views, seed = read_tta(tta)
    # Only the table goes into a pipe; a progress bar is printed to stderr.
    found = predict_files(files, models, views, seed, output is None and not sys.stderr.isatty(), method)
    _refuse_not_finite(found, model_files)
    if found.paths:
        answers = choose_answers(specs, found.probabilities, found.energies, thresholds)
        if output is not None:
            write_csv(output, found, answers)
        else:
            print_table(found, answers, top)
        where = f", written to {output}" if output is not None else ""
        count = f"{len(found.paths):,} image{'s' if len(found.paths) > 1 else ''}"
        rate = f"{len(found.paths) / found.seconds:,.0f} images per second"
        say(f"predict: {count} in {found.seconds:.2f} s, {rate}{answers.summary()}{where}")
    failures |= found.failures
    refuse_failures(failures, len(found.paths), "predict", "predicted")


def refuse_failures(failures: dict[Path, str], others: int, command: str, done: str) -> None:
    """Raise the error that names each file which could not be read, if there are any, after the ``others`` are done."""
    lines = [f"{shown_name(path)}: {reason}" for path, reason in failures.items()]
    if len(lines) > 1:
        count = f"{len(failures):,} of {len(failures) + others:,} could not be {done}"
        lines = [f"{command}: {count}", *lines]
    if lines:
        raise PipelineError("\n".join(lines))


def _refuse_not_finite(found: Predictions, model_files: Sequence[Path]) -> None:
    bad = np.flatnonzero(~np.isfinite(found.probabilities).all(axis=1))
    if len(bad):
        raise PipelineError(
            f"{listed(map(shown_name, model_files))}: its probabilities are NaN or infinite for {len(bad):,} of "
            f"{len(found.paths):,} images, such as {shown_name(found.paths[bad[0]])}; name a model of another training"
        )


def find_images(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str], dict[str, str]]:
    """List the files to predict, each once, and the reasons for each path without any and for each file left out.

    In a folder and its subfolders, images are recognised by their extension or their first bytes; hidden files and
    links to folders are left out.
    """
    left_out: dict[str, str] = {}
    files: dict[str, Path] = {}
    failures: dict[Path, str] = {}
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            failures[path] = error.strerror or str(error)
            continue
        found = _images_below(path, failures, left_out) if is_folder else [path]
        for file in found:
            files.setdefault(os.path.abspath(file), file)  # noqa: PTH100  (resolve() would follow links)
        if not found and path not in failures:
            failures[path] = f"contains no images; allowed extensions are {', '.join(sorted(IMAGE_ENDINGS))}"
    return list(files.values()), failures, left_out


def _images_below(root: Path, failures: dict[Path, str], left_out: dict[str, str]) -> list[Path]:
    def add_failure(error: OSError) -> None:
        failures[Path(error.filename)] = error.strerror or str(error)

    found = []
    for folder, folders, names in os.walk(root, onerror=add_failure):
        links = [Path(folder) / name for name in folders if (Path(folder) / name).is_symlink()]
        left_out |= {str(link): "a link to a folder" for link in links}
        for file in (Path(folder) / name for name in names):
            reason = _other_reason(file, file.relative_to(root).as_posix())
            if reason is None:
                found.append(file)
            else:
                left_out[str(file)] = reason
    return sorted(found)


def _other_reason(file: Path, path: str) -> str | None:
    """Why a file of a folder is not an image, by its path in the folder or its first bytes; None if it is."""
    reason = junk_reason(path)
    if reason is not None or is_image(path):
        return reason
    try:
        if not file.is_file():
            return "not a regular file"
        with file.open("rb") as opened:
            return other_reason(path, opened.read(HEAD))
    except OSError as error:
        return error.strerror or str(error)


def load_models(paths: Sequence[Path]) -> list[tuple[PixelClassifier, ModelSpec]]:
    """Load weights files, ONNX files, and the models of earlier runs (``run:NAME``), with the same classes to the
    device.

    Raises:
        PipelineError: there is no such file or run, it cannot be read, or the classes differ.
    """
    device = choose_device()
    models = [(classifier.to(device).eval(), spec) for classifier, spec in map(_open_model, paths)]
    first = models[0][1].classes
    for path, (_, spec) in zip(paths, models, strict=True):
        if spec.classes != first:
            raise PipelineError(
                f"{path}: its classes are {listed(spec.classes)}, those of {paths[0]} are {listed(first)}; models of "
                "an ensemble need the same classes in the same order: leave one out"
            )
    return models


def _open_model(path: Path) -> tuple[PixelClassifier, ModelSpec]:
    if is_run(path):
        with TemporaryDirectory() as folder:
            copy = copy_output(str(path), MODEL, Path(folder), "--model")
            try:
                network, spec = load_model(copy)
            except PipelineError as error:
                raise PipelineError(str(error).replace(str(copy), f"{path}: {MODEL}")) from None
        return PixelClassifier(network, spec), spec
    if path.is_dir():
        raise PipelineError(f"{path}: is a folder, allowed is a weights file, such as {path / 'model.safetensors'}")
    if not path.suffix and not path.exists():
        raise PipelineError(f"{path}: no such file; the model of an experiment, a branch or a commit is {RUN}{path}")
    if path.suffix.lower() == ".onnx":
        model = open_onnx(path, worker_count())
        return OnnxNetwork(model), spec_of(model)
    network, spec = load_model(path)
    return PixelClassifier(network, spec), spec


def is_run(path: Path) -> bool:
    """Whether a value of ``--model`` is ``run:NAME``."""
    return str(path).startswith(RUN)


def read_tta(tta: str) -> tuple[str, AugmentParams | None, int]:
    """The method of ``METHODS`` that the option ``--tta`` names; or ``none``, and the augmented views and their seed.

    Raises:
        PipelineError: it is neither a method nor a number of views.
    """
    is_count = tta.isascii() and tta.isdigit() and 1 <= int(tta) <= MOST_VIEWS
    if tta not in METHODS and not is_count:
        only = "; auto and views need a dataset: set predict.tta in params.yaml" if tta in ("auto", "views") else ""
        methods = ", ".join(METHODS)
        raise PipelineError(
            f"--tta: got {tta!r}, allowed are {methods}, or a number of augmented views, 1 to {MOST_VIEWS}{only}"
        )
    if tta != "none":
        say(f"predict: note: test-time augmentation (--tta {tta}) uses the calibration and thresholds of single images")
    return ("none", *choose_views(int(tta))) if is_count else (tta, None, 0)


def choose_views(count: int) -> tuple[AugmentParams, int]:
    """Parameters and seed of test-time augmentation: those of ``params.yaml``, or the preset light; say which.

    Raises:
        PipelineError: ``params.yaml`` exists and is invalid.
    """
    views = AugmentParams(
        image_size=32,
        resize="stretch",
        interpolation="area",
        store_size=None,
        views=count,
        test_views=0,
        preset="light",
        transforms=(),
    )
    seed, reason = 0, f"no {PARAMS} in this folder"
    if PARAMS.exists():
        params = load_params(PARAMS)
        seed, reason = params.seed, f"{PARAMS} has no transforms"
        if params.augment.preset != "none" or params.augment.transforms:
            views, reason = params.augment.model_copy(update={"views": count}), f"from {PARAMS}"
    transforms = f"preset {views.preset} and {len(views.transforms)} transforms ({reason})"
    say(f"predict: {count} augmented views per image, {transforms}")
    return views, seed


def predict_files(
    files: Sequence[Path],
    models: Sequence[tuple[PixelClassifier, ModelSpec]],
    views: AugmentParams | None = None,
    seed: int = 0,
    quiet: bool = False,
    method: str = "none",
) -> Predictions:
    """Predict files batch by batch, while threads decode the next ones.

    Args:
        files: the image files.
        models: from ``load_models``; the mean of their probabilities is used.
        views: augmented views that are averaged with the plain image; their image size is that of the network.
        seed: together with a file's name and a view's number, it is the seed of a view.
        quiet: show no progress.
        method: of the variants of each image and view that are averaged.

    Raises:
        PipelineError: a transform of the views is invalid.
    """
    predicted: list[Path] = []
    failures: dict[Path, str] = {}
    classes = models[0][1].classes
    rows = [np.empty((0, len(classes) + 1), np.float32)]
    start = time.perf_counter()
    for batch, outputs in member_outputs(files, read_file, models, views, seed, failures, quiet, method):
        predicted += batch
        rows.append(outputs.mean(axis=0))
    seconds = time.perf_counter() - start
    probabilities, energies = np.split(np.concatenate(rows), [len(classes)], axis=1)
    return Predictions(classes, predicted, probabilities, energies[:, 0].astype(np.float64), failures, seconds)


def member_outputs(
    images: Sequence[Image],
    read: Callable[[Image], tuple[str, bytes]],
    models: Sequence[tuple[PixelClassifier, ModelSpec]],
    views: AugmentParams | None,
    seed: int,
    failures: dict[Image, str],
    quiet: bool = False,
    method: str = "none",
) -> Iterator[tuple[list[Image], NDArray[np.float32]]]:
    """Yield batches of images with the outputs of each model, while threads decode the next ones.

    Args:
        images: what ``read`` takes; it returns a name, which is part of the seed of a view, and the content.
        models, views, seed, quiet, method: as for ``predict_files``.
        failures: the reason for each image that cannot be decoded is added to it.

    Yields:
        The images, and probabilities and energy score by each model, of the mean over the image, its views and the
        variants of these, ``float32``, ``(models, images, classes + 1)``.

    Raises:
        PipelineError: a transform of the views is invalid.
    """
    # Models with the same input share the decoding.
    specs = {_input(spec): spec for _, spec in models}
    for spec in specs.values():
        _make_reader(spec, views, seed)  # report an invalid transform once, not from every thread
    largest = max(spec.image_size for spec in specs.values())
    batch_size = forward_batch_size(models[0][0].scale.device, largest, MAX_BATCH_SIZE)
    decoded = decode_ahead(images, read, list(specs.values()), views, seed, 2 * batch_size)
    photos = progress(decoded, len(images), "predict", quiet=quiet)
    for batch in batches(zip(images, photos, strict=True), batch_size, failures):
        arrays = (np.stack(copies) for copies in zip(*(photo for _, photo in batch), strict=True))
        yield [image for image, _ in batch], _outputs(dict(zip(specs, arrays, strict=True)), models, method)


def _input(spec: ModelSpec) -> tuple[int, str, str]:
    """What the pixels depend on."""
    return spec.image_size, spec.resize, spec.interpolation


def read_file(file: Path) -> tuple[str, bytes]:
    """The name and the content of a file of an image.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or too large.
    """
    if not file.is_file():
        raise ValueError("not a regular file")
    # A file of zeros can be larger than the memory without taking up any space.
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"has {size:,} bytes, allowed are {LARGEST_FILE:,}")
    return file.name, file.read_bytes()


def decode_ahead(
    images: Sequence[Image],
    read: Callable[[Image], tuple[str, bytes]],
    specs: Sequence[ModelSpec],
    views: AugmentParams | None,
    seed: int,
    ahead: int,
) -> Iterator[Photo | str]:
    """Yield the photo of each image, read and decoded by threads, or the reason why it cannot be decoded."""
    local, lock, workers = threading.local(), threading.Lock(), worker_count()
    # Transforms have a state, so every thread has its own. They are made here, since making them turns warnings into
    # errors for all threads.
    readers = [[_make_reader(spec, views, seed) for spec in specs] for _ in range(workers)]

    def start() -> None:
        local.readers = readers.pop()

    def decode(image: Image) -> Photo | str:
        try:
            name, content = read(image)
            with one_large_image(lock):
                return [reader(content, name) for reader in local.readers]
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:
            return str(error)

    pool = ThreadPoolExecutor(workers, initializer=start)
    # The filters are shared by all threads, so they are set once around them.
    with warnings.catch_warnings(action="ignore"):
        try:
            queue: deque[Future[Photo | str]] = deque()
            for image in images:
                queue.append(pool.submit(decode, image))
                if len(queue) > ahead + workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _make_reader(spec: ModelSpec, views: AugmentParams | None, seed: int) -> Callable[[bytes, str], NDArray[np.uint8]]:
    """Return a function from a file's content and name to its plain copy and views, the same as the stage augment."""
    size, plain = spec.image_size, plain_copy(spec)
    if views is None:
        return lambda content, name: plain(plain_photo(content, size))[None]
    same = {"image_size": size, "resize": spec.resize, "interpolation": spec.interpolation}
    draw = augmented_view(views.model_copy(update=same))

    def read(content: bytes, name: str) -> NDArray[np.uint8]:
        photo = plain_photo(content, size)
        detailed = photo_for_views(content, size, photo)
        seeds = (view_seed(seed, name, number) for number in range(1, views.views + 1))
        return np.stack([plain(photo), *(draw(detailed, view) for view in seeds)])

    return read


def batches(
    photos: Iterable[tuple[Image, Photo | str]], size: int, failures: dict[Image, str]
) -> Iterator[list[tuple[Image, Photo]]]:
    """Group the decoded images into batches; reasons why others could not be decoded are added to ``failures``."""
    batch: list[tuple[Image, Photo]] = []
    for image, photo in photos:
        if isinstance(photo, str):
            failures[image] = photo
            continue
        batch.append((image, photo))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.inference_mode()
def _outputs(
    pixels: dict[tuple[int, str, str], NDArray[np.uint8]],
    models: Sequence[tuple[PixelClassifier, ModelSpec]],
    method: str,
) -> NDArray[np.float32]:
    """Probabilities and energy score by each model, ``(models, n, classes + 1)``; ``pixels`` are ``uint8``,
    ``(n, copies, size, size, 3)``."""
    outputs = []
    for network, spec in models:
        images = torch.from_numpy(pixels[_input(spec)]).to(network.scale.device)
        probabilities, logits = _mean_variants(network, images, method)
        outputs.append(np.column_stack([probabilities.cpu().numpy(), energies(logits.cpu().numpy())]))
    return np.stack(outputs).astype(np.float32)


def _mean_variants(network: PixelClassifier, images: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Probabilities and logits, averaged over copies and their variants as the stages average them: by the mean of the
    logits, so the geometric mean of the probabilities, since an ONNX file does not tell its temperature."""
    copies = (copy.permute(0, 3, 1, 2) for copy in images.unbind(1))
    shown = (variant.permute(0, 2, 3, 1) for copy in copies for variant in variants(copy.float(), method))
    probabilities, logits = (torch.stack(outputs) for outputs in zip(*map(network, shown), strict=True))
    if len(logits) == 1:
        return probabilities[0], logits[0]
    return probabilities.clamp(min=SMALLEST).log().mean(0).softmax(1), logits.mean(0)
