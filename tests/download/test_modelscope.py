"""A dataset on the hub has the same images by git and git-lfs as by the hub's client, in every layout."""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.common.file_types import is_part
from pipeline.download import git_lfs
from pipeline.download.sources import DATASET, open_modelscope
from pipeline.errors import PipelineError
from tests.support.archives import packed
from tests.support.hubs import LFS_ENDINGS, Dataset, Hub, git, object_path

HAS_CLIENT = importlib.util.find_spec("modelscope_hub") is not None
needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
needs_client = pytest.mark.skipif(not HAS_CLIENT, reason="the extra modelscope is not installed")
pytestmark = needs_lfs

IMAGES = {f"train/{index % 3}_{index}.jpg": f"train {index}".encode() * 200 for index in range(6)}
IMAGES |= {f"valid/{index % 3}_{index}.jpg": f"valid {index}".encode() * 200 for index in range(3)}
IMAGES |= {f"test/{index:04}.jpg": f"test {index}".encode() * 200 for index in range(4)}
AROUND = {
    "README.md": b"# Homework 3",
    "dataset_infos.json": b"{}",
    "assets/cover.png": b"cover",
    "hw3_data/.DS_Store": b"\0",
}


def of_split(split):
    return {path: content for path, content in IMAGES.items() if path.startswith(split)}


LOOSE = AROUND | {f"hw3_data/{path}": content for path, content in IMAGES.items()}
LAYOUTS = {
    "loose": LOOSE,
    "three zips": AROUND | {f"hw3_data/{split}.zip": packed(of_split(split)) for split in ("train", "valid", "test")},
    "zips without their folder": AROUND
    | {
        f"{split}.zip": packed({path.split("/")[1]: content for path, content in of_split(split).items()})
        for split in ("train", "valid", "test")
    },
    "one zip": AROUND | {"food11.zip": packed({f"food11/{path}": content for path, content in IMAGES.items()})},
    "zips in a zip": AROUND
    | {"hw3_data.zip": packed({f"hw3_data/{s}.zip": packed(of_split(s)) for s in ("train", "valid", "test")})},
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def kept_file(cache, content):
    """The file of the cache with this content."""
    return cache / "objects" / sha256(content)[:2] / sha256(content)


def described(images):
    """Split, label and content of each image, without its path."""
    return sorted((split or "", -1 if label is None else label, content) for split, label, content in images)


WANTED = described(
    (path.split("/")[0], None if path.startswith("test") else int(path.split("/")[1][0]), content)
    for path, content in IMAGES.items()
)


@pytest.fixture
def cache(workspace, monkeypatch):
    """An empty cache; the user's own files are not read, and there is no proxy between the test and its server."""
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(workspace / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return workspace / "cache"


@pytest.fixture
def root(workspace):
    """The folder of the hub's repositories."""
    return workspace / "hub"


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Build a dataset once per session, and return the root of its hub."""

    @functools.cache
    def build(name, layout, lfs, refs):
        root = tmp_path_factory.mktemp("built")
        Dataset(root, name, lfs).commit(LAYOUTS[layout], *refs)
        return root

    return build


@pytest.fixture
def publish(built, root):
    """Publish a dataset on the test's own hub, and return it with its commit."""

    def published(*refs, layout="loose", name=DATASET, lfs=LFS_ENDINGS):
        shutil.copytree(built(name, layout, lfs, refs), root, symlinks=True, dirs_exist_ok=True)
        dataset = Dataset(root, name)
        return dataset, git(dataset.work, "rev-parse", "HEAD").strip()

    return published


@pytest.fixture
def impatient(monkeypatch):
    """The hub's client does not retry."""
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 1)
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)


def without_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)


WAYS = [
    pytest.param("file"),
    pytest.param("http", marks=pytest.mark.slow),
    pytest.param("client", marks=needs_client),
]


