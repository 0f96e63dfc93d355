"""A folder of images on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.archives.file_tree import folder_tree
from pipeline.archives.nested import with_nested
from pipeline.errors import PipelineError
from pipeline.params.data import DataParams
from pipeline.paths import user_path
from pipeline.sources.image_set import ImageSet
from pipeline.sources.layout import read_layout


@contextmanager
def open_folder(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images below ``data.location``; links to folders are not followed.

    Raises:
        PipelineError: no such folder, a layout that is not known, or an archive in it that cannot be read.
    """
    root = user_path(params.location or "")
    if not root.is_dir():
        found = "is a file, use data.source archive for it" if root.exists() else "does not exist"
        raise PipelineError(f"data.location: the folder {root} {found}; set it to a folder of images")
    with with_nested(folder_tree(root)) as tree:
        yield read_layout(tree.name, tree.sizes, tree.read, params.classes)
