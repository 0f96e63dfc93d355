"""A dataset on the ModelScope hub: by the hub's own client where that is installed, else by git and git-lfs."""

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pipeline.archives.file_tree import FileTree
from pipeline.archives.nested import with_nested
from pipeline.errors import PipelineError
from pipeline.fetching.git_repository import HUB_CLIENT, GitError, git_tree, resolve
from pipeline.fetching.http import cache_folder
from pipeline.fetching.hub_client import hub_tree
from pipeline.params.data import DataParams
from pipeline.progress import say
from pipeline.sources.image_set import ImageSet
from pipeline.sources.layout import read_layout
from pipeline.text import printable

DATASET = "Datawhale/LeeDL-HW3-CNN"
REVISION = "master"
ENDPOINT = "https://www.modelscope.cn"  # or what MODELSCOPE_ENDPOINT says, as for the hub's client


@contextmanager
def open_modelscope(params: DataParams) -> Iterator[ImageSet]:
    """Yield the images of the dataset ``data.location`` (None: homework 3's) at ``data.revision`` (None: master).

    What was fetched stays in the shared cache, so that a commit that is there needs no network.

    Raises:
        PipelineError: no such dataset or revision, no way to fetch it, a damaged file, or a layout that is not known.
    """
    dataset, revision = params.location or DATASET, params.revision or REVISION
    endpoint = _endpoint()
    by_client = importlib.util.find_spec("modelscope_hub") is not None and not endpoint.startswith("file:")
    url = f"{endpoint}/datasets/{dataset}.git"
    folder = cache_folder() / "modelscope" / dataset
    commit = _commit(dataset, url, revision, by_client)
    files: AbstractContextManager[FileTree]
    if by_client or commit is None:
        place = folder / (commit or revision.replace("/", "+"))
        files = nullcontext(hub_tree(dataset, endpoint, commit or revision, commit is not None, place))
    else:
        files = git_tree(dataset, url, commit, folder.with_name(f"{folder.name}.git"))
    with files as outer, with_nested(outer) as tree:
        yield read_layout(dataset, tree.sizes, tree.read, params.classes)


def _endpoint() -> str:
    endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or ENDPOINT).rstrip("/")
    return endpoint if re.match(r"[a-z]+://", endpoint) else f"https://{endpoint}"


def _commit(dataset: str, url: str, revision: str, by_client: bool) -> str | None:
    """Return the commit that a revision stands for now, and say it; None where only the client can go on without."""
    try:
        commit = resolve(url, revision)
    except GitError as error:
        if not by_client:
            raise PipelineError(
                f"data.location: {dataset} could not be found at {printable(url)} ({error}); check data.location and "
                f"the network; a dataset that is not public needs the hub's own client: {HUB_CLIENT}"
            ) from None
        say(f"download: the commit of {dataset} {revision} is not known ({error}); another day may bring other images")
        return None
    if commit != revision:
        say(
            f"download: {dataset} {revision} is the commit {commit}; set data.revision to it so that the run stays "
            "the same"
        )
    return commit
