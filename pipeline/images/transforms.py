"""Plain copies, and the albumentations transforms that make augmented views."""

import hashlib
import importlib
import inspect
import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.common.text import one_line, shortened
from pipeline.errors import PipelineError
from pipeline.images.decoding import GREY
from pipeline.params.schema import AugmentParams, Transform
from pipeline.processes import become_worker


def _import_albumentations() -> ModuleType:
    """Import albumentations without torch, which it needs only for conversions to tensors: this saves two seconds in
    each command, and memory in each worker."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise the import looks for a newer release online
    hide_torch = "torch" not in sys.modules
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("albumentations")
    finally:
        if hide_torch:
            del sys.modules["torch"]


albumentations = _import_albumentations()
# The worker processes already use all cores.
cv2.setNumThreads(1)
Pixels = NDArray[np.uint8]

# A thin picture is enlarged before it is cropped, 1×1,000,000 pixels to 32×32,000,000, which are 3 GB. So the far ends
# of a picture are cut off that would have more pixels than this with a short side of image_size.
RESIZED_PIXELS = 16 * 1024**2

# A transform is tried on images of these heights and widths. The last one is for transforms that need a larger image
# than the others, such as a crop.
TRIED_SIZES = ((48, 64), (480, 640), (4500, 6000))
# What a trial may use: memory, seconds of the CPU, and seconds if it only waits. Its process is killed at the limits.
TRIAL_BYTES, TRIAL_SECONDS, TRIAL_WAIT = 2**31, 5, 60
MEMORY_IN_USE = Path("/proc/self/statm")  # of Linux; elsewhere the memory has no limit
# How many pixels a transform may return, unless it returns no more than it gets.
MOST_PIXELS = 100_000_000
_TOO_MUCH = (
    f"needs more than {TRIAL_BYTES / 2**30:.0f} GiB of memory or {TRIAL_SECONDS} seconds for an image of "
    f"{TRIED_SIZES[1][1]}×{TRIED_SIZES[1][0]} pixels; choose smaller arguments"
)
# Transforms that need more than the image, and what; those of Transform3D need a volume.
_NEEDS = {
    **dict.fromkeys(("ConstrainedCoarseDropout", "CropNonEmptyMaskIfExists", "MaskDropout"), "a mask"),
    **dict.fromkeys(("AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop"), "boxes"),
    **dict.fromkeys(("RandomCropNearBBox", "RandomSizedBBoxSafeCrop"), "boxes"),
    **dict.fromkeys(("FDA", "HistogramMatching", "Mosaic", "PixelDistributionAdaptation"), "other images"),
    **{"OverlayElements": "other images", "TextImage": "texts", "Lambda": "functions of Python"},
}

# The crop comes first, so that the others change fewer pixels. border_mode 4 fills uncovered borders by reflection.
PRESETS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "light": [
        {"name": "RandomResizedCrop", "scale": [0.7, 1.0], "ratio": [0.85, 1.18]},
        {"name": "HorizontalFlip", "p": 0.5},
    ],
    "medium": [
        {"name": "RandomResizedCrop", "scale": [0.5, 1.0]},
        {"name": "HorizontalFlip", "p": 0.5},
        {"name": "Rotate", "limit": [-15, 15], "border_mode": 4, "p": 0.5},
        {"name": "ColorJitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.03, "p": 0.8},
    ],
    "strong": [
        {"name": "RandomResizedCrop", "scale": [0.25, 1.0]},
        {"name": "HorizontalFlip", "p": 0.5},
        {"name": "Affine", "rotate": [-25, 25], "shear": [-10, 10], "border_mode": 4, "p": 0.7},
        {"name": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.06, "p": 0.8},
        {"name": "ToGray", "p": 0.1},
        {"name": "GaussianBlur", "p": 0.1},
        {"name": "CoarseDropout", "hole_height_range": [0.1, 0.3], "hole_width_range": [0.1, 0.3], "p": 0.5},
    ],
}


class Square(Protocol):
    """What a plain copy depends on; the parameters ``augment`` and a network's ``ModelSpec`` both have it."""

    @property
    def image_size(self) -> int: ...
    @property
    def resize(self) -> str: ...
    @property
    def interpolation(self) -> str: ...


