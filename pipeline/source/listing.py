"""Lists the files of a source by their content. A file is read again only if its size or one of its times changed."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.common.file_types import is_junk
from pipeline.common.files import write_text
from pipeline.common.paths import SOURCE, is_url, repository_root, table_path, user_path, with_variables
from pipeline.errors import PipelineError
from pipeline.progress import progress

CHUNK = 2**20  # bytes
# Two changes within one tick of a file system's clock, 2 s on FAT, leave the same time.
TICK = 2_000_000_000  # ns


class Source(NamedTuple):
    """What a section ``data`` of the parameters means on this machine.

    Attributes:
        kind: ``data.source``.
        location: a folder or an archive; None if a checksum, a revision or a package already pins the images.
        labels: the tables of ``data.labels`` outside the location by their split, ``all`` if one is for all splits.
        problem: why the location is not known on this machine; empty if it is.
    """

    kind: str
    location: Path | None
    labels: dict[str, Path]
    problem: str = ""


class Entry(NamedTuple):
    """A file of the source: its size in bytes, its times in ns, and its SHA-256, or why it has none, or neither yet."""

    size: int
    modified: int
    changed: int
    sha256: str


def find_source(kind: str, location: str | None, labels: str | Mapping[Any, str] | None) -> Source:
    """Resolve the paths of a section ``data`` of the parameters.

    Raises:
        PipelineError: the location is a folder that contains this project's own files, which each run changes.
    """
    tables = {"all": labels} if labels is None or isinstance(labels, str) else labels
    paths = {split: table_path(path) for split, path in tables.items() if path}
    # Others are in the folder or the archive, or missing, which download reports.
    found = {split: path for split, path in paths.items() if path.is_file()}
    if kind not in ("folder", "archive") or is_url(location or ""):
        return Source(kind, None, found)
    try:
        place = with_variables(location or "")
    except PipelineError as error:  # a clone without the images needs no variable
        return Source(kind, None, found, str(error))
    path = None if is_url(place) else user_path(place)
    if kind == "folder" and path and path.is_dir():
        own = (repository_root() / SOURCE).resolve()
        if own.is_relative_to(path.resolve()):
            raise PipelineError(
                f"data.location: got {location}, which contains the project's own files; move the images into a folder "
                "such as data/photos"
            )
    return Source(kind, path, found)


def problem_of(source: Source) -> str | None:
    """Why the source cannot be listed on this machine; None if it can."""
    location = source.location
    if source.problem:
        return source.problem
    if location and not (location.is_dir() if source.kind == "folder" else location.is_file()):
        return f"the {source.kind} {location} is not here"
    if location and not os.access(location, os.R_OK | os.X_OK if location.is_dir() else os.R_OK):
        return f"the {source.kind} {location} cannot be read"
    if location and source.kind == "folder" and not any(True for _ in _walk(location)):
        return f"the folder {location} is empty (is its disk mounted?)"
    return None


def list_files(source: Source) -> dict[str, Entry]:
    """The files at the location by their relative paths, as yet without hashes; of an archive only itself, as ``.``.

    Links are followed. Hidden files and those that operating systems create are left out, as by ``download``.
    """
    if source.location is None:
        return {}
    return dict(_walk(source.location)) if source.kind == "folder" else {".": _entry(source.location.stat())}


def _walk(root: Path) -> Iterator[tuple[str, Entry]]:
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(os.fspath(root), "", frozenset())]
    while pending:
        folder, prefix, above = pending.pop()
        try:
            state = Path(folder).stat()
            # A link to one of these would never end.
            chain = above | {(state.st_dev, state.st_ino)}
            inner = [item for item in os.scandir(folder) if not is_junk(item.name)]
        except OSError:
            yield prefix, Entry(0, 0, 0, "cannot be read")
            continue
        for item in inner:
            path = prefix + item.name
            try:
                state = item.stat()
            except OSError:
                yield path, Entry(0, 0, 0, "broken link")
                continue
            if not stat.S_ISDIR(state.st_mode):
                yield path, _entry(state)
            elif (state.st_dev, state.st_ino) not in chain:
                pending.append((item.path, f"{path}/", chain))


def _entry(state: os.stat_result) -> Entry:
    # Opening a pipe or a device could block.
    reason = "" if stat.S_ISREG(state.st_mode) else "not a regular file"
    return Entry(state.st_size, state.st_mtime_ns, state.st_ctime_ns, reason)


def with_hashes(source: Source, files: dict[str, Entry], known: Mapping[str, Entry]) -> dict[str, Entry]:
    """Add the hashes: from ``known`` if size and times are the same, otherwise from the content."""
    found = {path: entry for path, entry in files.items() if not entry.sha256}
    same = {path: known[path] for path, entry in found.items() if path in known and known[path][:3] == entry[:3]}
    new = {}
    for path in progress(found.keys() - same.keys(), len(found) - len(same), "source", "files"):
        assert source.location is not None
        new[path] = found[path]._replace(sha256=file_sha256(source.location / path))
    return files | same | new


def list_source(source: Source, known: Mapping[str, Entry]) -> dict[str, Entry]:
    """The files with their hashes, which are remembered for the next listing."""
    now = time.time_ns()
    files = with_hashes(source, list_files(source), known)
    if files != known:
        remember(source, files, now)
    return files


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, or that it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return "cannot be read"
    return digest.hexdigest()


def summary(source: Source, files: Mapping[str, Entry]) -> dict[str, Any]:
    """The content of ``data/source.json``: the same on each machine that has the same files at any location."""
    content: dict[str, Any] = {"source": source.kind}
    if source.location is not None:
        digest = hashlib.sha256()
        for path, name in sorted((os.fsencode(path), path) for path in files):
            digest.update(b"%b\0%b\0" % (path, files[name].sha256.encode()))
        size = sum(entry.size for entry in files.values())
        content |= {"files": len(files), "bytes": size, "sha256": digest.hexdigest()}
    if source.labels:
        content["labels"] = {split: file_sha256(path) for split, path in source.labels.items()}
    return content


def read_summary(path: Path = SOURCE) -> dict[str, Any]:
    """The content of ``data/source.json``, or of a file like it; empty if there is none or it is damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def current_summary(source: Source) -> dict[str, Any]:
    """What the stage would write to ``data/source.json`` now."""
    if problem_of(source):
        before = read_summary()
        return before if has_listing(before, source) else {"source": source.kind}
    return summary(source, list_source(source, recall(source)))


