"""Experiments on a Ray cluster: what a worker gets and returns, and sweeps on two nodes that are killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.experiments import ray_cluster
from pipeline.experiments.ray_cluster import Cluster, Origin, choose_cluster, open_replica, open_runner, outputs
from pipeline.experiments.sandbox import LocalRunner, Sandbox, open_sandbox, take_snapshot
from tests.support.ray_nodes import RayNodes
from tests.support.sweep_repository import SweepRepository


def test_the_options_choose_the_cluster(monkeypatch):
    assert choose_cluster(None, None, None) is None
    assert choose_cluster("local", None, None) == Cluster("local", 1, None)
    assert choose_cluster("10.0.0.1:6379", 2, 0.5) == Cluster("10.0.0.1:6379", 2, 0.5)
    monkeypatch.setenv("PIPELINE_RAY", "auto")
    assert choose_cluster(None, None, 0) == Cluster("auto", 1, 0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "address", "line"),
    [
        (2, None, None, "--cpus: got 2, which needs --ray ADDRESS"),
        (None, 0.5, None, "--gpus: got 0.5, which needs --ray ADDRESS"),
        (1.5, None, "local", "--cpus: got 1.5, allowed is a whole number, or one below 1"),
        (None, 2.5, "local", "--gpus: got 2.5, allowed is a whole number, or one below 1"),
    ],
)
def test_options_that_ray_would_reject_or_that_have_no_effect_are_one_line(cpus, gpus, address, line):
    with pytest.raises(PipelineError, match=f"^{line}"):
        choose_cluster(address, cpus, gpus)


def test_a_variable_that_is_no_address_is_one_line(monkeypatch):
    monkeypatch.setenv("PIPELINE_RAY", "")
    with pytest.raises(PipelineError, match=r"^PIPELINE_RAY: got '', allowed is a cluster such as"):
        choose_cluster(None, None, None)


def test_without_a_cluster_jobs_run_in_the_sandbox():
    with open_runner(Sandbox(Path("x"), None), None) as runner:
        assert isinstance(runner, LocalRunner)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:9", r"--ray: nothing listens at 127\.0\.0\.1:9 \(.*\); start a cluster with ray start --head"),
        ("head", r"--ray: got 'head', allowed is HOST:PORT, auto or local"),
    ],
)
def test_an_address_without_a_cluster_is_one_line_at_once(repository, address, line):
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(PipelineError, match=f"^{line}"), open_runner(Sandbox(Path("x"), None), Cluster(address)):
        pass


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(
            PipelineError, match=r"^--ray: Ray is not installed; run pip install -c constraints\.txt -e '\.\[ray\]'$"
        ),
        open_runner(Sandbox(Path("x"), None), Cluster("local")),
    ):
        pass


def test_room_is_counted_by_machine():
    fits = ray_cluster._fits
    assert fits({"CPU": 4, "GPU": 1}, 2, 0.5) == 2
    assert fits({"CPU": 4, "GPU": 1}, 1, 0.1) == 4
    assert fits({"CPU": 4}, 1, 1) == 0
    assert fits({"CPU": 3}, 2, 0) == 1


class Store:
    """Ray's object store, in this process."""

    @staticmethod
    def put(part: bytes) -> bytes:
        return part

    get = put


def test_an_experiment_of_a_replica_is_copied_to_the_repository_with_its_files(repository, tmp_path, monkeypatch):
    """With real git and DVC; the workspace has changes that are in no commit, and the output of a stage."""
    repository.write("data/dataset/a.npy", "array")
    repository.dvc("add", "-q", "data/dataset")
    (entry,) = [line for line in Path("data/dataset.dvc").read_text().splitlines() if line.startswith("- md5:")]
    lock = f"schema: '2.0'\nstages:\n  augment:\n    cmd: echo\n    outs:\n    {entry}\n      path: data/dataset\n"
    repository.write("dvc.lock", lock)
    repository.git("add", "dvc.lock")
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 1 ")
    snapshot, home = take_snapshot(), repository.folder / ".dvc/cache"
    monkeypatch.setattr(ray_cluster, "PART", 2)
    paths = list(outputs(Path("dvc.lock").read_text(), home, ("augment",)))
    assert len(paths) == 2
    inputs = {path: ray_cluster._put(Store, home / path) for path in paths}
    pack = ray_cluster._pack("--no-walk", snapshot.head, snapshot.tree)
    origin = Origin(repository.folder, (Path("nowhere"), ""), snapshot, "2", ("a name", "a@b"), pack)
    replica = tmp_path / "worker" / snapshot.head[:12]
    assert not open_replica(replica, origin, None, Store)
    assert open_replica(replica, origin, inputs, Store)
    # It is complete: it needs nothing in the next run.
    assert open_replica(replica, origin, None, Store)
    assert (tmp_path / "worker/cache" / paths[0]).read_bytes() == (home / paths[0]).read_bytes()
    monkeypatch.chdir(replica)
    with open_sandbox(Path(".dvc/tmp/ray/seed-1-abc"), snapshot, "a test") as sandbox:
        assert sandbox.run("seed-1-abc", ["seed=1"])
        experiment = sandbox.fetch("seed-1-abc")
    commit = ray_cluster.git("rev-parse", experiment.reference)
    results = list(outputs(ray_cluster.git("show", f"{commit}:dvc.lock"), ray_cluster._cache(replica), ("evaluate",)))
    files = {path: ray_cluster._put(Store, tmp_path / "worker/cache" / path) for path in results}
    pack = ray_cluster._pack(commit, "--not", snapshot.head)
    monkeypatch.chdir(repository.folder)
    ray_cluster._receive(Store, files, home)
    ray_cluster._unpack(pack)
    ray_cluster.git("update-ref", experiment.reference, commit)
    assert repository.experiments() == ["seed-1-abc"]
    assert experiment.results("evaluate") == {"accuracy": 1.0}
    assert "seed-1-abc" in repository.dvc("exp", "show", "--csv")
    assert repository.git("log", "-1", "--format=%an", commit).strip() == "a name"


