"""Trees of files in memory."""

import io

from pipeline.download.trees import FileTree, Sorter, empty_folders


def tree_of(files: dict[str, bytes]) -> FileTree:
    """The files by path; a path that ends with a slash is an empty folder."""
    sorter = Sorter()
    paths = [path for path in files if not path.endswith("/")]
    sizes = {path: len(files[path]) for path in paths if sorter.takes(path, lambda path=path: files[path])}
    return FileTree(
        "photos",
        sizes,
        lambda path: io.BytesIO(files[path]),
        frozenset(sorter.recognised),
        sorter.left_out,
        empty_folders(files),
    )
