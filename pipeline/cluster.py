"""Connects to a Ray cluster, and runs a function for many items on it."""

import logging
import os
import re
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.common.text import one_line
from pipeline.errors import PipelineError
from pipeline.machine import ray_address
from pipeline.processes import Item, Map, Result
from pipeline.progress import say

SECONDS_TO_CONNECT = 10.0
# How often a task is started again after its worker or machine died.
RETRIES = 3


@contextmanager
def connected(address: str, option: str, **options: Any) -> Iterator[Any]:
    """Connect to the cluster at an address, ``local`` to start one on this machine, and yield the module ``ray``.

    Args:
        address: as for ``ray.init``.
        option: what the user has set to this address, for messages.
        options: of ``ray.init``.

    Raises:
        PipelineError: Ray is not installed, or there is no cluster at the address.
    """
    # Before Ray is imported.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1")
    try:
        import ray
    except ImportError:
        raise PipelineError(f"{option}: Ray is not installed; run pip install -c constraints.txt -e '.[ray]'") from None
    _check_address(address, option)
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local, **options)
    except Exception as error:
        raise PipelineError(
            f"{option}: cannot connect to {address}: {one_line(str(error))[:500]}; this machine must be part of the "
            "cluster, too: ray start"
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str, option: str) -> None:
    """Refuse at once an address where nothing listens: Ray tries for minutes, and prints each attempt."""
    match = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)
    if address in ("local", "auto"):
        return
    if not match:
        raise PipelineError(f"{option}: got {address!r}, allowed is HOST:PORT, auto or local")
    try:
        socket.create_connection((match[1], int(match[2])), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise PipelineError(
            f"{option}: nothing listens at {address} ({one_line(str(error))}); start a cluster with ray start --head, "
            "or use local"
        ) from error


def has_cluster() -> bool:
    """Whether the user has named a cluster.

    Raises:
        PipelineError: ``PIPELINE_RAY`` cannot be an address.
    """
    return ray_address() is not None


@contextmanager
def cluster_map(*packages: str) -> Iterator[Map]:
    """Yield a ``map`` that runs on the cluster that ``PIPELINE_RAY`` names, on one CPU per item, with this code.

    A few items per CPU are in the cluster's memory at a time. An item whose worker or machine dies runs again.

    Args:
        packages: must have the same versions on all machines.

    Raises:
        PipelineError: see :func:`connected`; or a worker has another version, or dies several times.
    """
    code = {"py_modules": [os.fspath(Path(__file__).parent)], "excludes": ["__pycache__"]}
    address = ray_address()
    assert address is not None
    with connected(address, "PIPELINE_RAY", runtime_env=code) as ray:
        machines, cpus = sum(node["Alive"] for node in ray.nodes()), int(ray.cluster_resources().get("CPU", 0))
        if not cpus:
            raise PipelineError(
                f"PIPELINE_RAY: the cluster at {address} has no CPUs; add some with ray start --num-cpus"
            )
        task = ray.remote(run_item).options(num_cpus=1, max_retries=RETRIES)
        versions = {package: version(package) for package in packages}
        say(f"ray: machines: {machines}, CPUs: {cpus}")

        def run(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
            shared = ray.put(function)
            running: deque[Any] = deque()
            for item in items:
                running.append(task.remote(versions, shared, item))
                if len(running) > 2 * cpus:
                    yield ray.get(running.popleft())
            while running:
                yield ray.get(running.popleft())

        try:
            yield run
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, PipelineError):
                raise cause from None
            text = f"{type(cause).__name__}: {cause}" if cause else str(error)
            raise PipelineError(f"PIPELINE_RAY: a task has no result: {why_failed(text)}") from error


def run_item(versions: Mapping[str, str], function: Callable[[Item], Result], item: Item) -> Result:
    """Call the function on a worker; raises what :func:`require_versions` raises."""
    require_versions(versions)
    return function(item)


def require_versions(versions: Mapping[str, str]) -> None:
    """Check that the packages have the same versions on a worker.

    Raises:
        PipelineError: one has another version.
    """
    for package, wanted in versions.items():
        if (here := version(package)) != wanted:
            raise PipelineError(
                f"{socket.gethostname()} has {package} {here}, and the machine that started this {wanted}: "
                "results would differ; install the same version"
            )


def why_failed(error: str) -> str:
    """Why a task failed, from the text of Ray's error, in one line."""
    missing = re.search(r"No (?:module named '|package metadata was found for )([\w.-]+)", error)
    if missing:
        return (
            f"a worker cannot import {missing[1]}; install the project in the Python of each machine of the cluster, "
            "with the same versions: pip install -c constraints.txt -e '.[ray]'"
        )
    plain = one_line(re.sub("\x1b\\[\\d+m", "", error))
    return f"it failed, or its worker or machine died {RETRIES + 1} times: {plain[-500:]}"
