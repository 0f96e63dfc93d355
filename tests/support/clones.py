"""Clones of the whole project for tests with the real DVC, git and stages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

from ruamel.yaml import YAML

from pipeline.common.paths import METRICS, PARAMS

ROOT = Path(__file__).parents[2]
# Far more than a command takes, also on a machine that does much else.
SECONDS = 3600
# Small, but it learns something, so that another learning rate shows in the metrics.
SMALL = {"augment.views": 1, "train.epochs": 3, "model.width": 8, "model.dropout": 0.0, "train.ema_decay": 0.0}


class Workspace:
    """A folder, and commands run in it as a user would."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder, self.environment = folder, environment or {}

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """Run a command and return what it says; ``environment`` is set for this command alone."""
        # A file and no pipe: the workers that dvc queue start leaves behind hold its output open until they end.
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

    def variables(self, **environment: str) -> dict[str, str]:
        """The environment of a command."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # A stage has to take the code of the folder that it runs in.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**inherited, "PATH": path, **self.environment, **environment}

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def change(self, changes: dict) -> None:
        yaml = YAML()
        params = yaml.load(self.folder / PARAMS)
        for key, value in changes.items():
            section, name = key.split(".")
            params[section][name] = value
        yaml.dump(params, self.folder / PARAMS)

    def git_clone(self, folder: Path) -> "Workspace":
        """What ``git clone`` of this repository gives: what is committed, and an empty cache of DVC."""
        self.run("git", "clone", "-q", str(self.folder), str(folder))
        clone = Workspace(folder, self.environment)
        # DVC commits experiments in the name of the user.
        for key, value in (("user.name", "test"), ("user.email", "test@localhost")):
            clone.run("git", "config", key, value)
        return clone

    def metrics(self, stage: str) -> dict:
        return json.loads((self.folder / METRICS / f"{stage}.json").read_text())

    def hashes(self, experiment: str | None = None) -> dict[str, str]:
        """Of each output, as dvc.lock has it in the workspace or in an experiment."""
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
    """A git repository with a copy of the working tree, its changes committed."""

    def __init__(self, folder: Path, changes: dict, environment: dict[str, str] | None = None) -> None:
        super().__init__(folder, environment)
        listed = Workspace(ROOT).run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.change(changes)
        self.run("git", "init", "-q", "-b", "main")
        self.commit("clone")


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it ran, in their order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
