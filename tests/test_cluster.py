"""Functions that run on a real Ray cluster, which starts on this machine."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from pipeline.cluster import cluster_map, has_cluster, why_failed
from pipeline.errors import PipelineError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def killed_once(marker: Path, number: int) -> int:
    """As by the kernel for want of memory, or by someone who restarts the machine."""
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refused(number: int) -> int:
    raise PipelineError(f"{number}: not allowed")


def lacking(number: int) -> int:
    raise ModuleNotFoundError("No module named 'cv2'")


@pytest.fixture
def local(monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("PIPELINE_RAY", "local")


def test_only_the_variable_names_a_cluster(monkeypatch):
    monkeypatch.delenv("PIPELINE_RAY", raising=False)
    assert not has_cluster()
    monkeypatch.setenv("PIPELINE_RAY", "auto")
    assert has_cluster()
    monkeypatch.setenv("PIPELINE_RAY", "")
    with pytest.raises(PipelineError, match=r"^PIPELINE_RAY: got '', allowed is a cluster such as"):
        has_cluster()


def test_results_come_from_other_processes_in_the_order_of_the_items_and_a_killed_one_is_repeated(local, tmp_path):
    drawn = []

    def items():
        for number in range(40):
            drawn.append(number)
            yield number

    with cluster_map("numpy") as run:
        results = run(square, items())
        assert next(results)[0] == 0
        # Most are not in the cluster's memory yet.
        assert len(drawn) < 20
        rest = list(results)
        assert [value for value, _ in rest] == [number**2 for number in range(1, 40)]
        assert os.getpid() not in {process for _, process in rest}
        assert list(run(partial(killed_once, tmp_path / "killed"), range(6))) == list(range(6))
        assert (tmp_path / "killed").exists()


def test_an_error_of_a_worker_is_the_error_of_the_command(local):
    with pytest.raises(PipelineError, match=r"^4: not allowed$"), cluster_map() as run:
        list(run(refused, [4]))


def test_a_module_that_a_worker_lacks_is_one_line(local):
    with (
        pytest.raises(PipelineError, match=r"^PIPELINE_RAY: a task has no result: a worker cannot import cv2; install"),
        cluster_map() as run,
    ):
        list(run(lacking, [4]))


def test_another_version_of_a_package_on_a_worker_is_one_line(local, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.version", lambda package: "0.1")
    with (
        pytest.raises(PipelineError, match=r"^\S+ has numpy \d\S+, and the machine that started this 0\.1: results"),
        cluster_map("numpy") as run,
    ):
        list(run(square, [1]))


def test_a_worker_that_lacks_a_package_is_one_line():
    error = "\x1b[36mray::f()\x1b[39m (pid=1)\nRuntimeError: import\nModuleNotFoundError: No module named 'dvc'"
    assert why_failed(error).startswith("a worker cannot import dvc; install the project in the Python of each")
    assert "\n" not in why_failed(error)
    assert "\x1b" not in why_failed("\x1b[36mThe worker died\x1b[39m\nunexpectedly")
