"""Runs experiments as tasks of a Ray cluster, in the same sandboxes as on this machine.

A worker that sees the repository of this machine, because it runs there or shares the disk, uses it. Any other one gets
a replica of the last commit, the files of the snapshot, and the inputs of ``train`` from DVC's cache, once per machine;
its experiments are copied to this repository as they end. Ray places the tasks, and retries those of dead workers.
"""

import importlib.metadata
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from ruamel.yaml import YAML

from pipeline.cluster import RETRIES, connected, require_versions, why_failed
from pipeline.common.files import replacing
from pipeline.common.text import one_line
from pipeline.download.cache import cache_folder
from pipeline.errors import PipelineError
from pipeline.experiments.guardian import SECONDS_TO_END
from pipeline.experiments.sandbox import SANDBOXES, STAGES, Job, LocalRunner, Runner, Sandbox, Snapshot, open_sandbox
from pipeline.git import git
from pipeline.machine import ray_address
from pipeline.progress import say

# A file is sent in parts, so that neither side needs memory for all of it; in bytes.
PART = 2**26
Result = TypeVar("Result")
# A file of DVC's cache, and the references to its parts in Ray's object store.
Files = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Cluster:
    """Where experiments run: ``address`` as for ``ray.init``, and the CPUs and GPUs of each; None means 1 GPU if the
    cluster has any."""

    address: str
    cpus: float = 1
    gpus: float | None = None


def choose_cluster(address: str | None, cpus: float | None, gpus: float | None) -> Cluster | None:
    """The cluster that the options ask for, or the environment variable; None if there is none.

    Raises:
        PipelineError: an option is not allowed, or has no effect.
    """
    address = address or ray_address()
    for option, value in {"--cpus": cpus, "--gpus": gpus}.items():
        if value is not None and address is None:
            raise PipelineError(f"{option}: got {value:g}, which needs --ray ADDRESS; add it, or leave {option} out")
        if value is not None and value > 1 and value != int(value):
            raise PipelineError(f"{option}: got {value:g}, allowed is a whole number, or one below 1")
    return Cluster(address, 1 if cpus is None else cpus, gpus) if address else None


@dataclass(frozen=True)
class Origin:
    """The repository of the driver, as a worker needs it.

    Attributes:
        root: its folder there.
        marker: a file in it, and its content; a worker that reads it sees the repository itself.
        torch: the version of torch.
        author: name and e-mail address for commits.
        pack: the commit and the files of the snapshot, as git packs them.
    """

    root: Path
    marker: tuple[Path, str]
    snapshot: Snapshot
    torch: str
    author: tuple[str, str]
    pack: bytes


@dataclass(frozen=True)
class Answer:
    """What a task returns: a result or an error, and an experiment that the driver does not have: the name of its
    reference, its commit, what git packs of it, and its files. Or nothing, if the worker lacks the inputs."""

    result: Any = None
    error: PipelineError | None = None
    reference: str | None = None
    commit: str = ""
    pack: bytes = b""
    files: Files | None = None
    lacks_inputs: bool = False


@contextmanager
def open_runner(sandbox: Sandbox, cluster: Cluster | None) -> Iterator[Runner]:
    """Yield what runs jobs, on the cluster or, without one, in the sandbox. When the block ends, none runs any more.

    Raises:
        PipelineError: Ray is not installed, there is no cluster at the address, or no machine of it is large enough.
    """
    if cluster is None:
        yield LocalRunner(sandbox)
        return
    with connected(cluster.address, "--ray") as ray:
        runner = RayRunner(ray, cluster, sandbox)
        try:
            yield runner
        finally:
            runner.cancel()


