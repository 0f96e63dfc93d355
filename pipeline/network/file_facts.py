"""What the weights file and the ONNX file both state about their input and classes, with its bounds; without torch."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.text import is_printable

ImageSize = Annotated[int, Field(ge=32, le=1024, multiple_of=32)]
Resize = Literal["stretch", "crop", "pad"]
Interpolation = Literal["area", "bilinear", "bicubic"]
ClassNames = Annotated[tuple[str, ...], Field(min_length=2)]


def check_classes(names: Sequence[str]) -> None:
    """Check that each class has a name of its own.

    Raises:
        ValueError: two have the same, or one is not printable.
    """
    if len(set(names)) < len(names):
        raise ValueError("two classes have the same name")
    if not all(is_printable(name) and name.strip() for name in names):
        raise ValueError("the name of a class is not printable")