def changes_since(source: Source) -> str:
    """How the source differs from ``data/source.json``; empty if it does not, or if one of them is not here.

    Only files that are known from the last listing on this machine are read, if their size or times changed; nothing is
    written.
    """
    before = read_summary()
    if source.location is None or problem_of(source) or not has_listing(before, source):
        return ""
    known, files = recall(source), list_files(source)
    if known:
        files |= with_hashes(source, {path: entry for path, entry in files.items() if path in known}, known)
        if summary(source, files) == before:
            return ""
        if counts := differences(known, files):
            return counts
    now = summary(source, files)
    numbers = [f"{content['files']:,} files of {content['bytes']:,} bytes" for content in (before, now)]
    if numbers[0] == numbers[1]:
        return "other content" if known else ""
    return f"{numbers[0]} before, {numbers[1]} now"


def has_listing(content: Mapping[str, Any], source: Source) -> bool:
    """Whether the content of ``data/source.json`` is a listing of a source of this kind."""
    return content.get("source") == source.kind and "sha256" in content


def differences(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> str:
    """``20 added, 1 removed, 3 changed``; empty if there is no difference."""
    changed = sum(before[path].sha256 != after[path].sha256 for path in before.keys() & after.keys())
    counts = {"added": len(after.keys() - before.keys()), "removed": len(before.keys() - after.keys())}
    return ", ".join(f"{count:,} {what}" for what, count in {**counts, "changed": changed}.items() if count)


def recall(source: Source) -> dict[str, Entry]:
    """The files as the last listing on this machine found them; empty if there was none."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return {path: Entry(*entry) for path, entry in json.loads(_memory(source).read_text("utf-8")).items()}
    return {}


def remember(source: Source, files: Mapping[str, Entry], listed: int) -> None:
    """Keep the files for :func:`recall`, without the times of those that changed just before they were ``listed``."""
    settled = listed - TICK
    content = {path: entry if entry.changed < settled else entry._replace(changed=0) for path, entry in files.items()}
    path = _memory(source)
    if source.location is not None and path.parents[2].is_dir():
        write_text(path, json.dumps(content))


def _memory(source: Source) -> Path:
    # In DVC's folder of temporary files of the repository: temporary workspaces of experiments share it.
    name = hashlib.sha256(os.fsencode(Path(source.location or "").absolute())).hexdigest()[:16]
    return repository_root() / ".dvc/tmp/source" / f"{name}.json"
