"""What a colleague gets through a remote, a folder or an S3 server: data, models, results and experiments."""

import json
from pathlib import Path

import dvc.api
import pytest
from moto.server import ThreadedMotoServer
from safetensors import safe_open

from pipeline.common.paths import METRICS, MODEL
from tests.support.clones import Workspace, stages_run

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


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
def published(experiment, tmp_path_factory, server):
    """A repository with results, an experiment ``lower`` and two remotes, to which everything is pushed."""
    clone = experiment.clone_with_cache(tmp_path_factory.mktemp("published") / "clone")
    clone.environment |= KEYS
    clone.run("dvc", "remote", "add", "-q", "--default", "storage", str(tmp_path_factory.mktemp("storage")))
    clone.run("dvc", "remote", "add", "-q", "bucket", "s3://models/digits")
    clone.run("dvc", "remote", "modify", "bucket", "endpointurl", server)
    clone.commit("remotes")
    # Nothing is computed: the run cache has this run.
    output = clone.run("dvc", "exp", "run", "--name", "lower", "-S", "train.lr=3e-4", "train")
    assert stages_run(output) == []
    clone.undo_changes()
    clone.run("dvc", "push", "-q")
    clone.run("dvc", "push", "-q", "--remote", "bucket")
    return clone


@pytest.fixture
def colleague(published, tmp_path):
    """A fresh clone with an empty cache."""
    return published.git_clone(tmp_path / "colleague")


@pytest.fixture
def elsewhere(tmp_path):
    """A DVC repository that has nothing in common with this project."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    repository = Workspace(folder, KEYS)
    repository.run("git", "init", "-q")
    repository.set_identity()
    repository.run("dvc", "init", "-q")
    repository.run("dvc", "config", "core.analytics", "false")
    repository.commit("first")
    return repository


def test_push_without_a_remote_says_how_to_add_one(origin):
    output = origin.run("dvc", "push", fails=True)
    assert "no remote specified" in output
    assert "dvc remote add -d" in output


def test_a_clone_has_the_metrics_before_it_pulls_anything(published, colleague):
    path = str(METRICS / "evaluate.json")
    shown = json.loads(colleague.run("dvc", "metrics", "show", "--json", path))
    assert shown[""]["data"][path]["data"]["accuracy"] == published.metrics("evaluate")["accuracy"]
    assert not (colleague.folder / MODEL).exists()


@pytest.mark.parametrize("remote", ["storage", "bucket"])
def test_pulled_results_are_not_computed_again(published, colleague, remote):
    colleague.run("dvc", "pull", "--remote", remote)
    output = colleague.run("dvc", "repro")
    assert stages_run(output) == []
    assert json.loads(colleague.run("dvc", "status", "--json")) == {"source": ["always changed"]}
    assert colleague.hashes() == published.hashes()
    for path in published.hashes():
        original, pulled = published.folder / path, colleague.folder / path
        assert pulled.is_dir() if original.is_dir() else pulled.read_bytes() == original.read_bytes()
    assert colleague.run("git", "status", "--porcelain") == ""
    assert not (published.folder / MODEL).samefile(colleague.folder / MODEL)


def test_missing_credentials_end_in_a_message_and_an_exit_code(colleague, server):
    output = colleague.run("dvc", "pull", "--remote", "bucket", str(MODEL), AWS_ACCESS_KEY_ID="", fails=True)
    assert "redential" in output
    assert not (colleague.folder / MODEL).exists()


def test_a_run_of_another_clone_is_not_computed_again_if_the_cache_is_shared(published, colleague):
    # With a remote it is: DVC does not push metrics that are in git, and restores a run only with all its outputs.
    colleague.run("dvc", "cache", "dir", "--local", str(published.folder / ".dvc/cache"))
    output = colleague.run("dvc", "exp", "run", "--name", "mine", "-S", "train.lr=3e-4", "train")
    assert stages_run(output) == []
    assert "Stage 'train' is cached - skipping run" in output
    assert colleague.hashes()[MODEL.as_posix()] == published.hashes("lower")[MODEL.as_posix()]


def test_an_experiment_is_pushed_and_pulled(published, colleague, tmp_path):
    bare = tmp_path / "bare.git"
    published.run("git", "clone", "-q", "--bare", str(published.folder), str(bare))
    published.run("dvc", "exp", "push", str(bare), "lower")
    colleague.run("git", "remote", "set-url", "origin", str(bare))
    assert "lower" in colleague.run("dvc", "exp", "list", "origin")
    colleague.run("dvc", "exp", "pull", "origin", "lower")
    colleague.run("dvc", "exp", "apply", "lower")
    assert colleague.hashes()[MODEL.as_posix()] == published.hashes("lower")[MODEL.as_posix()]
    assert (colleague.folder / MODEL).is_file()
    assert stages_run(colleague.run("dvc", "repro", "train")) == []


def write_photos(folder: Path) -> None:
    """Some images of the digits, as a user would have them."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir()
    for number, image in enumerate(load_digits().images[:6]):
        Image.fromarray((image * 255 / 16).astype("uint8")).save(folder / f"{number}.png")


