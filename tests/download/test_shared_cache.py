"""Another user who can write to the cache runs no program, overwrites no file, and changes no image."""

import hashlib
import os
import shutil
import stat
import subprocess

import pytest

from pipeline.download.cache import FetchError
from pipeline.download.git_lfs import resolve
from pipeline.download.http import RetryPolicy, fetch
from pipeline.download.sources import DATASET, open_modelscope
from pipeline.errors import PipelineError
from tests.support.faulty_server import CONTENT, Site, good
from tests.support.hubs import Dataset, Hub, git

needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHORT = RetryPolicy(connect_timeout=2, read_timeout=1, tries=2, first_pause=0.001, longest_pause=0.01)
FILES = {f"{name}/{index}.jpg": f"{name} {index}".encode() * 100 for name in ("cat", "dog") for index in range(3)}
WANTED = sorted(FILES.values())


@pytest.fixture
def cache(workspace, monkeypatch):
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(workspace / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (workspace / "cache").mkdir()
    return workspace / "cache"


@pytest.fixture
def kept(cache):
    """The path of the archive in the cache."""
    return cache / SHA256


@pytest.fixture
def site():
    with Site(good) as site:
        yield site
        site.shutdown()


def fetched(site):
    with fetch([site.url], SHA256, SHORT) as file:
        return file.read()


def as_link(path, target):
    path.symlink_to(target)


def as_hard_link(path, target):
    path.hardlink_to(target)


@pytest.mark.parametrize("link", [as_link, as_hard_link])
def test_a_link_in_place_of_a_partial_download_is_not_written_through(site, kept, workspace, capsys, link):
    mine = workspace / "thesis.txt"
    mine.write_bytes(CONTENT[:50])
    part = kept.with_name(f"{SHA256}.part")
    link(part, mine)
    assert fetched(site) == CONTENT
    assert mine.read_bytes() == CONTENT[:50]
    assert f"{part} is a link, or another user can have written it: it is replaced" in capsys.readouterr().out


def test_a_dangling_link_in_place_of_a_partial_download_creates_nothing(site, kept, workspace):
    as_link(kept.with_name(f"{SHA256}.part"), workspace / "new")
    assert fetched(site) == CONTENT
    assert not (workspace / "new").exists()


@pytest.mark.parametrize("name", ["", ".part", ".lock"])
def test_a_pipe_does_not_hang(site, kept, name):
    os.mkfifo(kept.with_name(SHA256 + name))
    assert fetched(site) == CONTENT


def test_a_link_in_place_of_the_file_is_replaced_even_if_it_leads_to_the_right_content(site, kept, workspace, capsys):
    (workspace / "elsewhere").write_bytes(CONTENT)
    as_link(kept, workspace / "elsewhere")
    assert fetched(site) == CONTENT
    assert f"{kept} is a link; fetching it again" in capsys.readouterr().out
    assert stat.S_ISREG(kept.lstat().st_mode)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644


def test_a_link_in_place_of_a_lock_is_one_line_and_changes_nothing(site, kept, workspace):
    (workspace / "mine").write_text("mine")
    as_link(kept.with_name(f"{SHA256}.lock"), workspace / "mine")
    with pytest.raises(
        PipelineError, match=r"^.*\.lock: cannot be locked \(Too many levels of symbolic links\); remove"
    ):
        fetched(site)
    assert (workspace / "mine").read_text() == "mine"


def test_every_user_can_use_a_lock_that_stays(site, kept):
    assert fetched(site) == CONTENT
    assert stat.S_IMODE(kept.with_name(f"{SHA256}.lock").stat().st_mode) == 0o666


@needs_root
def test_a_file_of_another_user_is_read_from_a_copy(site, kept):
    assert fetched(site) == CONTENT
    os.chown(kept, 1234, 1234)
    with fetch([], SHA256, SHORT) as file:
        with kept.open("r+b") as theirs:
            theirs.write(b"changed after the check")
        assert file.read() == CONTENT


@needs_root
def test_the_partial_download_of_another_user_is_not_continued(kept):
    part = kept.with_name(f"{SHA256}.part")
    part.write_bytes(CONTENT[:50])
    os.chown(part, 1234, 1234)
    with Site(good) as site:
        assert fetched(site) == CONTENT
        assert site.offsets() == [0]
        site.shutdown()
    assert kept.stat().st_uid == os.geteuid()


@pytest.fixture
def publish(cache, workspace):
    """Publish a dataset, in git-lfs or in git alone, and return its commit."""

    def published(lfs=("*.jpg",), more=None):
        dataset = Dataset(workspace / "hub", DATASET, lfs)
        for path, content in (more or {}).items():
            (dataset.work / path).write_text(content)
        return dataset.commit(FILES | {path: content.encode() for path, content in (more or {}).items()})

    return published


@pytest.fixture
def images(cache, workspace, data_params, monkeypatch):
    """Open the dataset by git, and return the contents of its images; in a new clone if that is so."""

    def found(new_clone=False, endpoint=f"file://{workspace}/hub", **changes):
        if new_clone:
            shutil.rmtree(workspace / ".dvc", ignore_errors=True)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", endpoint)
        with open_modelscope(data_params("modelscope", **changes)) as source:
            return sorted(source.read(image.path) for image in source.images)

    return found


def settings_that_run(program):
    """Settings of git and git-lfs that name a program, as another user would plant them."""
    return f"""
[core]
    repositoryformatversion = 0
    bare = true
    fsmonitor = {program}
    sshCommand = {program}
    gitProxy = {program}
    pager = {program}
    hooksPath = hooks
    alternateRefsCommand = {program}
[protocol]
    allow = always
[protocol "ext"]
    allow = always
[credential]
    helper = !{program}
[uploadpack]
    packObjectsHook = {program}
[remote "origin"]
    uploadpack = {program}
    vcs = ext
[filter "lfs"]
    process = {program}
    smudge = {program}
[lfs]
    standalonetransferagent = planted
    url = ext::{program}
[lfs "customtransfer.planted"]
    path = {program}
[url "ext::{program} "]
    insteadOf = file://
    insteadOf = http://
[include]
    path = {program}.config
"""


@needs_lfs
@pytest.mark.parametrize("place", ["cache", "tree", "home"])
def test_no_planted_setting_or_hook_runs_a_program(cache, workspace, publish, images, monkeypatch, place):
    ran, program = workspace / "ran", workspace / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    program.chmod(0o755)
    config = settings_that_run(program)
    publish(more={".lfsconfig": config} if place == "tree" else None)
    if place == "home":
        (workspace / "home").mkdir()
        (workspace / "home/.gitconfig").write_text(config)
        monkeypatch.setenv("HOME", str(workspace / "home"))
    # Everything that could be taken for a repository, of this and of the older layout.
    for folder in [
        cache,
        cache / "modelscope",
        cache / "modelscope" / DATASET,
        cache / "modelscope" / f"{DATASET}.git",
    ]:
        if place == "cache":
            git(workspace, "init", "--quiet", "--bare", "--template=", str(folder))
            (folder / "config").write_text(config)
            (folder / "hooks").mkdir()
            for hook in ("reference-transaction", "post-checkout", "pre-auto-gc", "post-index-change"):
                shutil.copy(program, folder / "hooks" / hook)
    assert images() == WANTED
    assert images(new_clone=True) == WANTED
    assert not ran.exists()


@pytest.mark.parametrize("transport", ["ext::touch ran", "ssh://nobody@127.0.0.1/x", "git://127.0.0.1/x"])
def test_git_uses_no_transport_that_runs_a_program(workspace, transport):
    with pytest.raises(FetchError, match=r"^fatal: transport '\w+' not allowed$"):
        resolve(transport, "master")
    assert not (workspace / "ran").exists()


def test_a_new_clone_uses_the_pack_of_the_cache_without_a_network(cache, workspace, publish, images):
    commit = publish(lfs=())
    assert images() == WANTED
    (workspace / "hub").rename(workspace / "gone")
    assert images(new_clone=True, revision=commit) == WANTED


def packed(workspace, revisions, *options):
    """A pack of objects in the hub's repository."""
    command = ["git", "pack-objects", "--quiet", "--stdout", *options]
    folder = workspace / "hub" / "datasets" / f"{DATASET}.git"
    return subprocess.run(command, cwd=folder, input=revisions.encode(), capture_output=True, check=True).stdout


def another_commit(pack, workspace):
    other = Dataset(workspace / "hub", DATASET, lfs=())
    commit = other.commit({path: content.upper() for path, content in FILES.items()}, "other")
    pack.write_bytes(packed(workspace, f"{commit}\n^{pack.stem}\n", "--revs"))


def without_images(pack, workspace):
    pack.write_bytes(packed(workspace, f"{pack.stem}\n"))


def flipped(pack, workspace):
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)


