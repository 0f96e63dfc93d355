"""An exported network, and a server of it in a process of its own."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.export.onnx_model import write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.calibration import Calibration
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import build_model
from pipeline.network.weights import save_model
from tests.support import models

ROOT = Path(__file__).parents[2]
# Limits that some of the tests' images are above, and others below.
ROWS = ((0.1, 0.7, 0.9, None, None), (0.1, 0.6, 0.9, 0.9, 0.9), (0.1, 0.57, 0.9, None, None))
SPEC = replace(
    models.SPEC,
    classes=("blue", "<img src=x onerror=alert(1)>", "寿司 🍣"),
    interpolation="bicubic",
    calibration=Calibration(1.5, 2.0, ROWS),
)
READY = re.compile(r"^serve: .* at (http://\S+)$")


class Server:
    """A running ``python -m pipeline serve`` on a free port of this machine, at ``url``.

    ``before`` is a program that starts it.
    """

    def __init__(self, model: Path, *options: str, before: tuple[str, ...] = (), **variables: str):
        command = [*before, sys.executable, "-m", "pipeline", "serve", "--model", str(model), "--port", "0", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=model.parent
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := READY.match(line):
                self.url = found[1]
                return
        raise RuntimeError("".join(self.lines))

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and all that was printed."""
        if not self.process.stdout.closed:
            self.process.send_signal(number)
            self.lines.append(self.process.communicate(timeout=30)[0])
        return self.process.returncode, "".join(self.lines)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """A folder with ``model.safetensors`` and ``model.onnx`` of one network, whose answers differ between photos."""
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    model = build_model(SPEC)
    models.spread_logits(model, 10)
    save_model(folder / "model.safetensors", model.state_dict(), SPEC)
    network = PhotoClassifier(PixelClassifier(model, SPEC), SPEC).eval()
    write_onnx(folder / "model.onnx", network, SPEC)
    return folder


@pytest.fixture(scope="session")
def model_file(model_files):
    return model_files / "model.onnx"


@pytest.fixture(scope="session")
def server(model_file):
    """A server with small limits: 4 images and 6,000,000 bytes per request."""
    running = Server(model_file, "--max-bytes", "6000000", "--max-images", "4", "--abstain-precision", "0.85")
    yield running
    code, output = running.stop()
    assert code == 130
    assert "Traceback" not in output


@pytest.fixture
def small_server(model_file):
    """A server of one thread for two requests at a time, each within a second; it ends with the test."""
    running = Server(model_file, "--max-requests", "2", "--timeout", "1", "--abstain", "0.99", PIPELINE_WORKERS="1")
    yield running
    running.stop(signal.SIGKILL)