def plain_copy(params: Square) -> Callable[[Pixels], Pixels]:
    """Return a function that resizes a photo, ``(h, w, 3)`` to ``(image_size, image_size, 3)``, both ``uint8``.

    If ``resize`` is ``crop``, the far ends of very thin photos are cut off first.
    """
    size = params.image_size

    def copy(image: Pixels) -> Pixels:
        if params.resize == "stretch":
            return _resized(image, size, size, params.interpolation)
        if params.resize == "crop":
            image = _without_far_ends(image, size)
        sides = image.shape[:2]
        scale = size / (min if params.resize == "crop" else max)(sides)
        height, width = (max(1, round(side * scale)) for side in sides)
        resized = _resized(image, height, width, params.interpolation)
        if params.resize == "crop":
            top, left = (height - size) // 2, (width - size) // 2
            # A copy, so that what is cut off does not stay in memory.
            return np.ascontiguousarray(resized[top : top + size, left : left + size])
        square = np.full((size, size, 3), GREY, np.uint8)
        top, left = (size - height) // 2, (size - width) // 2
        square[top : top + height, left : left + width] = resized
        return square

    return copy


def _resized(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    if image.shape[:2] == (height, width):
        return image
    if interpolation == "area":
        # Averaging areas prevents aliasing of fine detail when a photo shrinks.
        shrinks = height < image.shape[0] or width < image.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)
    picture, smooth = Image.fromarray(image), Image.Resampling[interpolation.upper()]
    # Pillow resizes the width first, and would enlarge a picture of 1×1,000,000 pixels to 32×1,000,000 in between.
    if width * picture.height > RESIZED_PIXELS:
        picture = picture.resize((picture.width, height), smooth)
    return np.array(picture.resize((width, height), smooth))


def _without_far_ends(image: Pixels, size: int) -> Pixels:
    """The centre of the long side, at most ``RESIZED_PIXELS`` when the short side is resized to ``size``."""
    height, width = image.shape[:2]
    kept = RESIZED_PIXELS // size**2 * min(height, width)
    top, left = max(0, height - kept) // 2, max(0, width - kept) // 2
    return image[top : top + kept, left : left + kept]


def without_borders(copy: Pixels) -> Pixels:
    """The part of a plain copy that is not one of the grey borders of resize ``pad``."""
    inside = (copy != GREY).any(axis=2)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return copy[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else copy


def augmented_view(params: AugmentParams) -> Callable[[Pixels, int], Pixels]:
    """Return a function that draws a view of a photo from a seed; shapes as in ``plain_copy``.

    The far ends of very thin photos are cut off first. The function raises a ``ValueError`` if a transform fails on the
    photo; the message names the transform and the reason in one line.

    Raises:
        PipelineError: ``augment.transforms`` names an unknown transform or a wrong argument, or a transform that fails
            on every image.
    """
    size = params.image_size
    keys = [(f"augment.preset {params.preset}", Transform(**keys)) for keys in PRESETS[params.preset]]
    keys += [(f"params.yaml: augment.transforms.{number}", own) for number, own in enumerate(params.transforms)]
    steps = [(f"{key}: {transform.name}", _build(transform, key, size)) for key, transform in keys]
    for (name, built), transform in zip(steps[len(PRESETS[params.preset]) :], params.transforms, strict=True):
        _try(name, built, f"{size} {transform!r}")
    resize = plain_copy(params)

    def draw(image: Pixels, seed: int) -> Pixels:
        image = _without_far_ends(image, size)
        for name, transform in steps:
            # Transforms ignore the global seeds. Seeding each view makes it independent of the process that draws it.
            # Compose would also set the same seed for all transforms, but not name the one that fails.
            transform.set_random_seed(seed)
            image = _apply(name, transform, image)
        return resize(image)

    return draw


def _apply(name: str, transform: Any, image: Pixels) -> Pixels:
    """Apply one transform.

    Raises:
        ValueError: it fails, or does not return ``uint8`` pixels; the message begins with ``name``.
    """
    height, width = image.shape[:2]
    try:
        changed: Pixels = transform(image=image)["image"]
    except Exception as error:  # a transform raises all kinds of errors for an image that it cannot change
        reason = _text(error)
    else:
        wrong = _wrong_output(changed, image.size)
        if wrong is None:
            return changed
        reason = f"returns {wrong}"
    raise ValueError(f"{name}: the photo has {width}×{height} pixels at this point ({reason})") from None


def _text(error: Exception) -> str:
    if _lacks_memory(error):
        return "not enough memory"
    return shortened(one_line(str(error))) or type(error).__name__


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem)


def _wrong_output(image: Any, size: int) -> str | None:
    """What is wrong with the output of a transform of an image of ``size`` values; None if it is an image."""
    if not isinstance(image, np.ndarray):
        return type(image).__name__
    if image.dtype != np.uint8:
        return str(image.dtype)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        return f"the shape {image.shape}"
    if image.size > max(size, 3 * MOST_PIXELS):
        return f"{image.size // 3:,} pixels, more than {MOST_PIXELS:,}"
    return None


