"""Git clones of the whole project, for tests with the real DVC, git and stages."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import psutil
from filelock import FileLock
from ruamel.yaml import YAML

from pipeline.common.paths import DETAILS, METRICS, PARAMS

ROOT = Path(__file__).parents[2]
# Much longer than any command takes, even on a busy machine.
SECONDS = 3600
# Trains in two seconds, and well enough that another learning rate changes the metrics.
SMALL = {
    "augment.views": 1,
    "model.width": 8,
    "model.dropout": 0.0,
    "train.epochs": 3,
    "train.ema_decay": 0.0,
    "evaluate.bootstrap": 200,
}
# The same results on every machine, and no more processes than commands.
SETTINGS = {"OMP_NUM_THREADS": "1", "PIPELINE_DEVICE": "cpu", "PIPELINE_WORKERS": "1"}


class Workspace:
    """A folder, and commands run in it as a user would run them."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder, self.environment = folder, {**SETTINGS, **(environment or {})}
        self.output = ""

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """Run a command and return its output; ``environment`` is set for this command only."""
        # A file instead of a pipe: the workers that dvc queue start leaves behind keep its output open until they end.
        with TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
            code = subprocess.run(
                command,
                cwd=self.folder,
                env=self.variables(**environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
            ).returncode
            file.seek(0)
            output = file.read()
        assert (code != 0) == fails, output
        return output

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        """Start a command whose output goes to the file ``output`` beside the folder."""
        with (self.folder.parent / "output").open("w") as file:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.variables(**environment), stdout=file, stderr=subprocess.STDOUT
            )

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints; a name that begins with a dot is one that is being written."""
        return list((self.folder / ".checkpoints").glob("[!.]*.pt"))

    def trainings(self) -> Iterator[psutil.Process]:
        """The processes that run the stage train in the folder or below it."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                if command[1:] == ["-m", "pipeline", "train"] and Path(process.cwd()).is_relative_to(self.folder):
                    yield process

    def variables(self, **environment: str) -> dict[str, str]:
        """The environment of a command."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # A stage must import the code of the folder that it runs in.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**inherited, "PATH": path, **self.environment, **environment}

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def change(self, changes: dict) -> None:
        """Set parameters, ``{"train.lr": 0.1}``."""
        yaml = YAML()
        params = yaml.load(self.folder / PARAMS)
        for key, value in changes.items():
            section, name = key.split(".")
            params[section][name] = value
        yaml.dump(params, self.folder / PARAMS)

    def undo_changes(self) -> None:
        """Restore the files of the last commit, and the outputs that belong to them."""
        self.run("git", "checkout", "-q", "--", ".")
        self.run("dvc", "checkout", "-q", "--force")

    def set_identity(self) -> None:
        """Set the name and the address that git and DVC commit with."""
        self.run("git", "config", "user.name", "test")
        self.run("git", "config", "user.email", "test@localhost")

    def git_clone(self, folder: Path) -> "Workspace":
        """Clone the repository with git: what is committed, and an empty DVC cache."""
        self.run("git", "clone", "-q", str(self.folder), str(folder))
        clone = Workspace(folder, self.environment)
        clone.set_identity()
        return clone

    def clone_with_cache(self, folder: Path, checkout: bool = True) -> "Workspace":
        """Clone the repository with git, and hard-link its DVC cache, so that nothing is computed again."""
        clone = self.git_clone(folder)
        shutil.copytree(self.folder / ".dvc/cache", folder / ".dvc/cache", copy_function=os.link)
        if checkout:
            clone.run("dvc", "checkout", "-q")
        return clone

    def metrics(self, name: str) -> dict:
        """The numbers that ``dvc metrics`` shows for a stage."""
        return json.loads((self.folder / METRICS / f"{name}.json").read_text())

    def details(self, name: str) -> dict:
        """The other results of a stage."""
        return json.loads((self.folder / DETAILS / f"{name}.json").read_text())

    def hashes(self, experiment: str | None = None) -> dict[str, str]:
        """The hash of each output, as dvc.lock has it in the workspace or in an experiment."""
        if experiment:
            references = self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
            reference = next(reference for reference in references if reference.endswith(f"/{experiment}"))
            text = self.run("git", "show", f"{reference}:dvc.lock")
        else:
            text = (self.folder / "dvc.lock").read_text()
        lock = YAML(typ="safe").load(text)
        outs = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
        outs.pop("results/report.html", None)  # it names the commit that it compares with
        return outs


class Clone(Workspace):
    """A git repository with a copy of the working tree and changed parameters, in one commit."""

    def __init__(self, folder: Path, changes: dict, environment: dict[str, str] | None = None) -> None:
        super().__init__(folder, environment)
        listed = Workspace(ROOT).run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.change(changes)
        self.run("git", "init", "-q", "-b", "main")
        self.set_identity()
        self.commit("clone")


def stages_run(output: str) -> list[str]:
    """The stages that DVC ran, in their order, according to its output; without ``source``, which always runs."""
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return [stage for stage in ran if stage != "source"]


def build_once(folder: Path, build: Callable[[Path], str]) -> str:
    """Build a folder that all workers of pytest-xdist share, in one of them; return the output of ``build``."""
    output = folder.with_suffix(".output")
    with FileLock(folder.with_suffix(".lock")):
        if not output.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a build that failed
            output.write_text(build(folder), "utf-8")
    return output.read_text("utf-8")