# With Ray: two nodes on this machine, of which one does not see the repository.


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    pytest.importorskip("ray", reason="Ray is not installed")
    hidden = tmp_path_factory.mktemp("hidden")
    if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", hidden], capture_output=True).returncode:
        pytest.skip("no right to mount: the second node would see the repository")
    nodes = RayNodes(hidden)
    yield nodes
    nodes.stop()


@pytest.fixture
def hidden_repository(nodes, sweep_origin, tmp_path):
    """A repository in the folder that the second node does not see; no node has its experiments."""
    wait_for(lambda: not nodes.processes(), 120)
    nodes.empty()
    repository = sweep_origin.copy_to(nodes.hidden / tmp_path.name)
    repository.environment = lambda: {**SweepRepository.environment(repository), **nodes.environment()}
    return repository


def locks(repository) -> list[str]:
    """``dvc.lock`` of each experiment."""
    references = repository.git("for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
    return [repository.git("show", f"{reference}:dvc.lock") for reference in sorted(references)]


def wait_for(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_two_checkpoints(nodes, process) -> None:
    def found() -> bool:
        assert process.poll() is None, process.stdout.read()
        return len(list(nodes.shared.glob("lr-*/*.json"))) == 2

    wait_for(found)


GRID = "sampler: grid\nseed: 1\npruner: none\nspace:\n  train.lr: [0.01, 0.002, 0.0001, 0.05]\n"


@pytest.mark.slow
def test_a_sweep_on_two_nodes_has_the_trials_and_hashes_of_one_on_this_machine(nodes, hidden_repository, tmp_path):
    hidden_repository.write("sweeps/lr.yaml", GRID)
    hidden_repository.commit("grid")
    alone = hidden_repository.copy_to(tmp_path / "alone")
    output = hidden_repository.sweep("--trials", "4", "--ray", nodes.address)
    assert "ray: machines: 2; experiments at the same time: 2, each with 1 CPUs and 0 GPUs" in output
    assert "(pid=" not in output
    alone.sweep("--trials", "4")
    pd.testing.assert_frame_equal(hidden_repository.trials(), alone.trials())
    assert hidden_repository.experiments() == alone.experiments()
    assert locks(hidden_repository) == locks(alone)
    assert list(nodes.cache.glob("ray/*/.dvc/tmp/inputs-*"))
    hidden_repository.dvc("exp", "apply", hidden_repository.experiments()[-1])
    # What exists is not run again.
    (folder,) = hidden_repository.folder.glob(".sweeps/*/")
    (folder / "journal.log").unlink()
    hidden_repository.git("checkout", "-q", "-f")
    assert hidden_repository.sweep("--trials", "4", "--ray", nodes.address).count("exists already") == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_leaves_nothing_and_resumes(nodes, hidden_repository, number):
    # The second epoch would take half a minute.
    arguments = ("--trials", "2", "-S", "train.epochs=2", "-S", "train.weight_decay=1", "--ray", nodes.address)
    with hidden_repository.start(*arguments) as process:
        wait_for_two_checkpoints(nodes, process)
        os.kill(process.pid, number)
        process.stdout.read()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    wait_for(lambda: not hidden_repository.processes() and not nodes.processes(), 120)
    for path in nodes.shared.glob("lr-*/*.json"):
        path.write_text("[0.5, 0.75]")
    output = hidden_repository.sweep(*arguments)
    assert list(hidden_repository.trials()["value"]) == [0.75, 0.75], output
    assert not list(nodes.shared.iterdir())


@pytest.mark.slow
def test_killed_workers_and_a_killed_node_cost_nothing_but_time(nodes, hidden_repository):
    arguments = ("--trials", "2", "-S", "train.epochs=2", "-S", "train.weight_decay=1", "--ray", nodes.address)
    with hidden_repository.start(*arguments) as process:
        wait_for_two_checkpoints(nodes, process)
        for path in nodes.shared.glob("lr-*/*.json"):
            path.write_text("[0.5, 0.75]")
        for worker in nodes.workers():
            worker.kill()
        nodes.kill_second_node()
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert list(hidden_repository.trials()["value"]) == [0.75, 0.75]
    nodes.add_node()
