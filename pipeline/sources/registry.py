"""The sources by name: a new one is a context manager that yields an ``ImageSet``, and a line here."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from pipeline.params.data import DataParams
from pipeline.sources.archive import open_archive
from pipeline.sources.digits import open_digits
from pipeline.sources.folder import open_folder
from pipeline.sources.image_set import ImageSet
from pipeline.sources.modelscope import open_modelscope

SOURCES: dict[str, Callable[[DataParams], AbstractContextManager[ImageSet]]] = {
    "digits": open_digits,
    "folder": open_folder,
    "archive": open_archive,
    "modelscope": open_modelscope,
}
