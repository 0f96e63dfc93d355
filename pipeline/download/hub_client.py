"""The files of a dataset on the ModelScope hub, by the hub's own client (the package ``modelscope_hub``)."""

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

from pipeline.common.file_types import is_part
from pipeline.common.files import write_json
from pipeline.download.file_tree import FileTree
from pipeline.download.safety import safe_path
from pipeline.download.spool import need_room
from pipeline.download.store import StoredFile, locked
from pipeline.errors import PipelineError, listed, printable
from pipeline.progress import say

if TYPE_CHECKING:
    from modelscope_hub import FileInfo, HubApi


def hub_tree(dataset: str, endpoint: str, revision: str, pinned: bool, folder: Path) -> FileTree:
    """Return the files of a dataset; what is not in ``folder`` yet is fetched there first.

    Args:
        dataset: owner/name.
        endpoint: the hub's address.
        revision: a commit, a tag or a branch.
        pinned: whether it is a commit, of which a complete copy needs no network.
        folder: in the shared cache, for this dataset and revision alone.

    Raises:
        PipelineError: the hub or its client gave up, or the disk has no room.
    """
    record = folder.with_name(f"{folder.name}.json")
    with locked(folder):
        files = _recorded(record, folder) if pinned else {}
        if not files or not all(file.is_whole() for file in files.values()):
            with _told(dataset, endpoint), _quiet():
                files = _download(dataset, endpoint, revision, pinned, folder)
            write_json(record, {path: [file.size, file.sha256] for path, file in files.items()})
    return FileTree(dataset, {path: file.size for path, file in files.items()}, lambda path: files[path].open())


def _recorded(record: Path, folder: Path) -> dict[str, StoredFile]:
    """The files of a download that came to its end."""
    try:
        content = json.loads(record.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {path: StoredFile(folder / path, size, sha256) for path, (size, sha256) in content.items()}


def _download(dataset: str, endpoint: str, revision: str, pinned: bool, folder: Path) -> dict[str, StoredFile]:
    from modelscope_hub import HubApi, HubConfig

    with TemporaryDirectory() as locks:  # the client leaves one there for each file
        api = HubApi(HubConfig(endpoint=endpoint, cache_dir=Path(locks)))
        files = _listed(api, dataset, revision)
        need_room(folder.parent, sum(f.size for path, f in files.items() if not (folder / path).exists()), dataset)
        size = sum(file.size for file in files.values()) / 1e6
        say(f"download: fetching {len(files):,} files of {dataset}, {size:,.0f} MB, into {folder}")
        for path, file in files.items():
            # The client takes a file for the new one by its size alone where the hub states no checksum.
            if not pinned and not file.sha256:
                (folder / path).unlink(missing_ok=True)
        # The hub states 0 for a size that it does not know.
        wanted = [{"Path": path, "Size": file.size or None, "Sha256": file.sha256} for path, file in files.items()]
        api.download_repo(dataset, "dataset", revision=revision, local_dir=folder, file_list=wanted)
    sizes = {path: (folder / path).stat().st_size for path in files}
    return {path: StoredFile(folder / path, sizes[path], file.sha256) for path, file in files.items()}


def _listed(api: "HubApi", dataset: str, revision: str) -> dict[str, "FileInfo"]:
    """List the files that matter, by names that lead nowhere else: the client would write wherever a name leads to."""
    found = [file for file in api.list_repo_files(dataset, "dataset", revision=revision) if not file.is_dir]
    if not found:
        raise PipelineError(
            f"data.location: {dataset} has no files at {revision}; check data.location and data.revision"
        )
    return {path: file for file in found if is_part(path := safe_path(dataset, file.path))}


@contextmanager
def _told(dataset: str, endpoint: str) -> Iterator[None]:
    """Turn what the client raises into one line."""
    import requests
    from modelscope_hub import HubError

    try:
        yield
    except (HubError, requests.RequestException, ValueError) as error:
        raise PipelineError(
            f"data.location: {dataset} could not be fetched from {printable(endpoint)} ({_reason(error)}); check "
            "data.location, data.revision and the network, and run the command again: what came is kept"
        ) from None


def _reason(error: BaseException) -> str:
    failed = getattr(error, "failed_files", None)
    if failed:
        return f"{listed(failed)}: {_reason(next(iter(failed.values())))}"
    said = printable((str(error).splitlines() or [type(error).__name__])[0])
    return said[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave the client's bars to terminals, and its log, which repeats what it raises, to those who ask for it."""
    import modelscope_hub  # noqa: F401 - it sets up its log when it is imported

    if "MODELSCOPE_LOG_LEVEL" not in os.environ:
        logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
        yield
