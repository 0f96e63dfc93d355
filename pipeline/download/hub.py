"""Fetches a dataset from the ModelScope hub with the hub's own client, the package ``modelscope_hub``."""

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.common.files import write_json
from pipeline.common.text import listed, one_line
from pipeline.download.cache import (
    CachedFile,
    FetchError,
    UnusableError,
    add_file,
    content_sha256,
    is_ours,
    locked,
    open_regular,
    require_space,
    work_folder,
)
from pipeline.download.safety import check_files, safe_path
from pipeline.download.trees import FileTree, Sorter
from pipeline.errors import PipelineError
from pipeline.progress import say

if TYPE_CHECKING:
    from modelscope_hub import FileInfo, HubApi


def hub_tree(dataset: str, endpoint: str, revision: str, pinned: bool, folder: Path) -> FileTree:
    """Return the files of a dataset, after fetching those that the cache does not contain yet.

    Args:
        dataset: owner/name.
        endpoint: the URL of the hub.
        revision: a commit, a tag or a branch.
        pinned: whether it is a commit; a complete copy of a commit needs no network.
        folder: in the cache, for the lists of files of this dataset.

    Raises:
        FetchError: the hub or its client failed.
        PipelineError: the hub lists no files or unsafe names, or the disk has not enough space.
    """
    work = work_folder(f"{dataset}.hub")
    with locked(work):
        files, left_out = _recorded(folder / f"{revision}.json") if pinned else ({}, {})
        if not files or not all(file.is_complete() for file in files.values()):
            with _reporting_errors(), _quiet():
                files, left_out = _download(dataset, endpoint, revision, work)
            if pinned:
                stored = {path: [file.size, file.sha256] for path, file in files.items()}
                write_json(work / "files.json", {"files": stored, "left_out": left_out})
                add_file(work / "files.json", folder / f"{revision}.json")
            shutil.rmtree(work, ignore_errors=True)
    sizes = {path: file.size for path, file in files.items()}
    return FileTree(dataset, sizes, lambda path: files[path].open(), left_out=left_out)


def _recorded(record: Path) -> tuple[dict[str, CachedFile], dict[str, str]]:
    """The files of a complete download, and the reasons for those that were not fetched; not from other users."""
    with suppress(AttributeError, FileNotFoundError, LookupError, TypeError, UnusableError, ValueError):
        with open_regular(record) as file:
            content = json.load(file) if is_ours(file) else {}
        return {path: CachedFile(size, sha256) for path, (size, sha256) in content["files"].items()}, content[
            "left_out"
        ]
    return {}, {}


def _download(dataset: str, endpoint: str, revision: str, work: Path) -> tuple[dict[str, CachedFile], dict[str, str]]:
    from modelscope_hub import HubApi, HubConfig

    with TemporaryDirectory() as locks:  # the client leaves one there for each file
        api = HubApi(HubConfig(endpoint=endpoint, cache_dir=Path(locks)))
        listing, left_out = _files(api, dataset, revision)
        files = {path: CachedFile(file.size, file.sha256) for path, file in listing.items() if file.sha256}
        missing = {path: file for path, file in listing.items() if path not in files or not files[path].is_complete()}
        work.mkdir(parents=True, exist_ok=True)
        size = sum(file.size for file in missing.values())
        require_space(work, size, dataset)
        say(f"download: fetching {len(missing):,} files of {dataset}, {size / 1e6:,.0f} MB")
        for path in missing.keys() - files.keys():
            # Without a checksum, the client takes a file of the same size for the new one.
            (work / path).unlink(missing_ok=True)
        # The hub states the size 0 if it does not know the size.
        wanted = [{"Path": path, "Size": file.size or None, "Sha256": file.sha256} for path, file in missing.items()]
        if wanted:
            api.download_repo(dataset, "dataset", revision=revision, local_dir=work, file_list=wanted)
    for path, file in missing.items():
        with (work / path).open("rb") as fetched:
            size, sha256 = os.fstat(fetched.fileno()).st_size, file.sha256 or content_sha256(fetched)
        files[path] = CachedFile(size, sha256)
        add_file(work / path, files[path].path)
    return {path: files[path] for path in listing}, left_out


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
    for path, file in files.items():
        if file.sha256 and not re.fullmatch("[0-9a-f]{64}", file.sha256):
            raise FetchError(f"the hub states the SHA-256 {file.sha256!r} of {path}")
    check_files(dataset, {path: file.size for path, file in files.items()})
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
