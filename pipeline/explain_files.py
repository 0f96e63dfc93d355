"""``python -m pipeline explain PATH…``: pictures of any images with what speaks for their class.

It is no part of the stage ``explain``, which needs neither files of images nor pictures.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.common.file_types import reasons
from pipeline.common.text import shown_name, similar
from pipeline.errors import PipelineError
from pipeline.explain.saliency import Saliency, as_maps
from pipeline.network.device import forward_batch_size
from pipeline.network.inference import PixelClassifier
from pipeline.plots.fonts import shortened
from pipeline.plots.style import saved_figure
from pipeline.predict.files import (
    MAX_BATCH_SIZE,
    batches,
    decode_ahead,
    find_images,
    load_models,
    read_file,
    refuse_failures,
)
from pipeline.progress import progress, say

# How much of the photo the strongest part of a map covers.
OPACITY = 0.6


def explain_paths(
    paths: Sequence[Path], model_file: Path, output: Path, class_name: str | None = None, method: str = "grad_cam"
) -> None:
    """Write a picture for each image: as the network sees it, with the map over it, the class and its probability.

    Args:
        paths: image files with any extension, and folders, of which all images are explained.
        model_file: the weights file.
        output: the folder of the pictures.
        class_name: the class to explain; None explains the predicted class of each image.
        method: ``grad_cam`` or ``occlusion``.

    Raises:
        PipelineError: the model cannot be read, it has no such class, ``output`` is not a folder or has images to
            explain, a probability is not finite, or, after the others are written, for each file that cannot be read.
    """
    if output.exists() and not output.is_dir():
        raise PipelineError(f"--output: {output} is a file, allowed is a folder; choose another name")
    if model_file.suffix.lower() == ".onnx":
        raise PipelineError(f"{model_file}: an ONNX file has no gradients; name the weights file, model.safetensors")
    files, failures, left_out = find_images(paths)
    if left_out:
        say(f"explain: left out {len(left_out):,} other files: {reasons(left_out)}")
    files = _outside(files, paths, output)
    ((network, spec),) = load_models([model_file])
    chosen = None if class_name is None else _index_of(class_name, spec.classes)
    saliency = Saliency(network.model, spec, method)
    if saliency.layer:
        say(f"explain: {method} of {saliency.layer}, {saliency.side}×{saliency.side} cells")
    size = forward_batch_size(network.scale.device, spec.image_size, MAX_BATCH_SIZE)
    names = picture_names(files)
    rows = []
    decoded = progress(decode_ahead(files, read_file, [spec], None, 0, 2 * size), len(files), "explain")
    for batch in batches(zip(files, decoded, strict=True), size, failures):
        found = explain_pixels(network, saliency, np.stack([photo[0][0] for _, photo in batch]), chosen)
        for (file, photo), cells, index, probability in zip(batch, *found, strict=True):
            title = f"{spec.classes[index]} {probability:.1%}"
            draw_explanation(output / names[file], photo[0][0], cells, title, file.name)
            note = "" if cells.any() else ", the map is empty: no part speaks for the class"
            rows.append(f"{shown_name(file)}: {shown_name(title)}, {output / names[file]}{note}")
    say("\n".join(rows))
    refuse_failures(failures, len(rows), "explain", "explained")


def _outside(files: Sequence[Path], paths: Sequence[Path], output: Path) -> list[Path]:
    """The files without the pictures of an earlier run that a folder in ``paths`` contains."""
    here = output.resolve()
    outside = [file for file in files if file.resolve().parent != here]
    if inside := len(files) - len(outside):
        if not outside or any(here in (path.resolve(), path.resolve().parent) for path in paths):
            raise PipelineError(f"--output: {output} has images to explain, which pictures could replace; use another")
        say(f"explain: left out {inside:,} images in {output}, the folder of the pictures")
    return outside


def _index_of(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise PipelineError(f"--class: got {name!r}, no class of the model; some of these are {similar(name, classes)}")
    return classes.index(name)


def picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """The name of the picture of each file: its own with the ending png, and a number if several files have it."""
    names: dict[Path, str] = {}
    used: set[str] = set()
    # Some file systems do not distinguish upper and lower case.
    numbers: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    for file in files:
        candidates = (f"{file.stem}{f'-{n}' if n > 1 else ''}.png" for n in numbers[file.stem.casefold()])
        names[file] = next(name for name in candidates if name.casefold() not in used)
        used.add(names[file].casefold())
    return names


def explain_pixels(
    network: PixelClassifier, saliency: Saliency, pixels: NDArray[np.uint8], chosen: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
    """The maps of RGB images ``(n, size, size, 3)``, the index of the class of each map, and its probability.

    Args:
        network: the network with its normalisation.
        saliency: the method, for the same network.
        pixels: ``uint8``.
        chosen: the index of the class to explain; None explains the predicted class of each image.

    Raises:
        PipelineError: a probability or a map is not finite.
    """
    images = torch.from_numpy(pixels).to(network.scale.device)
    with torch.no_grad():
        probabilities, _ = network(images)
        classes = probabilities.argmax(1) if chosen is None else torch.full((len(images),), chosen).to(images.device)
        values = saliency.attribute(network.normalise(images), classes).cpu().numpy()
    of_class = probabilities.gather(1, classes[:, None])[:, 0].cpu().numpy()
    if not (np.isfinite(values).all() and np.isfinite(of_class).all()):
        raise PipelineError("explain: a probability or a gradient is NaN or infinite; name a model of another training")
    return as_maps(values), classes.cpu().numpy(), of_class


def overlaid(image: NDArray[np.uint8], cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image ``(size, size, 3)`` with a map ``(side, side)`` over it, the more opaque the larger its values are."""
    size = (image.shape[1], image.shape[0])
    strength = cv2.resize(cells.astype(np.float32) / 255, size, interpolation=cv2.INTER_LINEAR).clip(0, 1)[..., None]
    colours = matplotlib.colormaps["jet"](strength[..., 0])[..., :3] * 255
    mixed: NDArray[np.uint8] = np.rint(image + OPACITY * strength * (colours - image)).astype(np.uint8)
    return mixed


def draw_explanation(path: Path, image: NDArray[np.uint8], cells: NDArray[np.uint8], title: str, name: str) -> None:
    """Draw the image, and beside it the image with its map."""
    with saved_figure(path, 7, 3.9, [title, name]) as figure:
        figure.suptitle(f"{shortened(title, 60)}\n{shortened(name, 70)}", fontsize=10)
        for axis, picture in zip(figure.subplots(1, 2), (image, overlaid(image, cells)), strict=True):
            axis.imshow(picture, interpolation="bicubic" if len(picture) >= 96 else "nearest")
            axis.set_axis_off()
