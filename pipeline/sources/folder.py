"""A folder of images on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.params.data import DataParams
from pipeline.sources.image_set import ImageSet
from pipeline.sources.layout import read_layout


@contextmanager
def open_folder(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images below ``data.location``; links to folders are not followed."""
    root = Path(params.location or "")
    if not root.is_dir():
        found = "is a file, use data.source archive for it" if root.exists() else "does not exist"
        raise PipelineError(f"data.location: the folder {root} {found}; set it to a folder of images")
    paths = [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, onerror=_refuse)
        for name in names
    ]
    yield read_layout(str(root), paths, lambda path: (root / path).read_bytes(), params.classes)


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is told, not passed over."""
    raise error
