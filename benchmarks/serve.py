"""Load test of ``python -m pipeline serve``: many clients on this machine send photos for a bounded time.

    OMP_NUM_THREADS=1 python benchmarks/serve.py results/model.onnx photos.zip

Each client sends one photo per request, and the next one when the answer is there. It repeats a request that was
answered with 503 after the seconds in ``Retry-After``; the time that is reported is that of the whole, from the first
try to the answer. Nothing may be lost: every request ends with an answer of the right shape, and the script fails
otherwise. The server is a process of its own, the clients are threads of this one, so both share the cores.

Without a model, an untrained network ``classifier`` of width 16 at 128 pixels; without a zip, photos of noise.

Measured:

    2 CPU cores (x86-64, nothing else running), onnxruntime 1.32.0, EfficientNet-Lite0 at 128 px, 50 clients, photos of
    noise with 512 px (76 kB), 60 seconds, one run: 12,958 requests, 215 per second; p50 0.229 s, p99 0.285 s, longest
    0.332 s; no answer was 503, nothing was lost.

    The same with an untrained classifier, while other programs had most of both cores (load 16): 1,982 requests, 32 per
    second; p50 1.52 s, p99 2.05 s, longest 2.34 s; nothing was lost.

    GPU: the server uses none.
"""

import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import requests
import torch
import typer
from inputs import CLASSES, MEAN, NAMES, STD, photo_files

from pipeline.export.onnx_model import write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec, build_model


@dataclass
class Found:
    """What all clients saw."""

    seconds: list[float] = field(default_factory=list)
    retries: int = 0
    problems: Counter[str] = field(default_factory=Counter)


def write_network(path: Path) -> None:
    """Export an untrained network."""
    torch.manual_seed(0)
    spec = ModelSpec("classifier", 16, 0.0, "default", CLASSES, 128, "stretch", "area", NAMES, MEAN, STD)
    network = PixelClassifier(build_model(spec), spec)
    write_onnx(path, PhotoClassifier(network, spec).eval(), spec)


def start_server(model: Path, options: list[str]) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port; return its process and its URL."""
    command = [sys.executable, "-m", "pipeline", "serve", "--model", str(model), "--port", "0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"at (http://\S+)$", server.stdout.readline())
    if found is None:
        raise SystemExit("the server did not start")
    return server, found[1]


def client(url: str, photos: list[bytes], first: int, end: float, found: Found) -> None:
    """Send photos until the end."""
    session, number = requests.Session(), first
    while time.monotonic() < end:
        start = time.perf_counter()
        try:
            while (response := ask(session, url, photos[number % len(photos)])).status_code == 503:
                found.retries += 1
                time.sleep(float(response.headers["Retry-After"]))
            [answer] = response.json()["images"]
            total = sum(each["probability"] for each in answer["top"])
            if response.status_code != 200 or not math.isclose(total, 1, abs_tol=1e-4):
                found.problems[f"{response.status_code}: {answer}"] += 1
        except (requests.RequestException, KeyError, ValueError) as error:
            found.problems[f"{type(error).__name__}: {error}"] += 1
        found.seconds.append(time.perf_counter() - start)
        number += 1


def ask(session: requests.Session, url: str, photo: bytes) -> requests.Response:
    """Send one photo."""
    headers = {"Content-Type": "image/jpeg"}
    return session.post(f"{url}/predict", data=photo, headers=headers, params={"top": 1000}, timeout=60)


def main(
    model: Annotated[Path | None, typer.Argument(help="ONNX file.")] = None,
    archive: Annotated[Path | None, typer.Argument(help="Zip with photos.")] = None,
    clients: Annotated[int, typer.Option(help="Number of clients.")] = 50,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 60,
    requests_at_a_time: Annotated[int, typer.Option(help="The server's --max-requests.")] = 64,
    quick: Annotated[bool, typer.Option(help="Only check that everything runs.")] = False,
) -> None:
    """Load a server and print requests per second, latency and what was lost."""
    if quick:
        clients, duration, requests_at_a_time = 8, 1.0, 4
    with tempfile.TemporaryDirectory() as temporary:
        if model is None:
            model = Path(temporary) / "model.onnx"
            write_network(model)
        photos = [path.read_bytes() for path in photo_files(archive, Path(temporary) / "photos", 3 if quick else 100)]
        server, url = start_server(model, ["--max-requests", str(requests_at_a_time)])
        found, end = Found(), time.monotonic() + duration
        threads = [threading.Thread(target=client, args=(url, photos, first, end, found)) for first in range(clients)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - start
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    done = sorted(found.seconds)
    cuts = statistics.quantiles(done, n=100) if len(done) > 1 else done * 99
    print(f"{clients} clients, {took:.1f} s, {len(done):,} requests, {len(done) / took:.0f} per second")
    print(
        f"seconds: p50 {cuts[49]:.3f}, p99 {cuts[98]:.3f}, longest {done[-1]:.3f}; {found.retries:,} answers were 503"
    )
    print(f"lost: {found.problems.total():,}; the server ended with {code}; load {os.getloadavg()[0]:.1f}")
    for problem, count in found.problems.most_common(5):
        print(f"{count:,} times {problem}")
    if found.problems or code != 130:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
