"""Runs DVC experiments in a clone of the repository that shares DVC's cache; the workspace stays as it is."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout

from pipeline.common.files import hidden_path, replacing
from pipeline.common.label_files import COLUMNS, dvc_file
from pipeline.common.paths import PARAMS, SOURCE
from pipeline.common.text import listed
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import DvcError, run_dvc
from pipeline.experiments.guardian import SECONDS_TO_END
from pipeline.experiments.revisions import Experiment, locked_stages, require_root
from pipeline.git import git
from pipeline.progress import say
from pipeline.source.listing import current_summary, find_source
from pipeline.source.weights import weights_identity

# In DVC's folder of temporary files: git ignores it, and it is on the disk of the cache, so that DVC can link files.
SANDBOXES = Path(".dvc/tmp")
# An experiment runs these stages.
STAGES = ("download", "augment", "pretrained", "train", "evaluate")
Result = TypeVar("Result")
Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True)
class Snapshot:
    """The tracked files of the workspace as they are: a git tree, and the commit HEAD that experiments are based on."""

    head: str
    tree: str

    def inputs(self, params: Mapping[str, Any]) -> dict[str, str]:
        """What decides the results of an experiment, apart from its parameters.

        Args:
            params: the parameters.

        Returns:
            The id of the git tree of each folder or file that the stages list in ``dvc.yaml`` and that is no output,
            their commands, the hash of ``data/raw.zip`` in ``dvc.lock`` unless a commit of the hub's dataset is given,
            the ids of the files ``data.corrections`` and ``data.pseudo_labels``, and a hash of the source and of the
            pretrained weights as they are now. The commit and all other files do not count.

        Raises:
            PipelineError: neither git nor DVC tracks one of these files, so that experiments would not have it.
        """
        data = params["data"]
        labels = {name: Path(data[name]).as_posix() for name in COLUMNS if data.get(name)}
        files = [*labels.values(), *(dvc_file(file).as_posix() for file in labels.values())]
        workflow = read_yaml(Path("dvc.yaml"))["stages"]
        rows = git("ls-tree", "-z", self.tree, "--", *_dependencies(workflow), *files).split("\0")
        columns = (row.partition("\t") for row in rows if row)
        ids = {path: facts.split()[2] for facts, _, path in columns}
        commands = {f"{name}.cmd": workflow[name]["cmd"] for name in STAGES}
        # All other images are pinned by the parameters or by the listing of the source.
        unpinned = data["source"] == "modelscope" and not re.fullmatch("[0-9a-f]{40}", data.get("revision") or "")
        archives = {out["path"]: out["md5"] for out in locked_stages().get("download", {}).get("outs", ()) if unpinned}
        for name, file in labels.items():
            pointer = dvc_file(file)
            if ids.keys().isdisjoint((file, pointer.as_posix())):
                tracked = pointer if pointer.exists() else file
                raise PipelineError(f"git does not track data.{name}, {tracked}; add it: git add {tracked}")
            if file not in ids and Path(file).is_file():
                found = hashlib.md5(Path(file).read_bytes(), usedforsecurity=False).hexdigest()
                if found != read_yaml(pointer)["outs"][0]["md5"]:
                    raise PipelineError(f"data.{name}: {file} has changed since dvc add; run it again")
        source = find_source(data["source"], data["location"], data["labels"])
        weights = weights_identity(params["model"]["pretrained"])
        identity = digest(current_summary(source), *([weights] if weights else []))
        return ids | commands | archives | {SOURCE.as_posix(): identity}


def _dependencies(workflow: Mapping[str, Any]) -> list[str]:
    """What the stages of an experiment depend on and no stage writes: code, and files of the user's own stages."""
    kinds = ("outs", "metrics", "plots")
    written = [path for stage in workflow.values() for kind in kinds for path in stage.get(kind, ())]
    outputs = {path if isinstance(path, str) else next(iter(path)) for path in written}
    return sorted({dep for name in STAGES for dep in workflow[name]["deps"]} - outputs)


def take_snapshot() -> Snapshot:
    """Take the snapshot; neither the workspace nor the index changes.

    Raises:
        PipelineError: this is not the root of a DVC repository with a commit.
    """
    head = require_root()
    untracked = git("ls-files", "--others", "--exclude-standard", "--", "pipeline", PARAMS.name, "dvc.yaml")
    if untracked:
        say(f"git does not track {listed(untracked.splitlines())}: experiments run without; git add what they need")
    with TemporaryDirectory() as folder:
        index = shutil.copy(git("rev-parse", "--git-path", "index"), folder)
        git("add", "--update", GIT_INDEX_FILE=index)
        return Snapshot(head, git("write-tree", GIT_INDEX_FILE=index))