def truncated(pack, workspace):
    pack.write_bytes(pack.read_bytes()[:-30])


def linked(pack, workspace):
    pack.rename(workspace / "moved.pack")
    pack.symlink_to(workspace / "moved.pack")


def piped(pack, workspace):
    pack.unlink()
    os.mkfifo(pack)


@pytest.mark.parametrize("plant", [another_commit, without_images, flipped, truncated, linked, piped])
def test_a_planted_pack_changes_no_image(cache, workspace, publish, images, capsys, plant):
    commit = publish(lfs=())
    assert images() == WANTED
    pack = cache / "modelscope" / DATASET / f"{commit}.pack"
    plant(pack, workspace)
    capsys.readouterr()
    assert images(new_clone=True, revision=commit) == WANTED
    assert f"download: {pack} is not used (" in capsys.readouterr().out
    assert images(new_clone=True, revision=commit) == WANTED
    assert "is not used" not in capsys.readouterr().out


@needs_lfs
def test_a_folder_of_the_cache_that_is_a_link_is_not_written_through(cache, workspace, publish, images):
    publish()
    (workspace / "mine").mkdir()
    (cache / "objects").symlink_to(workspace / "mine")
    with pytest.raises(
        PipelineError, match=r"^.*/objects/\w\w: is a link, or in one; remove it, or set PIPELINE_CACHE"
    ):
        images()
    assert not [path for path in (workspace / "mine").rglob("*") if path.is_file()]


@needs_root
def test_the_list_of_files_of_another_user_is_not_believed(cache, workspace, publish, images):
    pytest.importorskip("modelscope_hub")
    commit = publish(())
    with Hub(workspace / "hub") as hub:
        assert images(endpoint=hub.url) == WANTED
        record = cache / "modelscope" / DATASET / f"{commit}.json"
        record.write_text(record.read_text().replace("cat/0.jpg", "dog/9.jpg"))
        os.chown(record, 1234, 1234)
        hub.requests.clear()
        assert images(endpoint=hub.url, revision=commit) == WANTED
        assert not [path for path, _ in hub.requests if "FilePath" in path]
