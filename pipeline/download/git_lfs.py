"""Fetches a commit of a remote git repository with its Git LFS objects, and reads the files without a checkout."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pipeline.common.file_types import HEAD, is_part
from pipeline.common.files import replacing
from pipeline.common.text import listed, one_line
from pipeline.download.cache import (
    CachedFile,
    FetchError,
    UnusableError,
    add_file,
    locked,
    open_regular,
    require_space,
    work_folder,
)
from pipeline.download.safety import check_files
from pipeline.download.trees import FileTree, Sorter
from pipeline.errors import PipelineError
from pipeline.progress import say

HUB_CLIENT = "pip install -c constraints.txt -e '.[modelscope]'"
LARGEST_POINTER = 1024  # bytes; git-lfs takes no larger file for a pointer
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n?"
)
# Settings that could run a program, ask a question or apply the user's own configuration.
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "credential.helper": "",
    "protocol.allow": "never",  # ssh and ext run programs
    "protocol.https.allow": "always",
    "protocol.http.allow": "always",
    "protocol.file.allow": "always",
    "gc.auto": "0",
    "init.defaultBranch": "master",
    "http.lowSpeedLimit": "100",  # bytes per second, for
    "http.lowSpeedTime": "60",  # seconds
}
# git-lfs has no such settings; when it resumes, it first reads what is there.
LFS_SECONDS, LFS_LEAST = 120.0, 12_000  # bytes
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
}
_KEPT = ("GIT_SSL_", "GIT_PROXY_", "GIT_TRACE", "GIT_CURL_", "GIT_EXEC_PATH")


def resolve(url: str, revision: str) -> str:
    """Return the commit, 40 hexadecimal digits, of a branch or a tag; a commit is returned unchanged.

    Raises:
        FetchError: git is not installed, or the repository cannot be reached.
        PipelineError: the repository has no such branch or tag.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    lines = _git(None, "ls-remote", "--quiet", url).splitlines()
    refs = {ref: commit for commit, _, ref in (line.partition("\t") for line in lines)}
    # An annotated tag is an object of its own; ^{} is the commit that it points to.
    for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}"):
        if ref in refs:
            return refs[ref]
    known = sorted(found[1] for found in (re.fullmatch(r"refs/(?:heads|tags)/(.*[^}])", ref) for ref in refs) if found)
    raise PipelineError(
        f"data.revision: {one_line(url)} has no branch or tag {revision}; allowed are {listed(known)}, or the 40 "
        "digits of a commit"
    )


@contextmanager
def git_tree(name: str, url: str, commit: str, folder: Path) -> Iterator[FileTree]:
    """Yield the files of a commit, after fetching what is not in the cache yet.

    git and git-lfs work in a repository outside the cache, since settings, hooks and links that another user planted
    there would run programs and overwrite files. The cache has the files in git-lfs, and the objects of each commit in
    one pack, which git verifies as if it came from the network.

    Args:
        name, url: of the repository.
        commit: 40 hexadecimal digits.
        folder: in the cache, for the packs of this repository.

    Raises:
        FetchError: git or git-lfs failed.
        PipelineError: git-lfs is not installed, the commit contains links, or the disk has not enough space.
    """
    repository = work_folder(f"{name}.git")
    with locked(repository):
        _fetch_commit(repository, url, commit, folder / f"{commit}.pack")
        with closing(_Blobs(repository)) as blobs:
            blob_of, objects, sorter = _files(repository, commit, blobs)
        sizes = {path: size for path, (_, size) in blob_of.items()}
        sizes |= {path: file.size for path, file in objects.items()}
        check_files(name, sizes)
        _fetch_objects(name, repository, url, commit, objects)
    with closing(_Blobs(repository)) as blobs:
        yield FileTree(
            name,
            sizes,
            lambda path: objects[path].open() if path in objects else BytesIO(blobs.read(blob_of[path][0])),
            *(frozenset(sorter.recognised), sorter.left_out),
        )