@pytest.fixture(params=WAYS)
def way(request, cache, root, monkeypatch):
    """Set up one way to fetch; the hub, if it is a server."""
    if request.param == "file":
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"file://{root}")
        yield None
        return
    with Hub(root) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        if request.param == "http":
            without_client(monkeypatch)
        yield hub


@pytest.fixture
def at_file(cache, root, monkeypatch):
    """Fetch by git and git-lfs, from a folder."""
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"file://{root}")


@pytest.fixture
def hub(cache, root, monkeypatch):
    """Fetch by the hub's client."""
    with Hub(root) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def modelscope(data_params):
    """Open the source, and return split, label and content of each image."""

    def found(**changes):
        with open_modelscope(data_params("modelscope", **changes)) as source:
            return described((image.split, image.label, source.read(image.path)) for image in source.images)

    return found


@pytest.fixture
def complaint(modelscope):
    """The one-line message with which a dataset is refused."""

    def refused(**changes):
        with pytest.raises(PipelineError) as error:
            modelscope(**changes)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    return refused


class TestEveryWay:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_finds_the_images_in_every_layout(self, way, publish, modelscope, layout):
        publish(layout=layout)
        assert modelscope() == WANTED

    def test_reads_images_that_are_not_in_git_lfs(self, way, publish, modelscope):
        publish(lfs=())
        assert modelscope() == WANTED

    def test_prints_the_commit_of_a_branch(self, way, publish, modelscope, capsys):
        _, commit = publish()
        modelscope()
        assert f"{DATASET} master is the commit {commit}; set data.revision to it" in capsys.readouterr().out

    def test_needs_no_network_for_a_commit_that_was_fetched(self, way, root, modelscope, capsys, publish):
        _, commit = publish()
        modelscope()
        root.rename(root.with_name("gone"))
        if way:
            way.requests.clear()
        capsys.readouterr()
        assert modelscope(revision=commit) == WANTED
        assert not way or way.requests == []
        assert "is the commit" not in capsys.readouterr().out

    def test_a_branch_is_fetched_again_and_a_commit_stays(self, way, publish, modelscope):
        dataset, old = publish()
        assert modelscope() == WANTED
        # Of the same size, so that only the content differs.
        path, content = "hw3_data/train/0_0.jpg", IMAGES["train/0_0.jpg"]
        dataset.commit(LOOSE | {path: content.upper()})
        assert ("train", 0, content.upper()) in modelscope()
        assert modelscope(revision=old) == WANTED

    @pytest.mark.parametrize("ref", ["v1", "refs/tags/v1", "feature/new"])
    def test_accepts_tags_and_branches(self, way, publish, modelscope, ref):
        dataset, _ = publish(ref)
        dataset.commit({"README.md": b"empty"}, "master")
        assert modelscope(revision=ref.removeprefix("refs/tags/")) == WANTED

    def test_accepts_other_datasets(self, way, root, modelscope):
        Dataset(root, "someone/Pets.v2").commit({"cat/1.jpg": b"a", "dog/2.jpg": b"b"})
        assert modelscope(location="someone/Pets.v2") == [("", 0, b"a"), ("", 1, b"b")]

    def test_refuses_a_missing_dataset(self, way, root, complaint):
        root.mkdir()
        assert complaint(location="someone/nothing").startswith("data.location: someone/nothing could not be f")

    def test_refuses_a_missing_revision_and_lists_the_existing_ones(self, way, publish, complaint):
        publish("master", "refs/tags/v1")
        message = complaint(revision="v2")
        assert message.startswith("data.revision: ")
        assert "has no branch or tag v2; allowed are master, v1, or the 40 digits of a commit" in message

    def test_refuses_a_missing_commit(self, way, publish, complaint):
        publish()
        assert DATASET in complaint(revision="0" * 40)


@pytest.mark.parametrize(
    "changes", [{"location": "../elsewhere"}, {"location": "a/.."}, {"revision": "a/../../../b"}, {"revision": ".."}]
)
def test_names_outside_the_cache_are_refused(data_params, changes):
    with pytest.raises(ValidationError, match="allowed "):
        data_params("modelscope", **changes)