def test_the_model_is_imported_into_another_repository_and_predicts_there(published, elsewhere):
    elsewhere.run("dvc", "import", str(published.folder), str(MODEL), "-o", "imported.safetensors")
    imported = elsewhere.folder / "imported.safetensors"
    assert imported.read_bytes() == (published.folder / MODEL).read_bytes()
    write_photos(elsewhere.folder / "photos")
    options = ("--model", "imported.safetensors", "--output", "p.csv")
    elsewhere.run("python", "-m", "pipeline", "predict", "photos", *options, PYTHONPATH=str(published.folder))
    assert len((elsewhere.folder / "p.csv").read_text().splitlines()) == 7
    elsewhere.commit("model")
    assert "up to date" in elsewhere.run("dvc", "status")


def test_the_model_is_fetched_by_get_by_the_api_and_as_an_artifact(published, elsewhere):
    expected = (published.folder / MODEL).read_bytes()
    elsewhere.run("dvc", "get", str(published.folder), str(MODEL), "-o", "got.safetensors")
    assert (elsewhere.folder / "got.safetensors").read_bytes() == expected
    assert dvc.api.read(str(MODEL), repo=str(published.folder), mode="rb") == expected
    published.run("git", "tag", "-a", "classifier@v1.0.0", "-m", "first")
    elsewhere.run("dvc", "artifacts", "get", str(published.folder), "classifier", "-o", "artifact")
    assert (elsewhere.folder / "artifact").read_bytes() == expected


def test_an_import_is_updated_after_a_new_version(published, elsewhere, tmp_path):
    published = published.clone_with_cache(tmp_path / "next")
    elsewhere.run("dvc", "import", str(published.folder), str(MODEL), "-o", "imported.safetensors")
    imported = elsewhere.folder / "imported.safetensors"
    before = imported.read_bytes()
    assert "up to date" in elsewhere.run("dvc", "status")
    published.change({"train.lr": 3e-4})
    published.run("dvc", "repro", "train")
    published.commit("another learning rate")
    assert "update available" in elsewhere.run("dvc", "status")
    elsewhere.run("dvc", "update", "imported.safetensors.dvc")
    assert imported.read_bytes() != before
    assert imported.read_bytes() == (published.folder / MODEL).read_bytes()
    with safe_open(imported, "numpy") as weights:
        assert weights.keys()


def test_pull_names_a_model_that_was_never_pushed(colleague, tmp_path):
    colleague.run("dvc", "remote", "modify", "--local", "storage", "url", str(tmp_path / "empty"))
    output = colleague.run("dvc", "pull", str(MODEL), fails=True)
    assert MODEL.as_posix() in output
