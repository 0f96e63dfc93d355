"""Command ``serve``: the exported network as a web service."""

import ipaddress
import os
import socket
import sys
import threading
import warnings
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.machine import worker_count
from pipeline.network.answers import class_thresholds
from pipeline.network.onnx_file import open_onnx
from pipeline.processes import stop_signals
from pipeline.progress import say

try:
    import python_multipart  # noqa: F401
    import uvicorn

    from pipeline.serve.app import Answering, make_app
    from pipeline.serve.connections import connection_limits, limited_connections
except ImportError as error:
    raise PipelineError(
        f"serve: needs the package {error.name}, which is not installed; run pip install -c constraints.txt "
        "-e '.[serve]'"
    ) from None

from pipeline.serve.classifying import Classifying, Limits

SECONDS_BETWEEN_CHECKS = 0.1
HEADERS = {
    # Everything comes from this server; a chosen photo is shown from memory.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(
    model_file: Path, host: str, port: int, limits: Limits, abstain: float | None, precision: float | None, top: int
) -> None:
    """Answer requests until a signal stops the command; those that run are finished, and it ends as Ctrl-C does.

    Args:
        model_file: the ONNX file.
        host, port: where to listen; port 0 takes a free one.
        limits, top: see ``make_app``.
        abstain, precision: below which probability an answer is unsure; see ``class_thresholds``.

    Raises:
        PipelineError: the model cannot be used, it has no such thresholds, or the address cannot be listened on.
    """
    threads = worker_count()
    # Each thread of the pool runs the network by itself, so that together they use no more than the cores.
    model = open_onnx(model_file, threads=1)
    model.run(np.zeros((1, model.image_size, model.image_size, 3), np.uint8))
    answering = Answering(abstain, precision, class_thresholds([model], abstain, precision, "--"), top)
    listening = _listen(host, port)
    app = make_app(model, Classifying(model, threads, limits.pixels), limits, answering)
    most, backlog = connection_limits(limits.requests)
    config = uvicorn.Config(
        app,
        http=limited_connections(limits.seconds, most),
        backlog=backlog,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        headers=list(HEADERS.items()),
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    say(f"serve: {model_file} ({model.network}, {len(model.classes):,} classes) at {_url(host, listening)}")
    if not _is_local(listening):
        say(
            "serve: other machines can reach it, without a password and unencrypted; --host 127.0.0.1 does not let them"
        )
    _run(uvicorn.Server(config), listening)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PipelineError(
            f"serve: cannot listen on --host {host} --port {port} ({reason}); choose an address of this machine, and a "
            "port that no other program uses"
        ) from None


def _url(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _is_local(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def _run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run a server in a thread, where it leaves the signals to this one, until the first signal or its own end.

    A second Ctrl-C ends the process at once.
    """
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    with warnings.catch_warnings(action="ignore"), stop_signals(deferred=True) as stopped:
        thread.start()
        try:
            while thread.is_alive():
                thread.join(SECONDS_BETWEEN_CHECKS)
                server.should_exit = server.should_exit or stopped()
        except KeyboardInterrupt:  # the second Ctrl-C: Python would end only after the images that are being decoded
            sys.stdout.flush()
            os._exit(130)
        if stopped():
            raise KeyboardInterrupt
    raise PipelineError("serve: the server ended by itself; the lines above have the reason")
