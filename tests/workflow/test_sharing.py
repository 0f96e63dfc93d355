"""What a colleague gets: data, models, finished runs and experiments, by a folder and by a server of S3."""

import json
import shutil
from pathlib import Path

import dvc.api
import pytest
from moto.server import ThreadedMotoServer
from safetensors import safe_open

from pipeline.common.paths import METRICS, MODEL
from tests.support.clones import SMALL, Clone, Workspace, stages_run

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
SETTINGS = {"OMP_NUM_THREADS": "1", "PIPELINE_DEVICE": "cpu", **KEYS}


@pytest.fixture(scope="module")
def server():
    """The address of an S3 server with the bucket ``models``."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **credentials).create_bucket(Bucket="models")
    yield url
    server.stop()


@pytest.fixture(scope="module")
def origin(tmp_path_factory, server):
    """A repository in which everything has run once and ``train`` a second time, with two remotes; all is pushed."""
    clone = Clone(tmp_path_factory.mktemp("origin"), {**SMALL, "evaluate.bootstrap": 0}, SETTINGS)
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "config", "user.email", "test@localhost")
    clone.without_remote = clone.run("dvc", "push", fails=True)
    clone.run("dvc", "remote", "add", "--default", "storage", str(tmp_path_factory.mktemp("storage")))
    clone.run("dvc", "remote", "add", "bucket", "s3://models/digits")
    clone.run("dvc", "remote", "modify", "bucket", "endpointurl", server)
    clone.run("dvc", "repro")
    clone.commit("results")
    clone.run("dvc", "exp", "run", "--name", "faster", "-S", "train.lr=0.003", "train")
    clone.run("git", "checkout", "-q", "--", ".")
    clone.run("dvc", "checkout")
    clone.run("dvc", "push")
    clone.run("dvc", "push", "--remote", "bucket")
    return clone


@pytest.fixture
def colleague(origin, tmp_path):
    """A fresh clone with a cache of its own."""
    return origin.git_clone(tmp_path / "colleague")


@pytest.fixture
def elsewhere(tmp_path):
    """Another repository of DVC, which knows nothing of this project."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    repository = Workspace(folder, SETTINGS)
    repository.run("git", "init", "-q")
    repository.run("dvc", "init", "-q")
    repository.run("dvc", "config", "core.analytics", "false")
    repository.commit("first")
    return repository


def test_push_without_a_remote_says_how_to_add_one(origin):
    assert "no remote specified" in origin.without_remote
    assert "dvc remote add -d" in origin.without_remote


def test_a_clone_has_the_metrics_before_it_pulls_anything(origin, colleague):
    shown = json.loads(colleague.run("dvc", "metrics", "show", "--json", str(METRICS / "evaluate.json")))
    assert (
        shown[""]["data"][str(METRICS / "evaluate.json")]["data"]["accuracy"] == origin.metrics("evaluate")["accuracy"]
    )
    assert not (colleague.folder / MODEL).exists()