def digest(*facts: Any) -> str:
    """Seven hexadecimal digits for JSON values."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:7]


class Sandbox:
    """A clone in which experiments on a snapshot run, one after the other; the first one creates it."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self.folder, self.snapshot = folder, snapshot

    def find(self, pattern: str) -> Experiment | None:
        """An experiment of the repository with a name that matches a glob pattern, whatever commit it is based on."""
        rows = git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{pattern}")
        found = map(Experiment, rows.splitlines())
        # If several experiments have one name, dvc exp apply takes the one that is based on HEAD, too.
        return min(found, key=lambda experiment: experiment.baseline != self.snapshot.head, default=None)

    def run(
        self,
        name: str,
        parameters: Sequence[str],
        stop: Callable[[str | None], bool] = lambda stage: False,
        variables: Mapping[str, str] | None = None,
    ) -> bool:
        """``dvc exp run`` up to the stage ``evaluate``, with parameters ``key=value`` as its option ``-S`` takes them.

        The experiment is then in the sandbox only; a run that was stopped leaves none. :func:`run_dvc` describes
        ``stop``, ``variables``, what is returned and what is raised.
        """
        if not self.folder.exists():
            with replacing(self.folder) as temporary:
                _clone(temporary)
        # To the snapshot, whatever the previous experiment left.
        git("checkout", "--quiet", "--force", "--detach", self.snapshot.head, folder=self.folder)
        git("read-tree", "--reset", "-u", self.snapshot.tree, folder=self.folder)
        settings = [f"--set-param={parameter}" for parameter in parameters]
        command = ("exp", "run", "--name", name, *settings, STAGES[-1])
        try:
            return run_dvc(self.folder, *command, stop=stop, variables=variables)
        except DvcError as error:
            if "data.location" not in str(error):
                raise
            hint = "experiments lack what neither git nor DVC tracks: run dvc repro download here first"
            raise DvcError(f"{error}; {hint}", error.stage, error.exit_code) from error

    def fetch(self, name: str) -> Experiment:
        """Copy an experiment from the sandbox to the repository."""
        head = self.snapshot.head
        reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
        # With Ray, several sandboxes can end at once, and git fails where two change its list of shallow commits.
        with FileLock(SANDBOXES / "fetch.lock"):
            git("fetch", "--quiet", "--no-tags", str(self.folder), f"{reference}:{reference}")
        return Experiment(reference)


class Job(Protocol[Answer]):
    """What runs an experiment in a sandbox, unless it exists, and returns what is to be known about it.

    Attributes:
        name: of the experiment.
        pattern: of the names of experiments that have the same results.
    """

    @property
    def name(self) -> str: ...

    @property
    def pattern(self) -> str: ...

    def __call__(self, sandbox: Sandbox) -> Answer: ...


class Runner(Protocol):
    """Runs jobs; ``room`` is how many at the same time."""

    room: int

    def submit(self, job: Job[Result]) -> Callable[[], Result]:
        """Return a function that waits for the job, and returns or raises what the job does."""
        ...


class LocalRunner:
    """Runs each job in a sandbox when its result is asked for."""

    room = 1

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def submit(self, job: Job[Result]) -> Callable[[], Result]:
        """See :class:`Runner`."""
        return lambda: job(self.sandbox)


@contextmanager
def open_sandbox(folder: Path, snapshot: Snapshot, subject: str) -> Iterator[Sandbox]:
    """Yield a sandbox in ``folder`` for this process only; it is removed in the end.

    Training that is stopped in it can resume in the next one: its checkpoint is in the repository around it.

    Raises:
        PipelineError: another process uses it; ``subject`` says what that one runs.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Another process that looks for what is left holds it for a moment.
        lock = FileLock(f"{folder}.lock").acquire(timeout=1)
    except Timeout as error:
        raise PipelineError(f"another process runs {subject}; wait for it") from error
    with lock:
        running = FileLock(f"{folder}.running")
        try:
            running.acquire(timeout=0.1)
        except Timeout:
            say("waiting for the experiment of a killed process to write its checkpoint and end")
            running.acquire(timeout=SECONDS_TO_END + 10)
        running.release()
        try:
            # Those that begin with a dot are being cloned.
            for other in folder.parent.glob("[!.]*/"):
                _remove_left_sandbox(other)
            # A process that was killed may have left it.
            shutil.rmtree(folder, ignore_errors=True)
            yield Sandbox(folder, snapshot)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left_sandbox(folder: Path) -> None:
    """Remove another sandbox, if the process that used it was killed, and its experiment has ended."""
    left = hidden_path(folder, "part")
    with (
        suppress(Timeout, FileNotFoundError),
        FileLock(f"{folder}.lock").acquire(timeout=0),
        FileLock(f"{folder}.running").acquire(timeout=0),
    ):
        folder.rename(left)
    # Without the locks, for which another process would not wait so long.
    shutil.rmtree(left, ignore_errors=True)


def _clone(folder: Path) -> None:
    """Clone the repository; the clone shares its objects and DVC's cache."""
    from configobj import ConfigObj  # type: ignore[import-untyped]
    from dvc.repo import Repo

    # DVC commits under the name of the user, and fails without one.
    name, email = (git("config", "--default", "pipeline", "--get", f"user.{key}") for key in ("name", "email"))
    identity = ["--config", f"user.name={name}", "--config", f"user.email={email}"]
    git("clone", "--quiet", "--shared", *identity, ".", str(folder))
    # No commit contains the tree of the snapshot, and git clone --shared copies a shallow repository.
    objects = Path(git("rev-parse", "--git-path", "objects")).absolute()
    (folder / ".git/objects/info/alternates").write_bytes(os.fsencode(f"{objects}\n"))
    if Path(".dvc/config.local").exists():
        shutil.copy(".dvc/config.local", folder / ".dvc")
    with Repo() as repo:
        cache = repo.cache.local_cache_dir
    # Not by DVC, which writes its configuration in ASCII.
    config = ConfigObj(os.fspath(folder / ".dvc/config.local"), encoding="utf-8")
    config.setdefault("cache", {})["dir"] = cache
    config.write()
