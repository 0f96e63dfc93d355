"""Fetches a dataset from the ModelScope hub with the hub's own client, the package ``modelscope_hub``."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.common.files import write_json
from pipeline.common.text import listed, one_line
from pipeline.download.cache import CachedFile, FetchError, locked, require_space
from pipeline.download.safety import safe_path
from pipeline.download.trees import FileTree, Sorter
from pipeline.errors import PipelineError
from pipeline.progress import say

if TYPE_CHECKING:
    from modelscope_hub import FileInfo, HubApi


def hub_tree(dataset: str, endpoint: str, revision: str, pinned: bool, folder: Path) -> FileTree:
    """Return the files of a dataset, after fetching those that ``folder`` does not contain yet.

    Args:
        dataset: owner/name.
        endpoint: the URL of the hub.
        revision: a commit, a tag or a branch.
        pinned: whether it is a commit; a complete copy of a commit needs no network.
        folder: in the cache, used only for this dataset and revision.

    Raises:
        FetchError: the hub or its client failed.
        PipelineError: the hub lists no files or unsafe names, or the disk has not enough space.
    """
    record = folder.with_name(f"{folder.name}.json")
    with locked(folder):
        files, left_out = _recorded(record, folder) if pinned else ({}, {})
        if not files or not all(file.is_complete() for file in files.values()):
            with _reporting_errors(), _quiet():
                files, left_out = _download(dataset, endpoint, revision, pinned, folder)
            stored = {path: [file.size, file.sha256] for path, file in files.items()}
            write_json(record, {"files": stored, "left_out": left_out})
    sizes = {path: file.size for path, file in files.items()}
    return FileTree(dataset, sizes, lambda path: files[path].open(), left_out=left_out)


def _recorded(record: Path, folder: Path) -> tuple[dict[str, CachedFile], dict[str, str]]:
    """The files of a complete download, and the reasons for those that were not fetched."""
    try:
        content = json.loads(record.read_text("utf-8"))
        files = {path: CachedFile(folder / path, size, sha256) for path, (size, sha256) in content["files"].items()}
        return files, content["left_out"]
    except (AttributeError, FileNotFoundError, LookupError, TypeError, ValueError):
        return {}, {}


def _download(
    dataset: str, endpoint: str, revision: str, pinned: bool, folder: Path
) -> tuple[dict[str, CachedFile], dict[str, str]]:
    from modelscope_hub import HubApi, HubConfig

    with TemporaryDirectory() as locks:  # the client leaves one there for each file
        api = HubApi(HubConfig(endpoint=endpoint, cache_dir=Path(locks)))
        files, left_out = _files(api, dataset, revision)
        require_space(folder.parent, sum(f.size for path, f in files.items() if not (folder / path).exists()), dataset)
        size = sum(file.size for file in files.values()) / 1e6
        say(f"download: fetching {len(files):,} files of {dataset}, {size:,.0f} MB, into {folder}")
        for path, file in files.items():
            # Without a checksum, the client takes a file of the same size for the new one.
            if not pinned and not file.sha256:
                (folder / path).unlink(missing_ok=True)
        # The hub states the size 0 if it does not know the size.
        wanted = [{"Path": path, "Size": file.size or None, "Sha256": file.sha256} for path, file in files.items()]
        api.download_repo(dataset, "dataset", revision=revision, local_dir=folder, file_list=wanted)
    sizes = {path: (folder / path).stat().st_size for path in files}
    return {path: CachedFile(folder / path, sizes[path], file.sha256) for path, file in files.items()}, left_out


def _files(api: "HubApi", dataset: str, revision: str) -> tuple[dict[str, "FileInfo"], dict[str, str]]:
    """The files that can belong to a dataset; their names are checked, since the client writes to any path."""
    found = [file for file in api.list_repo_files(dataset, "dataset", revision=revision) if not file.is_dir]
    if not found:
        raise PipelineError(
            f"data.location: {dataset} has no files at {revision}; check data.location and data.revision"
        )
    sorter = Sorter()
    by_path = {safe_path(dataset, file.path): file for file in found}
    files = {path: file for path, file in by_path.items() if sorter.takes(path, lambda: b"")}
    return files, sorter.left_out


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """Turn what the client raises into a FetchError."""
    import requests
    from modelscope_hub import HubError

    try:
        yield
    except (HubError, requests.RequestException, ValueError) as error:
        raise FetchError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    failed = getattr(error, "failed_files", None)
    if failed:
        return f"{listed(failed)}: {_reason(next(iter(failed.values())))}"
    return one_line((str(error).splitlines() or [type(error).__name__])[0])[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Show the client's progress bars only on a terminal, and its log, which repeats its errors, only on request."""
    import modelscope_hub  # noqa: F401 - it configures its log when it is imported

    if "MODELSCOPE_LOG_LEVEL" not in os.environ:
        logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
        yield