@pytest.mark.parametrize("remote", ["storage", "bucket"])
def test_what_is_pulled_need_not_run(origin, colleague, remote):
    colleague.run("dvc", "pull", "--remote", remote)
    output = colleague.run("dvc", "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output
    assert colleague.hashes() == origin.hashes()
    for path in origin.hashes():
        original, pulled = origin.folder / path, colleague.folder / path
        assert pulled.is_dir() if original.is_dir() else pulled.read_bytes() == original.read_bytes()
    assert colleague.run("git", "status", "--porcelain") == ""
    assert not (origin.folder / MODEL).samefile(colleague.folder / MODEL)


def test_wrong_keys_end_in_a_message_and_an_exit_code(colleague, server):
    output = colleague.run("dvc", "pull", "--remote", "bucket", str(MODEL), AWS_ACCESS_KEY_ID="", fails=True)
    assert "redential" in output
    assert not (colleague.folder / MODEL).exists()


def test_parameters_that_ran_elsewhere_are_not_computed_again_where_the_cache_is_shared(origin, colleague):
    # By a remote they are: DVC does not push metrics that are in git, and takes a run up again with all outputs only.
    colleague.run("dvc", "cache", "dir", "--local", str(origin.folder / ".dvc/cache"))
    output = colleague.run("dvc", "exp", "run", "--name", "mine", "-S", "train.lr=0.003", "train")
    assert stages_run(output) == []
    assert "Stage 'train' is cached - skipping run" in output
    assert colleague.hashes()[MODEL.as_posix()] == origin.hashes("faster")[MODEL.as_posix()]


def test_an_experiment_is_pushed_and_pulled(origin, colleague, tmp_path):
    bare = tmp_path / "bare.git"
    origin.run("git", "clone", "-q", "--bare", str(origin.folder), str(bare))
    origin.run("dvc", "exp", "push", str(bare), "faster")
    colleague.run("git", "remote", "set-url", "origin", str(bare))
    assert "faster" in colleague.run("dvc", "exp", "list", "origin")
    colleague.run("dvc", "exp", "pull", "origin", "faster")
    colleague.run("dvc", "exp", "apply", "faster")
    assert colleague.hashes()[MODEL.as_posix()] == origin.hashes("faster")[MODEL.as_posix()]
    assert (colleague.folder / MODEL).is_file()
    assert stages_run(colleague.run("dvc", "repro", "train")) == []


def write_photos(folder: Path) -> None:
    """Some images of the digits, as a user would have them."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir()
    for number, image in enumerate(load_digits().images[:6]):
        Image.fromarray((image * 255 / 16).astype("uint8")).save(folder / f"{number}.png")


def test_the_model_is_imported_by_another_repository_and_predicts_there(origin, elsewhere):
    elsewhere.run("dvc", "import", str(origin.folder), str(MODEL), "-o", "imported.safetensors")
    imported = elsewhere.folder / "imported.safetensors"
    assert imported.read_bytes() == (origin.folder / MODEL).read_bytes()
    write_photos(elsewhere.folder / "photos")
    elsewhere.environment["PYTHONPATH"] = str(origin.folder)
    elsewhere.run(
        "python", "-m", "pipeline", "predict", "photos", "--model", "imported.safetensors", "--output", "p.csv"
    )
    assert len((elsewhere.folder / "p.csv").read_text().splitlines()) == 7
    elsewhere.commit("model")
    assert "up to date" in elsewhere.run("dvc", "status")


def test_the_model_is_fetched_by_get_by_the_api_and_as_an_artifact(origin, elsewhere):
    expected = (origin.folder / MODEL).read_bytes()
    elsewhere.run("dvc", "get", str(origin.folder), str(MODEL), "-o", "got.safetensors")
    assert (elsewhere.folder / "got.safetensors").read_bytes() == expected
    assert dvc.api.read(str(MODEL), repo=str(origin.folder), mode="rb") == expected
    origin.git("tag", "-a", "classifier@v1.0.0", "-m", "first")
    elsewhere.run("dvc", "artifacts", "get", str(origin.folder), "classifier", "-o", "artifact")
    assert (elsewhere.folder / "artifact").read_bytes() == expected


def test_an_import_is_updated_after_a_new_version(origin, elsewhere, tmp_path):
    origin = origin.git_clone(tmp_path / "next")
    elsewhere.run("dvc", "import", str(origin.folder), str(MODEL), "-o", "imported.safetensors")
    imported = elsewhere.folder / "imported.safetensors"
    before = imported.read_bytes()
    assert "up to date" in elsewhere.run("dvc", "status")
    origin.run("dvc", "pull", "train")
    origin.change({"train.lr": 0.003})
    origin.run("dvc", "repro", "train")
    origin.commit("faster")
    assert "update available" in elsewhere.run("dvc", "status")
    elsewhere.run("dvc", "update", "imported.safetensors.dvc")
    assert imported.read_bytes() != before
    assert imported.read_bytes() == (origin.folder / MODEL).read_bytes()
    with safe_open(imported, "numpy") as weights:
        assert weights.keys()


def test_a_model_that_was_never_pushed_is_told_by_its_name(origin, elsewhere, tmp_path):
    clone = origin.git_clone(tmp_path / "lonely")
    clone.run("dvc", "remote", "modify", "--local", "storage", "url", str(tmp_path / "empty"))
    shutil.rmtree(clone.folder / ".dvc/cache", ignore_errors=True)
    output = clone.run("dvc", "pull", str(MODEL), fails=True)
    assert MODEL.as_posix() in output