class RayRunner:
    """Submits jobs to a cluster that this process is connected to, and collects what they return."""

    def __init__(self, ray: Any, cluster: Cluster, sandbox: Sandbox) -> None:
        self.ray, self.sandbox = ray, sandbox
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = cluster.gpus if cluster.gpus is not None else float(any(machine.get("GPU") for machine in machines))
        self.room = sum(_fits(machine, cluster.cpus, gpus) for machine in machines)
        if not self.room:
            raise PipelineError(
                f"--ray: no machine of the cluster has {cluster.cpus:g} CPUs and {gpus:g} GPUs; use lower --cpus and "
                "--gpus"
            )
        marker = Path(f"{sandbox.folder}.cluster")
        marker.write_text(uuid.uuid4().hex)
        snapshot, root = sandbox.snapshot, Path.cwd()
        author = [git("config", "--default", "pipeline", "--get", f"user.{key}") for key in ("name", "email")]
        pack = _pack("--no-walk", snapshot.head, snapshot.tree)
        torch = importlib.metadata.version("torch")
        origin = Origin(root, (marker, marker.read_text()), snapshot, torch, (author[0], author[1]), pack)
        self._origin = ray.put(origin)
        self._inputs: Files | None = None
        self._task = ray.remote(run_job).options(
            num_cpus=cluster.cpus,
            num_gpus=gpus,
            max_retries=RETRIES,
            # Of git, which failed once on a machine that was overloaded; a job returns its own errors.
            retry_exceptions=[subprocess.CalledProcessError],
            name="experiment",
        )
        self._running: dict[Any, Job[Any]] = {}
        self._answers: dict[str, Answer] = {}
        say(
            f"ray: machines: {len(machines)}; experiments at the same time: {self.room}, each with "
            f"{cluster.cpus:g} CPUs and {gpus:g} GPUs"
        )

    def submit(self, job: Job[Result]) -> Callable[[], Result]:
        """See :class:`Runner`. A job whose experiment exists here already only reads it."""
        if self.sandbox.find(job.pattern):
            return partial(job, self.sandbox)
        self._start(job)
        return partial(self._wait, job)

    def _start(self, job: Job[Any]) -> None:
        # Within a dictionary, so that a worker gets only those of the objects that it asks for.
        self._running[self._task.remote(self._origin, self._inputs, job)] = job

    def _wait(self, job: Job[Any]) -> Any:
        while job.name not in self._answers:
            ended, _ = self.ray.wait(list(self._running), timeout=1)
            for reference in ended:
                self._collect(reference)
        answer = self._answers.pop(job.name)
        if answer.error:
            raise answer.error
        return answer.result

    def _collect(self, reference: Any) -> None:
        """Take the answer of a task that has ended, and copy its experiment to the repository."""
        job = self._running.pop(reference)
        try:
            answer: Answer = self.ray.get(reference)
            if answer.lacks_inputs:
                self._inputs = self._inputs or self._put_inputs()
                self._start(job)
                return
            if answer.reference:
                _receive(self.ray, answer.files or {}, _cache(Path.cwd()))
                _unpack(answer.pack)
                git("update-ref", answer.reference, answer.commit)
        except self.ray.exceptions.RayError as error:
            answer = Answer(error=PipelineError(f"{job.name}: {why_failed(str(error))}"))
        except (PipelineError, OSError, subprocess.CalledProcessError) as error:  # of git, or of DVC's cache
            answer = Answer(error=PipelineError(f"{job.name}: its result cannot be stored: {one_line(str(error))}"))
        self._answers[job.name] = answer

    def _put_inputs(self) -> Files:
        """Put the inputs of the stage train into Ray's object store."""
        lock = git("show", f"{self.sandbox.snapshot.tree}:dvc.lock") if _has_lock(self.sandbox.snapshot) else ""
        cache = _cache(Path.cwd())
        paths = set(outputs(lock, cache, STAGES[: STAGES.index("train")]))
        size = sum((cache / path).stat().st_size for path in paths)
        say(f"ray: sends {size / 1e6:,.1f} MB in {len(paths):,} files of DVC's cache to machines that need them")
        return {path: _put(self.ray, cache / path) for path in sorted(paths)}

    def cancel(self) -> None:
        """End what runs; training writes its checkpoint before."""
        if not self._running:
            return
        say(f"ray: waits for {len(self._running)} experiments to end")
        for reference in self._running:
            self.ray.cancel(reference)
        self.ray.wait(list(self._running), num_returns=len(self._running), timeout=SECONDS_TO_END + 10)