def _git(
    repository: Path | None,
    *arguments: str,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    growing: Path | None = None,
) -> str:
    """Run git and return its output; or show it on the terminal, while the folder ``growing`` grows fast enough."""
    with (
        _inherited(repository) as inherited,
        subprocess.Popen(
            _command(repository, *arguments),
            stdin=stdin,
            stdout=sys.stderr if growing and sys.stderr.isatty() else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            pass_fds=inherited,
        ) as process,
    ):
        try:
            size = _size(growing)
            while True:
                try:
                    output, complaint = process.communicate(timeout=LFS_SECONDS if growing else None)
                    break
                except subprocess.TimeoutExpired:
                    before, size = size, _size(growing)
                    if size - before < LFS_LEAST:
                        raise FetchError(f"git-lfs received {size - before:,} bytes in {LFS_SECONDS:g} s") from None
        except BaseException:
            process.terminate()  # git ends git-lfs, too
            raise
    if process.returncode:
        raise FetchError(_reason(complaint.decode("utf-8", "replace")))
    return (output or b"").decode("utf-8", "surrogateescape")


def _in_use(repository: Path) -> Path:
    return repository.with_name(f"{repository.name}.in-use")


@contextmanager
def _inherited(repository: Path | None) -> Iterator[tuple[int, ...]]:
    """Yield a lock for git to inherit: if this process is killed, git may go on, and holds the lock until it ends."""
    if repository is None:
        yield ()
        return
    with _in_use(repository).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield (file.fileno(),)


def _size(folder: Path | None) -> int:
    """The bytes in the files of a folder."""
    size = 0
    for path in folder.rglob("*") if folder else ():
        with suppress(FileNotFoundError):  # it was renamed
            size += path.lstat().st_size
    return size


def _command(repository: Path | None, *arguments: str) -> list[str]:
    git = shutil.which("git")
    if git is None:
        raise FetchError("git is not installed")
    settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
    return [git, *settings, *([f"--git-dir={repository}"] if repository else []), *arguments]


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key.startswith(_KEPT)}
    return kept | _ENVIRONMENT


def _reason(output: str) -> str:
    """Choose the line that explains the error from the many that git prints."""
    ignored = re.compile(r"\s*$|warning:|hint:|error: failed to fetch some objects")
    lines = [line for line in output.splitlines() if not ignored.match(line)]
    lines = lines or [*output.splitlines(), "git printed no reason"]
    return one_line(next((line for line in lines if line.startswith("fatal:")), lines[0]))[:500]


def _fetch_commit(repository: Path, url: str, commit: str, pack: Path) -> None:
    """Add a commit with its files to the repository: from the pack in the cache, or else from the network."""
    pinned = f"refs/pinned/{commit}"
    _make_usable(repository)
    if _has(repository, pinned) or _unpack(repository, commit, pack):
        return
    say(f"download: fetching the commit {commit[:12]} of {one_line(url)} into {repository}")
    fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
    try:
        _git(repository, *fetch, "--depth=1", url, f"+{commit}:{pinned}")
    except FetchError as error:
        # Some servers do not serve a commit by its hash: fetch all branches and tags with their history.
        _git(repository, *fetch, f"--depth={2**31 - 1}", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        if not _has(repository, commit):
            raise error
        _git(repository, "update-ref", pinned, commit)
    with TemporaryFile() as wanted:
        wanted.write(f"{commit}\n".encode())
        wanted.seek(0)
        name = _git(repository, "pack-objects", "--quiet", "--revs", str(repository / "commit"), stdin=wanted).strip()
    add_file(repository / f"commit-{name}.pack", pack)
    for index in repository.glob("commit-*"):
        index.unlink()


def _make_usable(repository: Path) -> None:
    """Create the repository; or remove from it what a git that was killed left behind."""
    if repository.exists():
        with _in_use(repository).open("ab") as in_use:
            try:
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"download: waits for the git of a command that was killed, which works in {repository}")
                fcntl.flock(in_use, fcntl.LOCK_EX)
        # Nobody works in it, so nobody holds these locks.
        for lock in [*repository.glob("*.lock"), *(repository / "refs").rglob("*.lock")]:
            lock.unlink()
        try:
            _git(repository, "rev-parse", "--git-dir")
            return
        except FetchError as error:
            if "not a git repository" not in str(error):
                raise
    with replacing(repository) as temporary:
        _git(None, "init", "--quiet", "--bare", "--template=", str(temporary))


