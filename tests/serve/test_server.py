"""How the command starts and ends."""

import contextlib
import importlib.metadata
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tests.serve.conftest import Server
from tests.support.commands import run_command
from tests.support.hostile_images import PICTURE, encode, jpeg_of_scans

ROOT = Path(__file__).parents[2]
PROJECT = "image-classification-pipeline"
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def test_sigterm_finishes_the_running_requests_and_ends_with_130(model_file):
    server = Server(model_file, PIPELINE_WORKERS="1")
    slow = encode(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8))
    statuses = []

    def client():
        files = [("images", (str(number), slow)) for number in range(5)]
        statuses.append(requests.post(f"{server.url}/predict", files=files, timeout=20).status_code)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    while requests.get(f"{server.url}/health", timeout=20).json()["requests"] < 4:
        time.sleep(0.01)
    code, output = server.stop()
    for each in clients:
        each.join()
    assert statuses == [200] * 4
    assert code == 130
    assert output.count("\n") == 1


def test_a_second_ctrl_c_ends_the_server_at_once_while_it_decodes(model_file):
    server = Server(model_file, PIPELINE_WORKERS="1")
    slow = jpeg_of_scans(8000, 400)

    def client():
        with contextlib.suppress(requests.ConnectionError):
            requests.post(f"{server.url}/predict", data=slow, headers={"Content-Type": "image/jpeg"}, timeout=60)

    clients = [threading.Thread(target=client) for _ in range(16)]
    for each in clients:
        each.start()
    while requests.get(f"{server.url}/health", timeout=20).json()["requests"] < 16:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert server.process.poll() is None
    start = time.monotonic()
    code, output = server.stop(signal.SIGINT)
    assert (code, output.count("\n")) == (130, 1)
    assert time.monotonic() - start < 2
    for each in clients:
        each.join()


def test_a_port_that_is_in_use_is_refused_in_one_line(model_file):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = run_command("serve", "--model", str(model_file), "--port", port)
    assert result.code == 1
    assert result.stderr.startswith(f"error: serve: cannot listen on --host 127.0.0.1 --port {port} (Address already")
    assert result.stderr.count("\n") == 1


def write_nothing(path: Path) -> None:
    pass


def write_text(path: Path) -> None:
    path.write_text("no model")


def write_another_network(path: Path) -> None:
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [shape], [shape])
    graph.output[0].name = "y"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_nothing, "no such file; run dvc repro"),
        (write_text, "cannot read it"),
        (write_another_network, "is not an ONNX file of this pipeline"),
    ],
)
def test_a_file_that_is_no_exported_network_is_refused_in_one_line(workspace, write, reason):
    write(Path("model.onnx"))
    result = run_command("serve", "--model", "model.onnx", "--port", "0")
    assert result.code == 1
    assert result.stderr.startswith("error: model.onnx: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_extra_the_command_to_install_it_is_one_line(model_file):
    code = "import sys; sys.modules['uvicorn'] = None; from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", str(model_file)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "error: serve: needs the package uvicorn, which is not installed; run pip install -c constraints.txt -e "
        "'.[serve]'\n"
    )


def test_the_docker_image_copies_files_that_exist_and_starts_the_command_as_a_user_without_rights():
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()]
    copied = {name for line in lines if line[:1] == ["COPY"] for name in line[1:-1]}
    outputs = {str(out) for stage in STAGES.values() for out in stage["outs"] if isinstance(out, str)}
    assert [name for name in copied if not (ROOT / name).exists() and name not in outputs] == []
    # The context of the build has nothing else.
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert ["USER", "1000"] in lines
    [entry] = [json.loads(" ".join(line[1:])) for line in lines if line[:1] == ["ENTRYPOINT"]]
    assert entry[:3] == ["python", "-m", "pipeline"]
    result = run_command(*entry[3:], "--model", "none.onnx")
    assert (result.code, result.stderr.partition(";")[0]) == (1, "error: none.onnx: no such file")


def required(names: set[str]) -> set[str]:
    """Distributions with all that they require on this machine."""
    found: set[str] = set()
    while names - found:
        name = (names - found).pop()
        found.add(name)
        for line in map(Requirement, importlib.metadata.requires(name) or []):
            if not line.marker or line.marker.evaluate({"extra": ""}):
                names.add(canonicalize_name(line.name))
    return found


def test_the_packages_of_the_docker_image_are_enough_and_torch_is_not_among_them(model_file, tmp_path):
    text = (ROOT / "Dockerfile").read_text("utf-8")
    installed = re.search(r"-c constraints\.txt (.*?)\nCOPY", text, re.DOTALL)[1].replace("\\", " ").split()
    available = required({canonicalize_name(Requirement(word).name) for word in installed}) | {PROJECT}
    owners = importlib.metadata.packages_distributions().items()
    missing = [name for name, owned_by in owners if not {canonicalize_name(owner) for owner in owned_by} & available]
    assert {"torch", "pandas", "dvc"} <= set(missing)
    (tmp_path / "photo.png").write_bytes(encode(PICTURE))
    code = """
import sys


class Absent:
    # Finds no module of the packages that are not installed.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[3:]:
            raise ModuleNotFoundError(f"no module named {name}", name=name)


sys.meta_path.insert(0, Absent)
sys.path.insert(0, ".")
from pathlib import Path
from pipeline import cli
from pipeline.machine import check_variables
from pipeline.network.onnx_file import open_onnx
from pipeline.serve import server
from pipeline.serve.classifying import Classifying
classifying = Classifying(open_onnx(Path(sys.argv[1]), 1), 1, 10_000)
print(*(output.shape for output in classifying.submit(Path(sys.argv[2]).open("rb")).result()))
"""
    command = [sys.executable, "-c", code, str(model_file), str(tmp_path / "photo.png"), *missing]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "(1, 3) (1,)\n"), result.stderr
