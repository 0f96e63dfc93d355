"""Secrets are planted in parameters and in the environment, and looked for in all that the commands print and write."""

import hashlib
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import CARD, DATASET, DETAILS, METRICS, ONNX, PLOTS, REPORT, SWEEPS
from pipeline.download.http import RetryPolicy, fetch
from tests.support.archives import packed
from tests.support.clones import SMALL, Clone
from tests.support.commands import run_command
from tests.support.faulty_server import Site, good, redirect, says, wrong_byte
from tests.support.hubs import Dataset, Hub
from tests.support.report_results import write_run
from tests.support.sections import write_photos

ROOT = Path(__file__).parents[2]
# Joined, since clones of the repository contain this file.
SECRET, HIDDEN = "-".join(("s3cr3t", "9f27")), "-".join(("h1dd3n", "5c0e"))
SHORT = RetryPolicy(connect_timeout=2, read_timeout=0.2, tries=2, requests=4, first_pause=0.001, longest_pause=0.01)


def planted(url: str, secret: str = SECRET) -> str:
    """The URL with a secret in each place that can have one; the password is one that no URL may contain as it is."""
    return (
        f"{url.replace('//', f'//{secret}:{secret}?/#@x{secret}@', 1)}?token={secret}&X-Amz-Signature={secret}#{secret}"
    )


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


CLOSED = f"127.0.0.1:{closed_port()}"


