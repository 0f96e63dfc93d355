"""A clone of the repository that shares DVC's cache, where experiments run and the workspace is left alone."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from filelock import FileLock, Timeout

from pipeline.common.files import replacing
from pipeline.common.paths import PARAMS
from pipeline.errors import PipelineError, listed
from pipeline.experiments.dvc_command import DvcError, run_dvc
from pipeline.experiments.guardian import SECONDS_TO_END
from pipeline.progress import say

# Inside DVC's own folder of temporary files: git ignores it, and it is on the disk of the cache, which can be linked.
SANDBOXES = Path(".dvc/tmp")


@dataclass(frozen=True)
class Snapshot:
    """What git tracks, as it is in the workspace: the commit HEAD, to which experiments belong, and a tree."""

    head: str
    tree: str

    def files(self) -> dict[str, str]:
        """The object of each file in the tree."""
        rows = (row.partition("\t") for row in git("ls-tree", "-r", "-z", self.tree).split("\0") if row)
        return {path: facts.split()[2] for facts, _, path in rows}

    def experiments(self, pattern: str) -> list[str]:
        """The names of those experiments of the commit that match a pattern of git's."""
        return git("for-each-ref", "--format=%(refname:lstrip=4)", self.reference(pattern)).split()

    def reference(self, name: str) -> str:
        """Where DVC keeps an experiment of that name."""
        return f"refs/exps/{self.head[:2]}/{self.head[2:]}/{name}"


def take_snapshot() -> Snapshot:
    """Take the snapshot; neither the workspace nor the index changes.

    What git does not know is no part of an experiment, here as in ``dvc exp run --temp``.

    Raises:
        PipelineError: this is not the root of a repository of DVC with a commit.
    """
    try:
        head, prefix = git("rev-parse", "HEAD"), git("rev-parse", "--show-prefix")
    except PipelineError as error:
        raise PipelineError(f"experiments need a git repository with a commit ({error})") from error
    if prefix or not Path(".dvc").is_dir():
        raise PipelineError("experiments need the root of a git repository with a folder .dvc; change to it")
    unknown = git("ls-files", "--others", "--exclude-standard", "--", "pipeline", PARAMS.name, "dvc.yaml")
    if unknown:
        say(f"git does not know {listed(unknown.splitlines())}: the experiments run without; git add what they need")
    with TemporaryDirectory() as folder:
        index = shutil.copy(git("rev-parse", "--git-path", "index"), folder)
        git("add", "--update", GIT_INDEX_FILE=index)
        return Snapshot(head, git("write-tree", GIT_INDEX_FILE=index))


def override_key(override: str) -> str:
    """The parameter that an override of ``dvc exp run -S`` sets, ``train.lr`` of ``train.lr=3e-4``.

    Raises:
        PipelineError: it sets none.
    """
    key, equals, _ = override.partition("=")
    if not equals:
        raise PipelineError(f"-S: got {override!r}, allowed is key=value, such as train.lr=3e-4")
    return key.removeprefix(f"{PARAMS.name}:").lstrip("+~")


class Sandbox:
    """Where experiments on a snapshot run, one after the other; made by the first."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self.folder, self.snapshot = folder, snapshot

    def run(
        self,
        name: str,
        parameters: Sequence[str],
        stop: Callable[[str | None], bool] = lambda stage: False,
        variables: Mapping[str, str] | None = None,
    ) -> bool:
        """``dvc exp run`` up to the stage ``evaluate``; the experiment is then in the sandbox alone.

        Args:
            name: of the experiment.
            parameters: ``key=value``, as ``dvc exp run -S`` takes them.
            stop, variables: as :func:`pipeline.experiments.dvc_command.run_dvc` takes them.

        Returns:
            Whether it is complete; where it was stopped, there is no experiment.

        Raises:
            DvcError: DVC or a stage failed.
            PipelineError: git failed.
        """
        if not self.folder.exists():
            with replacing(self.folder) as beside:
                _clone(beside)
        self._reset()
        settings = [part for parameter in parameters for part in ("--set-param", parameter)]
        try:
            return run_dvc(
                self.folder, "exp", "run", "--name", name, *settings, "evaluate", stop=stop, variables=variables
            )
        except DvcError as error:
            hint = "; experiments lack what neither git nor DVC tracks: run dvc repro download here first"
            raise DvcError(f"{error}{hint if 'data.location' in str(error) else ''}", error.stage) from error

    def fetch(self, name: str) -> None:
        """Bring an experiment of the sandbox into the repository."""
        reference = self.snapshot.reference(name)
        git("fetch", "--quiet", "--no-tags", str(self.folder), f"{reference}:{reference}")

    def _reset(self) -> None:
        """Bring the files that git tracks to the snapshot, whatever the experiment before has left."""
        git("checkout", "--quiet", "--force", "--detach", self.snapshot.head, folder=self.folder)
        git("read-tree", "--reset", "-u", self.snapshot.tree, folder=self.folder)


@contextmanager
def open_sandbox(folder: Path, snapshot: Snapshot, subject: str) -> Iterator[Sandbox]:
    """Yield a sandbox in ``folder`` for this process alone; it is removed in the end.

    SIGTERM ends the block as Ctrl-C does. A training that is stopped in it can go on in the next one: its checkpoint
    lies in the repository around it.

    Raises:
        PipelineError: another process has it; ``subject`` says what that one runs.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(f"{folder}.lock").acquire(timeout=0)
    except Timeout as error:
        raise PipelineError(f"another process runs {subject}; wait for it") from error
    with lock, _ended_by_sigterm():
        _wait_for_leftovers(folder)
        try:
            # A process that was killed left it.
            shutil.rmtree(folder, ignore_errors=True)
            yield Sandbox(folder, snapshot)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_leftovers(folder: Path) -> None:
    """Wait until what a killed process had started in the sandbox has written its checkpoint and ended."""
    running = FileLock(f"{folder}.running")
    try:
        running.acquire(timeout=0.1)
    except Timeout:
        say("waiting for the experiment of a killed process to end")
        running.acquire(timeout=SECONDS_TO_END + 10)
    running.release()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def git(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run git in ``folder``, by default the workspace, and return what it says.

    Raises:
        PipelineError: with the last line of git's complaint.
    """
    result = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise PipelineError(f"git {arguments[0]}: {reason}")
    return result.stdout.strip()


def _clone(folder: Path) -> None:
    """Clone the repository; the clone shares its objects and DVC's cache."""
    from dvc.repo import Repo

    # DVC commits in the name of the user, and not at all without one.
    name, email = (git("config", "--default", "pipeline", "--get", f"user.{key}") for key in ("name", "email"))
    identity = ["--config", f"user.name={name}", "--config", f"user.email={email}"]
    git("clone", "--quiet", "--shared", *identity, ".", str(folder))
    # The tree of the snapshot is in no commit, so that only this brings it; a shallow repository is not shared at all.
    objects = Path(git("rev-parse", "--git-path", "objects")).absolute()
    (folder / ".git/objects/info/alternates").write_text(f"{objects}\n")
    if Path(".dvc/config.local").exists():
        shutil.copy(".dvc/config.local", folder / ".dvc")
    with Repo() as repo:
        cache = repo.cache.local_cache_dir
    with Repo(os.fspath(folder)) as clone, clone.config.edit("local") as config:
        config["cache"]["dir"] = cache