@pytest.mark.parametrize("revision", ["master", "v1.0", "feature/x-1", "a" * 40, "release/2.0.1"])
def test_revisions_are_branches_tags_and_commits(data_params, revision):
    assert data_params("modelscope", revision=revision).revision == revision


class TestGit:
    def test_checks_nothing_out_and_keeps_one_copy(self, at_file, cache, workspace, publish, modelscope):
        _, commit = publish()
        modelscope()
        assert [path.name for path in (cache / "modelscope" / DATASET).iterdir()] == [f"{commit}.pack"]
        content = IMAGES["train/0_0.jpg"]
        copies = [path for path in workspace.rglob(sha256(content)) if not path.is_relative_to(workspace / "hub")]
        assert copies == [kept_file(cache, content)]
        assert copies[0].read_bytes() == content
        work = workspace / ".dvc/tmp/fetch" / f"{DATASET}.git"
        assert {path.name for path in work.iterdir()} <= {"HEAD", "config", "shallow", "objects", "refs", "lfs"}

    def test_fetches_only_what_a_new_commit_adds(self, cache, root, modelscope, monkeypatch, publish):
        without_client(monkeypatch)
        dataset, _ = publish()
        with Hub(root) as hub:
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
            modelscope()
            dataset.commit(LOOSE | {"hw3_data/train/2_new.jpg": b"new"})
            hub.requests.clear()
            assert ("train", 2, b"new") in modelscope()
        assert len([path for path, _ in hub.requests if path.startswith("/objects/")]) == 1

    @pytest.mark.parametrize("damage", [lambda old: b"x" * len(old), lambda old: old[:7]], ids=["changed", "cut"])
    def test_a_damaged_object_in_the_cache_is_never_used_and_fetched_again(
        self, at_file, cache, publish, modelscope, complaint, damage
    ):
        _, commit = publish()
        modelscope()
        content = IMAGES["valid/1_1.jpg"]
        kept = kept_file(cache, content)
        kept.unlink()  # it may be a hard link to the hub's
        kept.write_bytes(damage(content))
        if len(damage(content)) == len(content):
            assert f"{kept} is damaged" in complaint(revision=commit)
        assert modelscope(revision=commit) == WANTED

    def test_a_damaged_object_on_the_hub_is_refused(self, at_file, publish, complaint):
        dataset, _ = publish()
        content = IMAGES["valid/1_1.jpg"]
        theirs = object_path(dataset.remote, sha256(content))
        theirs.chmod(0o644)
        theirs.write_bytes(b"x" * len(content))
        assert sha256(content) in complaint()

    def test_a_missing_object_on_the_hub_is_refused(self, at_file, publish, complaint):
        dataset, _ = publish()
        oid = sha256(IMAGES["valid/1_1.jpg"])
        object_path(dataset.remote, oid).unlink()
        assert oid in complaint()

    def test_a_hub_that_sends_a_byte_now_and_then_is_given_up(self, cache, root, publish, complaint, monkeypatch):
        def drip(request):
            request.send_response(200)
            request.send_header("Content-Length", "10000")
            request.end_headers()
            with contextlib.suppress(OSError):  # git-lfs was ended
                for _ in range(500):
                    time.sleep(0.05)
                    request.wfile.write(b"x")

        publish()
        without_client(monkeypatch)
        monkeypatch.setattr(git_lfs, "LFS_SECONDS", 0.5)
        with Hub(root) as hub:
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
            hub.faults[f"/objects/{DATASET}"] = drip
            start = time.monotonic()
            assert re.search(r"\(git-lfs received \d+ bytes in 0.5 s\); check", complaint())
            assert time.monotonic() - start < 10

    def test_without_git_lfs_says_how_to_install_it(self, at_file, publish, workspace, complaint, monkeypatch):
        publish()
        (workspace / "bin").mkdir()
        (workspace / "bin/git").symlink_to(shutil.which("git"))
        monkeypatch.setenv("PATH", str(workspace / "bin"))
        message = complaint()
        assert "git-lfs, which is not installed; install it" in message
        assert "pip install -c constraints.txt -e '.[modelscope]'" in message

    def test_without_git_lfs_reads_images_that_are_not_in_it(
        self, at_file, publish, workspace, modelscope, monkeypatch
    ):
        publish(lfs=())
        (workspace / "bin").mkdir()
        (workspace / "bin/git").symlink_to(shutil.which("git"))
        monkeypatch.setenv("PATH", str(workspace / "bin"))
        assert modelscope() == WANTED

    def test_without_git_says_so(self, at_file, complaint, monkeypatch):
        monkeypatch.setenv("PATH", "")
        message = complaint()
        assert "git is not installed" in message
        assert "pip install -c constraints.txt -e '.[modelscope]'" in message

    def test_runs_no_hook_and_asks_nothing(self, at_file, publish, workspace, modelscope, monkeypatch):
        publish()
        hooks = workspace / "hooks"
        hooks.mkdir()
        for name in ("post-checkout", "post-merge", "reference-transaction", "post-rewrite"):
            (hooks / name).write_text(f"#!/bin/sh\ntouch {workspace}/ran\n")
            (hooks / name).chmod(0o755)
        config = workspace / "gitconfig"
        git(workspace, "config", "--file", str(config), "core.hooksPath", str(hooks))
        git(workspace, "config", "--file", str(config), "lfs.url", "http://127.0.0.1:9/nobody")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        monkeypatch.setenv("GIT_DIR", str(workspace / "elsewhere"))
        assert modelscope() == WANTED
        assert not (workspace / "ran").exists()

    def test_a_link_named_like_an_image_is_refused(self, at_file, publish, complaint):
        dataset, _ = publish()
        (dataset.work / "hw3_data/train/0_link.jpg").symlink_to("/etc/hostname")
        git(dataset.work, "add", "--all")
        git(dataset.work, "commit", "--quiet", "--message", "link")
        git(dataset.work, "push", "--quiet", "--no-verify", str(dataset.remote), "HEAD:refs/heads/master")
        assert "'hw3_data/train/0_link.jpg'" in complaint()

    def test_a_server_that_does_not_serve_commits_by_hash(
        self, cache, workspace, root, modelscope, monkeypatch, publish
    ):
        without_client(monkeypatch)
        dataset, old = publish()
        dataset.commit({"README.md": b"empty"})
        with Hub(root) as hub:
            hub.protocol = ""  # the oldest version: a commit that is not the head of a branch is refused
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
            assert modelscope(revision=old) == WANTED
        assert "refs/heads/master" in git(workspace / ".dvc/tmp/fetch" / f"{DATASET}.git", "for-each-ref")