@pytest.fixture
def folder(workspace, monkeypatch):
    """The current folder, with the parameters of the repository; no proxy, and a download that gives up soon."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, workspace)
    (workspace / "recipes").symlink_to(ROOT / "recipes")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    monkeypatch.setattr(fetch, "__defaults__", (SHORT,))
    return workspace


@pytest.fixture
def serve():
    """Start servers that answer in the given ways."""
    sites = []

    def start(*ways, **options):
        sites.append(Site(*ways, **options))
        return sites[-1].url

    yield start
    for site in sites:
        site.shutdown()
        site.server_close()


def set_data(**values) -> None:
    """Set parameters of the section data."""
    yaml, path = YAML(), Path("params.yaml")
    content = yaml.load(path)
    content["data"] |= {"source": "archive", "sha256": "0" * 64, **values}
    yaml.dump(content, path)


def assert_no_secret(*texts: str, folder: Path | None = None, without=(), secrets=(SECRET, HIDDEN)) -> None:
    """Neither a text nor a name or the content of a file has a secret; ``without`` some files."""
    for secret in secrets:
        for text in texts:
            assert secret not in text
        for path in folder.rglob("*") if folder else ():
            if not any(path.is_relative_to(folder / name) for name in without):
                assert secret not in str(path)
                assert path.is_dir() or secret.encode() not in path.read_bytes(), path


LOCATIONS = {
    "401": lambda serve: serve(says(401)),
    "redirect": lambda serve: serve(partial(redirect, to=planted(f"http://{CLOSED}/photos.zip"))),
    "redirect to an invalid address": lambda serve: serve(partial(redirect, to=planted("http://[/photos.zip"))),
    "redirect to another scheme": lambda serve: serve(partial(redirect, to=planted("ftp://host/photos.zip"))),
    "another file": lambda serve: serve(wrong_byte),
    "closed port": lambda serve: f"http://{CLOSED}/photos.zip",
    "no such port": lambda serve: "http://127.0.0.1:99999/photos.zip",
    "no port": lambda serve: "http://127.0.0.1:port/photos.zip",
    "no host": lambda serve: "http://",
    "brackets": lambda serve: "http://[::1/photos.zip",
    "capital letters": lambda serve: f"Http://{CLOSED}/photos.zip",
    **{scheme: lambda serve, scheme=scheme: f"{scheme}://host/photos.zip" for scheme in ("s3", "smb", "sftp", "file")},
    "no scheme": lambda serve: "//host/photos.zip",
}


@pytest.mark.parametrize("name", LOCATIONS)
def test_a_download_that_fails_shows_no_secret_of_the_location_and_the_mirrors(folder, serve, name):
    location = planted(LOCATIONS[name](serve))
    urls = location.startswith(("http", "Http"))
    set_data(location=location, mirrors=[planted(serve(says(403))), planted(f"http://{CLOSED}/")] if urls else [])
    for command in ("source", "download"):
        result = run_command(command)
        assert_no_secret(result.stdout, result.stderr, folder=folder, without=["params.yaml"])
    assert (result.code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize("proxy", ["{}:{}@%s", "//{}:{}@%s", "Http://{}:{}@%s", "socks5://{}:{}@%s", "http://{}:{}@[/"])
def test_a_dead_proxy_shows_no_secret(folder, monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("%s", CLOSED).format(SECRET, SECRET))
    set_data(location="http://example.org/photos.zip")
    result = run_command("download")
    assert result.code == 1
    assert_no_secret(result.stdout, result.stderr, folder=folder)


@pytest.mark.parametrize(
    "values",
    [
        {"location": [planted("https://host/a")]},
        {"location": [f"https://u:{SECRET}{'x' * 100}@host/"]},
        {"location": {planted("https://host/a"): planted("https://host/a")}},
        {"location": f"https://u:two words {SECRET}@host/a"},
        {"location": planted("https://host/\x1b[31m")},
        {"location": planted("https://host/${NAME}")},
        {"location": planted("https://host/a"), "sha256": None},
        {"location": planted("https://host/a"), "source": "folder"},
        {"location": planted("https://host/a"), "source": "digits"},
        {"location": planted("https://host/a"), "source": "modelscope"},
        {"location": None, "mirrors": [planted("https://host/a")]},
        {"location": "https://host", "mirrors": [planted("s3://host/a")]},
        {"location": "https://host", "mirrors": planted("https://host/a")},
        {"revision": planted("https://host/a"), "source": "modelscope"},
        {"sha256": planted("https://host/a")},
        {"classes": planted("https://host/a")},
        {"labels": planted("https://host/a"), "location": "photos"},
        {planted("https://host/a"): 1},
        {"source": planted("https://host/a")},
    ],
)
def test_a_refused_parameter_shows_no_secret(folder, values):
    set_data(**values)
    result = run_command("source")
    assert result.code == 1
    assert result.stderr.startswith("error: ")
    assert_no_secret(result.stdout, result.stderr)


def test_commands_that_show_parameters_and_variables_show_no_secret(folder, monkeypatch):
    set_data(location=planted("https://host/a"), mirrors=[planted("https://mirror/a")])
    variables = {
        "HTTPS_PROXY": f"{SECRET}:{SECRET}@proxy:3128",
        "http_proxy": f"http://u:two words {SECRET}@proxy",
        "ALL_PROXY": f"//{SECRET}:{SECRET}@proxy",
        "PIPELINE_CACHE": planted("https://host/cache"),
        "PIPELINE_CHECKPOINTS": planted("s3://host/checkpoints"),
        "PIPELINE_TENSORBOARD": planted("smb://host/tensorboard"),
        "PIPELINE_DEVICE": planted("https://host"),
        "PIPELINE_WORKERS": planted("https://host"),
        "MODELSCOPE_ENDPOINT": planted("Https://host"),
        "DVC_REMOTE_URL": planted("https://host"),
        "PIPELINE_TOKEN": SECRET,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    commands = ["params", "params data.location", "params data", "doctor --json"]
    for command in [
        *commands,
        "source",
        "download",
        "augment",
        "train",
        "evaluate",
        "predict",
        "recipe apply imagefolder",
    ]:
        result = run_command(*command.split())
        assert result.stdout + result.stderr
        assert_no_secret(result.stdout, result.stderr)
        assert "***" in result.stdout + result.stderr or command in ("source", "evaluate")
    assert_no_secret(folder=folder, without=["params.yaml"])


def test_the_report_shows_no_secret_of_the_parameters_and_of_those_of_the_last_commit(folder):
    write_run(folder, ("cat", "dog"), 8)
    set_data(location=planted("https://before/a"), mirrors=[planted("https://mirror/a")])
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", f"see {planted('https://host/a')}"]):
        subprocess.run(["git", *command], check=True)
    set_data(location=planted("https://after/a"))
    result = run_command("report")
    assert result.code == 0
    page = REPORT.read_text("utf-8")
    for url in ("https://***@before/a?***", "https://***@after/a?***", "see https://***@host/a?***"):
        assert url in page
    assert_no_secret(result.stdout, page)


def photos_zip(folder: Path) -> bytes:
    """An archive of small photos of three classes."""
    write_photos(folder / "elsewhere", per_class=8)
    files = sorted(path for path in (folder / "elsewhere").rglob("*") if path.is_file())
    return packed({path.relative_to(folder / "elsewhere").as_posix(): path.read_bytes() for path in files})


def test_a_variable_in_a_url_is_read_when_it_is_fetched_and_never_written(folder, serve, monkeypatch):
    content = photos_zip(folder)
    address = serve(good, content=content).removeprefix("http://")
    set_data(
        location=f"http://{CLOSED}/$TOKEN/photos.zip?sig=$TOKEN",
        mirrors=[f"http://ann:$PASSWORD@{address}/a/$TOKEN?token=$TOKEN&next"],
        sha256=hashlib.sha256(content).hexdigest(),
    )
    result = run_command("download")
    assert result.stderr.startswith("error: data.location: the environment variable TOKEN is not set; set it: export ")
    monkeypatch.setenv("TOKEN", f"{HIDDEN}/é")
    result = run_command("download")
    assert result.stderr.startswith("error: data.mirrors: the environment variable PASSWORD is not set")
    monkeypatch.setenv("PASSWORD", SECRET)
    runs = [run_command(command) for command in ("source", "download", "params")]
    assert [run.code for run in runs[:2]] == [0, 0]
    assert f"http://{CLOSED}/$TOKEN/photos.zip?sig=$TOKEN did not answer" in runs[1].stdout
    assert f"trying http://ann:$PASSWORD@{address}/a/$TOKEN?***" in runs[1].stdout
    assert_no_secret(*(text for run in runs for text in (run.stdout, run.stderr)), folder=folder)


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_a_variable_in_a_path_is_read_at_run_time_and_never_written(folder, monkeypatch, source):
    content = photos_zip(folder)
    (folder / HIDDEN).mkdir()
    (folder / HIDDEN / "photos.zip").write_bytes(content)
    (folder / "elsewhere").rename(folder / HIDDEN / "photos")
    set_data(source=source, sha256=None, location=f"$PLACE/photos{'.zip' if source == 'archive' else ''}")
    monkeypatch.setenv("PLACE", f"{folder / HIDDEN}/")
    for command in ("source", "download"):
        result = run_command(command)
        assert result.code == 0
        assert_no_secret(result.stdout, result.stderr)
    assert "source: $PLACE/photos" in run_command("source").stdout
    listing = Path("data/source.json").read_text("utf-8")
    monkeypatch.delenv("PLACE")
    result = run_command("source")
    assert result.code == 0
    assert "the environment variable PLACE is not set" in result.stdout
    assert "data/source.json stays as it is" in result.stdout
    assert Path("data/source.json").read_text("utf-8") == listing
    monkeypatch.setenv("PLACE", f"/nowhere/{HIDDEN}")
    result = run_command("download")
    assert result.stderr.startswith(f"error: data.location: the {source} $PLACE/photos")
    shutil.rmtree(folder / HIDDEN)
    assert_no_secret(folder=folder)


def test_the_whole_url_can_be_a_variable(folder, serve, monkeypatch):
    content = photos_zip(folder)
    set_data(location="$PHOTOS", mirrors=["$MIRROR"], sha256=None)
    monkeypatch.setenv("PHOTOS", planted(f"http://{CLOSED}/"))
    monkeypatch.setenv("MIRROR", serve(good, content=content) + f"?{SECRET}")
    assert run_command("download").stderr.startswith("error: data.sha256: got null, required with a URL")
    set_data(location="$PHOTOS", mirrors=["$MIRROR"], sha256=hashlib.sha256(content).hexdigest())
    result = run_command("download")
    assert (result.code, result.stderr) == (0, "")
    assert_no_secret(result.stdout, folder=folder)


@pytest.mark.slow
def test_a_password_of_the_hub_is_neither_printed_nor_written(folder, monkeypatch):
    write_photos(folder / "elsewhere", per_class=3)
    files = {path.relative_to(folder / "elsewhere").as_posix(): path for path in (folder / "elsewhere").rglob("*.jpg")}
    Dataset(folder / "hub", "someone/photos").commit({name: path.read_bytes() for name, path in files.items()})
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    set_data(source="modelscope", location="someone/photos", sha256=None)
    with Hub(folder / "hub") as hub:
        endpoint = hub.url.replace("//", f"//{SECRET}:{SECRET}@")
        for value, code in (
            (endpoint, 0),
            (endpoint.replace("http", "Http"), 0),
            (f"{endpoint}/elsewhere?{SECRET}", 1),
        ):
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", value)
            result = run_command("download")
            assert result.code == code, result
            assert_no_secret(result.stdout, result.stderr, folder=folder)


@pytest.mark.slow
def test_no_command_prints_or_writes_a_secret(tmp_path, serve):
    content = photos_zip(tmp_path)
    address = serve(good, content=content).removeprefix("http://")
    cache = tmp_path / "cache"
    environment = {"PIPELINE_CACHE": str(cache), "PASSWORD": HIDDEN, "PIPELINE_TENSORBOARD": "tensorboard"}
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone", SMALL, environment)
    location = f"http://ann:$PASSWORD@{address}?token={SECRET}"
    values = {"source": "archive", "location": location, "sha256": hashlib.sha256(content).hexdigest()}
    clone.change({f"data.{key}": value for key, value in values.items()})
    clone.commit("photos")
    commands = [
        "dvc repro",
        "dvc exp run -n another -S train.epochs=2",
        "python -m pipeline compare another workspace --json",
        "python -m pipeline seeds --n 2 -S train.epochs=1",
        "python -m pipeline sweep sweeps/learning_rate.yaml --trials 1 -S train.epochs=1 -S data.revision=null",
        "python -m pipeline lr-find --steps 10",
        f"python -m pipeline predict {tmp_path / 'elsewhere'}",
        "python -m pipeline params",
        "python -m pipeline doctor",
        "python .github/experiment_report.py HEAD~",
    ]
    run = partial(clone.run, PYTHONPATH=".")
    outputs = [run("bash", "-c", f"{command}{' || true' if 'doctor' in command else ''}") for command in commands]
    assert "http://ann:$PASSWORD@" in outputs[-1]
    assert_no_secret(*outputs)
    # What is in params.yaml is in dvc.lock and in the commits, too.
    known = ("params.yaml", "dvc.lock", ".dvc", ".git")
    assert_no_secret(folder=clone.folder, without=known, secrets=[SECRET])
    assert_no_secret(clone.run("git", "log", "--all", "-p", "--text"), folder=clone.folder, secrets=[HIDDEN])
    assert_no_secret(folder=cache)
    for path in (REPORT, CARD, ONNX, METRICS, DETAILS, PLOTS, DATASET, SWEEPS):
        assert (clone.folder / path).exists()
