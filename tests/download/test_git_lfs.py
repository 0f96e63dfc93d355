"""A repository that a killed git or a killed command left behind is used again."""

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.download.cache import FetchError, work_folder
from pipeline.download.git_lfs import git_tree
from tests.support.hubs import Dataset, git

FILES = {"train/0_a.jpg": b"a" * 100, "train/1_b.jpg": b"b" * 100}
NAME = "owner/data"


@pytest.fixture
def commit(workspace, monkeypatch):
    """A commit of a repository without git-lfs in ``hub/``."""
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    return Dataset(workspace / "hub", NAME, lfs=()).commit(FILES)


@pytest.fixture
def repository(workspace):
    folder = work_folder(f"{NAME}.git")
    folder.mkdir(parents=True)
    return folder


def fetched(commit: str) -> dict[str, bytes]:
    """The content of each file."""
    url = Path("hub/datasets", f"{NAME}.git").absolute().as_uri()
    with git_tree(NAME, url, commit, Path("cache/modelscope", NAME).absolute()) as tree:
        return {path: tree.read(path) for path in tree.sizes}


@pytest.mark.parametrize(
    "lock", ["shallow.lock", "HEAD.lock", "packed-refs.lock", "refs/pinned/{commit}.lock", "refs/heads/a/b.lock"]
)
def test_locks_of_a_git_that_was_killed_are_removed(commit, repository, lock):
    git(repository, "init", "--quiet", "--bare")
    path = repository / lock.format(commit=commit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert fetched(commit) == FILES
    assert not list(repository.rglob("*.lock"))


@pytest.mark.parametrize("left", [(), ("objects",), ("objects", "refs", "HEAD.lock"), ("objects", "refs", "HEAD")])
def test_a_repository_that_was_not_completely_created_is_created_again(commit, repository, left):
    for name in left:
        (repository / name).write_bytes(b"") if name.startswith("HEAD") else (repository / name).mkdir()
    assert fetched(commit) == FILES
    assert sorted(path.name for path in repository.parent.iterdir()) == ["data.git", "data.git.in-use", "data.git.lock"]


def test_what_a_repository_has_is_kept_if_git_fails(commit, repository, monkeypatch):
    (repository / "objects").mkdir()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match="git is not installed"):
        fetched(commit)
    assert (repository / "objects").is_dir()


def test_a_git_that_outlives_its_command_keeps_its_locks_until_it_ends(commit, repository, capsys):
    git(repository, "init", "--quiet", "--bare")
    with repository.with_name("data.git.in-use").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        # It has inherited the lock of a command that is gone, and another one of git's own.
        code = "import pathlib, time; time.sleep(2); pathlib.Path('shallow.lock').unlink(); print(time.time())"
        orphan = subprocess.Popen(
            [sys.executable, "-c", code], cwd=repository, pass_fds=(file.fileno(),), stdout=subprocess.PIPE, text=True
        )
        (repository / "shallow.lock").write_bytes(b"")
    assert fetched(commit) == FILES
    output, _ = orphan.communicate()
    assert float(output) < time.time()
    assert orphan.returncode == 0
    assert "download: waits for the git of a command that was killed, which works in " in capsys.readouterr().out
