"""The sources of images: each one is opened as an ``ImageSet``."""

import importlib.util
import io
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray

from pipeline.common.paths import is_url, user_path, with_variables
from pipeline.common.text import one_line
from pipeline.download.archives import archive_tree, with_archives
from pipeline.download.cache import FetchError, cache_folder, content_sha256
from pipeline.download.git_lfs import HUB_CLIENT, git_tree, resolve
from pipeline.download.http import fetch
from pipeline.download.hub import hub_tree
from pipeline.download.labels import read_labels
from pipeline.download.layout import ImageSet, SourceImage, read_layout
from pipeline.download.trees import FileTree, composed, folder_tree
from pipeline.errors import PipelineError
from pipeline.params.schema import DataParams
from pipeline.progress import say

DATASET = "Datawhale/LeeDL-HW3-CNN"
REVISION = "master"
ENDPOINT = "https://www.modelscope.cn"  # unless MODELSCOPE_ENDPOINT is set, as in the hub's client


@contextmanager
def open_digits(params: DataParams) -> Iterator[ImageSet]:
    """Yield scikit-learn's digits as PNG files without splits (Alpaydin & Kaynak, UCI, 1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    paths = {f"{index:04}.png": index for index in range(len(pixels))}
    images = tuple(SourceImage(path, path, None, int(digits.target[index])) for path, index in paths.items())
    classes = params.classes or tuple(str(name) for name in digits.target_names)
    yield ImageSet(classes, images, lambda path: _png(pixels[paths[path]]))


def read_images(source: str, tree: FileTree, params: DataParams) -> ImageSet:
    """Find the images of a source and their labels: by ``data.labels``, or by the names of the files and folders."""
    tree = composed(tree)
    classes = params.classes and tuple(unicodedata.normalize("NFC", name) for name in params.classes)
    if params.labels is None:
        return read_layout(source, tree, classes, params.class_depth)
    return read_labels(source, tree, params.labels, classes)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def open_folder(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images in the folder ``data.location``.

    Raises:
        PipelineError: no such folder, an unknown layout, or an archive in it that cannot be read.
    """
    root = user_path(with_variables(params.location or ""))
    if not root.is_dir():
        found = "is a file, use data.source archive for it" if root.exists() else "does not exist"
        raise PipelineError(f"data.location: the folder {root} {found}; set it to a folder of images")
    with with_archives(folder_tree(root)) as tree:
        yield read_images(tree.name, tree, params)


@contextmanager
def open_archive(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images in the archive at ``data.location``; its SHA-256 is checked before anything is read.

    Raises:
        PipelineError: no such file, another checksum, neither a zip nor a tar, a damaged archive, or a member that is
            refused (see ``safety``).
    """
    location = with_variables(params.location or "")
    if is_url(location):
        if not params.sha256:
            raise PipelineError("data.sha256: got null, required with a URL; set the SHA-256 that the publisher states")
        mirrors = [with_variables(mirror, "data.mirrors") for mirror in params.mirrors]
        file = fetch([location, *mirrors], params.sha256)
        location = one_line(location)  # messages about the archive show the URL without its password
    else:
        path = user_path(location)
        if not path.is_file():
            found = "is a folder, use data.source folder for it" if path.is_dir() else "does not exist"
            raise PipelineError(f"data.location: the archive {path} {found}; set it to a zip or tar of images")
        file = path.open("rb")
    with file:
        if not is_url(location) and params.sha256 and (found := content_sha256(file)) != params.sha256:
            raise PipelineError(
                f"data.sha256: {path} has {found}, expected {params.sha256}; fetch the archive again, or correct the "
                "parameter"
            )
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with archive_tree(file, size, f"data.location: {location}") as outer, with_archives(outer) as tree:
            yield read_images(location, tree, params)


@contextmanager
def open_modelscope(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images of the dataset ``data.location`` (None: that of homework 3) at ``data.revision`` (None: master).

    Fetched files stay in the cache, so that a commit that was fetched before needs no network.

    Raises:
        PipelineError: no such dataset or revision, no way to fetch it, a damaged file, or an unknown layout.
    """
    dataset, revision = params.location or DATASET, params.revision or REVISION
    endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or ENDPOINT).rstrip("/")
    scheme, colon, rest = endpoint.partition("://")
    endpoint = f"{scheme.lower()}://{rest}" if colon else f"https://{endpoint}"
    has_client = importlib.util.find_spec("modelscope_hub") is not None and not endpoint.startswith("file:")
    url = f"{endpoint}/datasets/{dataset}.git"
    folder = cache_folder() / "modelscope" / dataset
    commit = _commit(dataset, url, revision, has_client)
    files: AbstractContextManager[FileTree]
    try:
        if has_client or commit is None:
            files = nullcontext(hub_tree(dataset, endpoint, commit or revision, commit is not None, folder))
        else:
            files = git_tree(dataset, url, commit, folder)
        with files as outer, with_archives(outer) as tree:
            yield read_images(dataset, tree, params)
    except FetchError as error:
        raise PipelineError(
            f"data.location: {dataset} could not be fetched from {one_line(endpoint)} ({error}); check data.location, "
            "data.revision and the network, and run the command again: it resumes the download"
        ) from None


def _commit(dataset: str, url: str, revision: str, has_client: bool) -> str | None:
    """Return and print the current commit of a revision; None if git cannot find it but the client may."""
    try:
        commit = resolve(url, revision)
    except FetchError as error:
        if not has_client:
            raise PipelineError(
                f"data.location: {dataset} could not be found at {one_line(url)} ({error}); check data.location and "
                f"the network; a dataset that is not public needs the hub's own client: {HUB_CLIENT}"
            ) from None
        say(f"download: the commit of {dataset} {revision} is unknown ({error}); its images may change later")
        return None
    if commit != revision:
        say(f"download: {dataset} {revision} is the commit {commit}; set data.revision to it for reproducible runs")
    return commit


SOURCES: dict[str, Callable[[DataParams], AbstractContextManager[ImageSet]]] = {
    "digits": open_digits,
    "folder": open_folder,
    "archive": open_archive,
    "modelscope": open_modelscope,
}