def _fits(machine: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many experiments a machine has room for."""
    wanted = {"CPU": cpus, "GPU": gpus}
    return min(int(machine.get(name, 0) / amount + 1e-6) for name, amount in wanted.items() if amount)


# What runs on a worker.


def run_job(origin: Origin, inputs: Files | None, job: Job[Any]) -> Answer:
    """Run a job in a sandbox of the repository of the driver, or of a replica."""
    try:
        require_versions({"torch": origin.torch})
    except PipelineError as error:
        return Answer(error=error)
    import ray

    # The stages of an experiment use no more than its share of the cluster.
    os.environ.pop("PIPELINE_RAY", None)
    # Ray sets it to the number of CPUs of the task, unless the user has set it.
    os.environ.setdefault("PIPELINE_WORKERS", os.environ.get("OMP_NUM_THREADS", "1"))
    marker, content = origin.marker
    shared = marker.is_file() and marker.read_text() == content
    root = origin.root if shared else cache_folder().absolute() / "ray" / origin.snapshot.head[:12]
    if not shared and not open_replica(root, origin, inputs, ray):
        return Answer(lacks_inputs=True)
    with chdir(root):  # the next job of this process may have another one, relative to the same folder
        return _answer(job, origin, inputs, shared)


def _answer(job: Job[Any], origin: Origin, inputs: Files | None, shared: bool) -> Answer:
    """Run a job in a sandbox of the repository that is the current folder."""
    import ray

    try:
        with open_sandbox(SANDBOXES / "ray" / job.name, origin.snapshot, f"the experiment {job.name}") as sandbox:
            result = job(sandbox)
    except PipelineError as error:
        return Answer(error=error)
    experiment = None if shared else sandbox.find(job.pattern)
    if experiment is None:
        return Answer(result)
    commit, cache = git("rev-parse", experiment.reference), _cache(Path.cwd())
    paths = set(outputs(git("show", f"{commit}:dvc.lock"), cache, STAGES)) - set(inputs or ())
    files = {path: _put(ray, cache / path) for path in sorted(paths)}
    pack = _pack(commit, "--not", origin.snapshot.head)
    return Answer(result, None, experiment.reference, commit, pack, files)


def open_replica(root: Path, origin: Origin, inputs: Files | None, ray: Any) -> bool:
    """Make a repository at ``root`` with the snapshot, and with the inputs in its DVC cache.

    Returns:
        Whether it is complete; false if there are no ``inputs`` to make it from.
    """
    folder, tree = root.parent, origin.snapshot.tree
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        complete = root / ".dvc/tmp" / f"inputs-{tree}"
        if complete.exists():
            return True
        if inputs is None:
            return False
        if not root.exists():
            with replacing(root) as temporary:
                git("init", "--quiet", str(temporary))
                # The replica has one commit without its parents.
                (temporary / ".git/shallow").write_text(f"{origin.snapshot.head}\n")
                for key, value in zip(("name", "email"), origin.author, strict=True):
                    git("config", f"user.{key}", value, folder=temporary)
                _unpack(origin.pack, temporary)
                git("update-ref", "--no-deref", "HEAD", origin.snapshot.head, folder=temporary)
        _unpack(origin.pack, root)
        git("read-tree", "--reset", "-u", tree, folder=root)
        # All replicas of this machine share their files.
        (root / ".dvc/config.local").write_text(f"[cache]\n    dir = {folder / 'cache'}\n", "utf-8")
        _receive(ray, inputs, _cache(root))
        complete.parent.mkdir(parents=True, exist_ok=True)
        complete.touch()
    return True


# Files, as they are sent.


def _cache(root: Path) -> Path:
    from dvc.repo import Repo

    with Repo(root) as repo:
        return Path(repo.cache.local_cache_dir)


def _has_lock(snapshot: Snapshot) -> bool:
    return bool(git("ls-tree", snapshot.tree, "--", "dvc.lock"))


def outputs(lock: str, cache: Path, stages: tuple[str, ...]) -> Iterator[str]:
    """The files in DVC's cache of those outputs of ``stages`` that are in it completely.

    Args:
        lock: content of ``dvc.lock``.
        cache: the folder of the cache; the paths are relative to it.
    """
    content = (YAML(typ="safe").load(lock) or {}).get("stages", {})
    for stage in stages:
        for out in content.get(stage, {}).get("outs", ()):
            paths = [_path(out["md5"])]
            if out["md5"].endswith(".dir") and (cache / paths[0]).exists():
                paths += {_path(entry["md5"]) for entry in json.loads((cache / paths[0]).read_text("utf-8"))}
            if all((cache / path).exists() for path in paths):
                yield from paths


def _path(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def _put(ray: Any, path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [ray.put(part) for part in iter(lambda: file.read(PART), b"")]


def _receive(ray: Any, files: Files, cache: Path) -> None:
    """Write the files that a cache does not have."""
    for path, parts in files.items():
        if not (cache / path).exists():
            with replacing(cache / path) as temporary, temporary.open("wb") as file:
                for part in parts:
                    file.write(ray.get(part))
                # As DVC protects its files, which are linked into workspaces.
                temporary.chmod(0o444)


def _pack(*revisions: str) -> bytes:
    """Pack the objects that ``git rev-list`` finds."""
    objects = git("rev-list", "--objects", "--no-object-names", *revisions)
    command = ["git", "pack-objects", "--quiet", "--stdout"]
    return subprocess.run(command, input=f"{objects}\n".encode(), stdout=subprocess.PIPE, check=True).stdout


def _unpack(pack: bytes, folder: Path | None = None) -> None:
    subprocess.run(["git", "unpack-objects", "-q"], cwd=folder, input=pack, check=True)