@needs_client
class TestClient:
    def test_interrupted_files_are_resumed(self, hub, publish, modelscope):
        publish()
        hub.faults["train/0_3"] = 300
        assert modelscope() == WANTED
        assert "bytes=300-" in [asked for path, asked in hub.requests if "0_3.jpg" in path]

    def test_accepts_more_files_than_fit_on_a_page_of_the_listing(self, hub, root, modelscope):
        many = {f"train/{index % 2}_{index}.jpg": b"%d" % index for index in range(250)}
        Dataset(root, DATASET, lfs=()).commit(many)
        assert len(modelscope()) == 250
        assert [page for page in "12" if any(f"PageNumber={page}" in path for path, _ in hub.requests)] == list("12")

    def test_works_without_git_and_prints_that_the_revision_may_change(self, hub, publish, modelscope, capsys):
        dataset, _ = publish()
        hub.git = False
        assert modelscope() == WANTED
        assert "its images may change later" in capsys.readouterr().out
        path, content = "hw3_data/train/0_0.jpg", IMAGES["train/0_0.jpg"]
        dataset.commit({key: value for key, value in LOOSE.items() if "1_1" not in key} | {path: content.upper()})
        found = modelscope()
        assert ("train", 0, content.upper()) in found
        assert len(found) == len(WANTED) - 2

    def test_a_damaged_file_in_the_cache_is_never_used_and_fetched_again(
        self, hub, cache, publish, modelscope, complaint
    ):
        _, commit = publish()
        modelscope()
        kept = kept_file(cache, IMAGES["valid/1_1.jpg"])
        kept.write_bytes(b"x" * kept.stat().st_size)
        assert f"{kept} is damaged" in complaint(revision=commit)
        hub.requests.clear()
        assert modelscope(revision=commit) == WANTED
        assert len([path for path, _ in hub.requests if "FilePath" in path]) == 1

    def test_a_file_with_the_wrong_content_is_refused(self, hub, publish, complaint, impatient):
        publish()
        hub.faults["FilePath=hw3_data%2Ftrain%2F0_0"] = b"x" * len(IMAGES["train/0_0.jpg"])
        assert "hw3_data/train/0_0.jpg: " in complaint()

    @pytest.mark.parametrize(
        "answer", [b"<html>log in</html>", b'{"Code": 500, "Success": false, "Data": null}', 403, 500]
    )
    def test_an_invalid_listing_is_refused(self, hub, publish, complaint, impatient, answer):
        _, commit = publish()
        hub.faults["/repo/tree"] = answer
        assert complaint(revision=commit).startswith(f"data.location: {DATASET} ")

    @pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg", "C:\\outside.jpg"])
    def test_a_listing_with_unsafe_names_is_refused(self, hub, cache, publish, complaint, name):
        _, commit = publish()
        entry = f'{{"Path": {name!r}, "Type": "blob", "Size": 1, "Sha256": ""}}'.replace("'", '"')
        hub.faults["/repo/tree"] = f'{{"Code": 200, "Data": {{"Files": [{entry}]}}}}'.encode()
        assert repr(name) in complaint(revision=commit)
        assert not [path for path, _ in hub.requests if "FilePath" in path]

    def test_prints_no_progress_bars_into_a_log_file(self, hub, publish, modelscope, capfd):
        publish()
        modelscope()
        assert capfd.readouterr().err == ""

    def test_leaves_only_the_files_and_their_list(self, hub, cache, workspace, publish, modelscope):
        _, commit = publish()
        modelscope()
        left = {path.name for path in cache.rglob("*") if path.is_file()}
        assert left == {f"{commit}.json", *(sha256(content) for path, content in LOOSE.items() if is_part(path))}
        left = [path.name for path in (workspace / ".dvc").rglob("*") if path.is_file()]
        assert left == [f"{Path(DATASET).name}.hub.lock"]


def test_a_hub_that_does_not_answer_is_named(cache, complaint, monkeypatch):
    without_client(monkeypatch)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    message = complaint()
    assert message.startswith(f"data.location: {DATASET} could not be found at http://127.0.0.1:9/datasets/")


def test_an_endpoint_without_a_scheme_is_https_as_for_the_client(cache, complaint, monkeypatch):
    without_client(monkeypatch)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "127.0.0.1:9/")
    assert " at https://127.0.0.1:9/datasets/Datawhale/LeeDL-HW3-CNN.git (" in complaint()


def test_two_processes_fetch_one_after_the_other(cache, root, data_params, monkeypatch, workspace, publish):
    publish()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.params.schema import DataParams\n"
        "from pipeline.download.sources import open_modelscope\n"
        "with open_modelscope(DataParams.model_validate_json(sys.argv[2])) as source:\n"
        "    print(len([source.read(image.path) for image in source.images]))\n"
    )
    arguments = [str(Path(__file__).parents[2]), data_params("modelscope").model_dump_json()]
    environment = os.environ | {"MODELSCOPE_ENDPOINT": f"file://{root}"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    assert [process.communicate()[0].splitlines()[-1] for process in processes] == [b"13"] * 2
