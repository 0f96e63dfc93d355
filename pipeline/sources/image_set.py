"""The common form that every source is brought into."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        path: its path in the source, to read it by and to name it in messages.
        name: its file name, with ending and without a class; folders below the class are joined by ``__``.
        split: ``train``, ``valid`` or ``test``; None where the source does not say.
        label: the index of its class; None where it is unlabelled.
    """

    path: str
    name: str
    split: str | None
    label: int | None


@dataclass(frozen=True)
class ImageSet:
    """The images of a source, sorted by path, the names of their classes, and how to read the bytes of one."""

    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    read: Callable[[str], bytes]