def _unpack(repository: Path, commit: str, pack: Path) -> bool:
    """Whether the cache has a pack with the commit and all its files, which are then added to the repository."""
    try:
        with open_regular(pack) as file:
            _git(repository, "index-pack", "--stdin", stdin=file)
        if not _has(repository, commit):
            raise FetchError("it does not contain the commit")
        with (repository / "shallow").open("a") as shallow:  # its parents need not be there
            shallow.write(f"{commit}\n")
        _git(repository, "rev-list", "--quiet", "--objects", commit)
        _git(repository, "update-ref", f"refs/pinned/{commit}", commit)
    except FileNotFoundError:
        return False
    except (FetchError, UnusableError) as error:
        say(f"download: {pack} is not used ({error}); fetching the commit again")
        return False
    return True


def _has(repository: Path, revision: str) -> bool:
    try:
        _git(repository, "rev-parse", "--quiet", "--verify", f"{revision}^{{commit}}")
    except FetchError:
        return False
    return True


def _files(
    repository: Path, commit: str, blobs: "_Blobs"
) -> tuple[dict[str, tuple[str, int]], dict[str, CachedFile], Sorter]:
    """The files of a commit that can belong to a dataset: those in git, as blob and size, and those in git-lfs."""
    blob_of, objects, sorter = {}, {}, Sorter()
    for line in _git(repository, "ls-tree", "-r", "-z", "--long", commit).split("\0")[:-1]:
        meta, _, path = line.partition("\t")
        mode, _, blob, size = meta.split()
        regular = mode.startswith("100")
        if not regular and is_part(path):
            raise PipelineError(f"data.location: {path!r} at {commit[:12]} is a link; allowed are regular files")
        # A file in git-lfs is not fetched to see what it is.
        if not sorter.takes(path, lambda blob=blob, regular=regular: blobs.read(blob)[:HEAD] if regular else b""):  # type: ignore[misc]
            continue
        pointer = _POINTER.fullmatch(blobs.read(blob)) if int(size) <= LARGEST_POINTER else None
        if pointer:
            oid = pointer[1].decode()
            objects[path] = CachedFile(int(pointer[2]), oid)
        else:
            blob_of[path] = (blob, int(size))
    return blob_of, objects, sorter


def _fetch_objects(name: str, repository: Path, url: str, commit: str, objects: dict[str, CachedFile]) -> None:
    own = {
        file: repository / "lfs" / "objects" / file.sha256[:2] / file.sha256[2:4] / file.sha256
        for file in objects.values()
    }
    missing = [file for file in own if not file.is_complete()]
    if not missing:
        return
    if shutil.which("git-lfs") is None:
        raise PipelineError(
            f"data.source: {name} is stored in git-lfs, which is not installed; install it (apt install git-lfs, "
            f"brew install git-lfs), or the hub's own client: {HUB_CLIENT}"
        )
    size = sum(file.size for file in missing)
    require_space(repository, size, name)
    say(f"download: fetching {len(missing):,} files, {size / 1e6:,.0f} MB, by git-lfs")
    for file in own.keys() - missing:
        # git-lfs does not fetch what is there.
        own[file].parent.mkdir(parents=True, exist_ok=True)
        own[file].unlink(missing_ok=True)
        own[file].symlink_to(file.path.absolute())
    _git(repository, "-c", f"remote.origin.url={url}", "lfs", "fetch", "origin", commit, growing=repository / "lfs")
    for file in missing:
        if own[file].is_file():
            add_file(own[file], file.path)
    left_out = sorted(path for path, file in objects.items() if not file.is_complete())
    if left_out:
        raise FetchError(f"git-lfs did not fetch {listed(left_out)}")


class _Blobs:
    """A git process that returns the content of any number of blobs."""

    def __init__(self, repository: Path) -> None:
        self._process = subprocess.Popen(
            _command(repository, "cat-file", "--batch"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._repository = repository

    def read(self, blob: str) -> bytes:
        """Return the content of a blob, of which git checked the hash when it was fetched.

        Raises:
            PipelineError: the repository in the cache is damaged.
        """
        with suppress(BrokenPipeError):  # then there is no answer
            self._requests.write(f"{blob}\n".encode())
            self._requests.flush()
        answer = self._answers.readline().split()
        if len(answer) == 3:
            content = self._answers.read(int(answer[2]) + 1)[:-1]
            if len(content) == int(answer[2]):
                return content
        raise PipelineError(f"{self._repository}: git cannot read {blob} there; remove that folder and run again")

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        self._process.wait()