def _build(transform: Transform, key: str, image_size: int) -> Any:
    """Build one transform; albumentations itself only warns about an unknown argument."""
    kind: Any = getattr(albumentations, transform.name, None)
    concrete = inspect.isclass(kind) and not kind.__module__.endswith("transforms_interface")
    if not (concrete and issubclass(kind, albumentations.BasicTransform)):
        got = shortened(repr(transform.name))
        raise PipelineError(f"{key}: got {got}, allowed is the name of an albumentations 2.0.8 transform")
    needs = "a volume" if issubclass(kind, albumentations.Transform3D) else _NEEDS.get(transform.name)
    if needs:
        raise PipelineError(f"{key}: {transform.name} needs {needs} besides the image; remove it")
    allowed = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    arguments = dict(transform.model_extra or {})
    unknown = sorted(arguments.keys() - set(allowed))
    if unknown:
        argument = shortened(repr(unknown[0]))
        raise PipelineError(f"{key}: {transform.name} has no argument {argument}, allowed are {', '.join(allowed)}")
    if "size" in allowed:
        arguments.setdefault("size", (image_size, image_size))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return kind(**arguments)
    except Exception as error:  # of pydantic, of numpy for an argument that is too large, and others
        raise PipelineError(f"{key}: {transform.name}: {shortened(_reason(error))}") from None


_trials: dict[str, str | None] = {}


def _try(name: str, transform: Any, description: str) -> None:
    """Refuse a transform that fails on every image, or that returns something else than an image of bounded size.

    A process tries each description once: its workers and threads know the result.
    """
    if description not in _trials:
        _trials[description] = _trial(transform)
    reason = _trials[description]
    if reason is not None:
        raise PipelineError(f"{name} {reason}")


def _trial(transform: Any) -> str | None:
    """Try a transform in a process with limits, and return what is wrong; None if it works."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_trial, args=(transform, sender), daemon=True)
    process.start()
    sender.close()
    reason: str | None = _TOO_MUCH
    try:
        if receiver.poll(TRIAL_WAIT):
            reason = receiver.recv()
    except EOFError:  # it ended without an answer, usually by a signal at one of the limits
        process.join(TRIAL_WAIT)
        if (code := process.exitcode) is not None and code >= 0:
            reason = f"could not be tried: the process for it ended with exit code {code}; run the command again"
    process.kill()
    process.join()
    return reason


def _run_trial(transform: Any, sender: Connection) -> None:
    become_worker()
    _set_limits()
    with warnings.catch_warnings(action="ignore"):
        sender.send(_trial_reason(transform))


def _set_limits() -> None:
    limits = {resource.RLIMIT_CPU: TRIAL_SECONDS}
    if MEMORY_IN_USE.exists():
        used = int(MEMORY_IN_USE.read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + TRIAL_BYTES
    for limit, most in limits.items():
        hard = resource.getrlimit(limit)[1]
        with suppress(OSError, ValueError):  # not every system has each limit
            resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _trial_reason(transform: Any) -> str | None:
    reason, works = "", False
    for height, width in TRIED_SIZES[:2]:
        found, wrong = _outcome(transform, height, width)
        if wrong:
            return found
        works, reason = works or found is None, found or reason
    if works:
        return None
    found, _ = _outcome(transform, *TRIED_SIZES[2])
    return found and f"fails on every image ({reason}); remove it, or change its arguments"


def _outcome(transform: Any, height: int, width: int) -> tuple[str | None, bool]:
    """Apply a transform to an image; return what is wrong, and whether that is the output and not an error."""
    transform.set_random_seed(0)
    try:
        image = np.resize(np.arange(251, dtype=np.uint8), (height, width, 3))
        changed = transform(image=image, force_apply=True)["image"]
    except Exception as error:
        return (_TOO_MUCH, True) if _lacks_memory(error) else (_text(error), False)
    wrong = _wrong_output(changed, image.size)
    if wrong is None:
        return None, False
    fix = "remove it (train normalizes the images), or choose smaller arguments"
    return f"returns {wrong}, allowed are RGB images of uint8 pixels; {fix}", True


def _reason(error: Exception) -> str:
    """Shorten an error of albumentations, which wraps a long one of pydantic, to one line."""
    cause = error.__cause__ or error.__context__ or error
    if not isinstance(cause, ValidationError):
        return one_line(str(error))
    first = cause.errors()[0]
    argument = ".".join(str(part) for part in first["loc"][:1])
    if first["type"] == "missing":
        return f"{argument} is missing"
    return f"{argument}: got {first['input']!r}, {first['msg']}"


def view_seed(seed: int, entry: str, view: int) -> int:
    """The seed of one view, from the run's seed, the image's entry and the view's number."""
    digest = hashlib.blake2b(f"{seed}/{view}/{entry}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
