"""The albumentations pipelines that make plain copies and augmented views."""

import hashlib
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.errors import PipelineError, one_line
from pipeline.params.schema import AugmentParams, Transform


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
# Of the borders of resize pad: the middle of 0 to 255.
GREY = 128

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


def plain_copy(params: Square) -> Callable[[Pixels], Pixels]:
    """Return a function that resizes a photo, ``(h, w, 3)`` to ``(image_size, image_size, 3)``, both ``uint8``."""
    pipeline = albumentations.Compose(_resizing(params))
    return lambda image: pipeline(image=image)["image"]


def without_borders(copy: Pixels) -> Pixels:
    """The part of a plain copy that is not one of the grey borders of resize ``pad``."""
    inside = (copy != GREY).any(axis=2)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return copy[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else copy


def augmented_view(params: AugmentParams) -> Callable[[Pixels, int], Pixels]:
    """Return a function that draws a view of a photo from a seed; shapes as in ``plain_copy``.

    Raises:
        PipelineError: ``augment.transforms`` names an unknown transform or a wrong argument.
    """
    size = params.image_size
    preset = [_build(Transform(**keys), f"augment.preset {params.preset}", size) for keys in PRESETS[params.preset]]
    own = [
        _build(keys, f"params.yaml: augment.transforms.{number}", size) for number, keys in enumerate(params.transforms)
    ]
    pipeline = albumentations.Compose([*preset, *own, *_resizing(params)])

    def draw(image: Pixels, seed: int) -> Pixels:
        # Compose ignores the global seeds. Seeding each view makes it independent of the process that draws it.
        pipeline.set_random_seed(seed)
        view: Pixels = pipeline(image=image)["image"]
        return view

    return draw


def _resizing(params: Square) -> list[Any]:
    # Area averaging prevents aliasing of fine detail when a photo shrinks.
    smooth = {"interpolation": cv2.INTER_CUBIC, "area_for_downscale": "image"}
    if params.resize == "stretch":
        return [albumentations.Resize(params.image_size, params.image_size, **smooth)]
    if params.resize == "pad":
        return [
            albumentations.LongestMaxSize(params.image_size, **smooth),
            albumentations.PadIfNeeded(
                params.image_size, params.image_size, border_mode=cv2.BORDER_CONSTANT, fill=(GREY, GREY, GREY)
            ),
        ]
    return [
        albumentations.SmallestMaxSize(params.image_size, **smooth),
        albumentations.CenterCrop(params.image_size, params.image_size),
    ]


def _build(transform: Transform, key: str, image_size: int) -> Any:
    """Build one transform; albumentations itself only warns about an unknown argument."""
    kind: Any = getattr(albumentations, transform.name, None)
    concrete = inspect.isclass(kind) and not kind.__module__.endswith("transforms_interface")
    if not (concrete and issubclass(kind, albumentations.BasicTransform)):
        raise PipelineError(f"{key}: got {transform.name!r}, allowed is the name of an albumentations 2.0.8 transform")
    allowed = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    arguments = transform.arguments
    unknown = sorted(arguments.keys() - set(allowed))
    if unknown:
        raise PipelineError(f"{key}: {transform.name} has no argument {unknown[0]!r}, allowed are {', '.join(allowed)}")
    if "size" in allowed:
        arguments.setdefault("size", (image_size, image_size))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            built = kind(**arguments)
    except (NotImplementedError, TypeError, ValueError, Warning) as error:
        raise PipelineError(f"{key}: {transform.name}: {_reason(error)}") from None
    dtype = _output_dtype(kind, arguments)
    if dtype != np.uint8:
        raise PipelineError(
            f"{key}: {transform.name} returns {dtype}, allowed are transforms that return uint8 pixels; remove it, "
            "training normalises the images itself"
        )
    return built


def _output_dtype(kind: Any, arguments: dict[str, Any]) -> np.dtype[Any]:
    """The dtype of a transform's output, tried on a black image."""
    try:
        view: NDArray[Any] = kind(**arguments | {"p": 1})(image=np.zeros((640, 640, 3), np.uint8))["image"]
        return view.dtype
    except Exception:  # it may need another size or more than an image: only the real photos will show
        return np.dtype(np.uint8)


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
