"""Weights of a library are downloaded completely or not at all, from a server on this machine."""

import hashlib

import pytest

from pipeline.errors import MachineError, PipelineError
from pipeline.pretrained import sources
from pipeline.pretrained.sources import _from_url
from tests.support.faulty_server import CONTENT, Site, chunked, cut, good, says, silent, with_


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The folder of downloaded weights; no proxy between the test and its server."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sources, "SECONDS", 0.5)
    return tmp_path / "hub/checkpoints"


def address(*ways, name="net.pth") -> str:
    return f"http://{Site(*ways).address}/{name}"


@pytest.mark.parametrize("way", [good, chunked])
@pytest.mark.parametrize("name", ["net.pth", f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"])
def test_weights_are_downloaded_once(checkpoints, way, name):
    url = address(way, says(404), name=name)
    for _ in range(2):
        assert _from_url("net", url).read_bytes() == CONTENT
    assert [path.name for path in checkpoints.iterdir()] == [name]


@pytest.mark.parametrize(
    ("way", "name", "reason", "kind"),
    [
        (cut, "net.pth", "the last 40,000 bytes are missing", MachineError),
        (with_(cut, how="hang"), "net.pth", "timed out", MachineError),
        (with_(chunked, share=0.5), "net.pth", "IncompleteRead", MachineError),
        (silent, "net.pth", "timed out", MachineError),
        (says(429), "net.pth", "HTTP Error 429", MachineError),
        (says(404), "net.pth", "HTTP Error 404", PipelineError),
        (good, "net-01234567.pth", f"it has the SHA-256 {hashlib.sha256(CONTENT).hexdigest()}", MachineError),
    ],
    ids=["cut", "stalled", "chunked", "silent", "too many requests", "missing", "another"],
)
def test_what_is_not_the_whole_file_is_refused_in_one_line_and_not_kept(checkpoints, way, name, reason, kind):
    with pytest.raises(PipelineError, match="the weights of net cannot be downloaded") as error:
        _from_url("net", address(way, name=name))
    assert reason in str(error.value)
    assert type(error.value) is kind
    assert len(str(error.value).splitlines()) == 1
    assert list(checkpoints.iterdir()) == []
