"""A small real repository to break, its checks, and the commands that mend it."""

import os
import re
import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path

import pytest

from pipeline.doctor.finding import Check, Finding, Status
from pipeline.doctor.surroundings import Surroundings
from tests.support.small_repository import SmallRepository

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """One quick stage, one commit, nothing has run."""
    repository = SmallRepository(tmp_path_factory.mktemp("template"))
    for name in ("pyproject.toml", "constraints.txt"):
        repository.write(name, (ROOT / name).read_text("utf-8"))
    repository.commit("environment")
    return repository


@pytest.fixture
def repository(template, tmp_path, monkeypatch):
    """A copy of the template to break; the current folder, and no settings of git but its own."""
    shutil.copytree(template.folder, tmp_path / "project", symlinks=True)
    repository = copy(template)
    repository.folder = tmp_path / "project"
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(repository.folder)
    return repository


def look(check: Check) -> list[Finding]:
    """Everything that a check finds in the current folder now."""
    return list(check(Surroundings()))


def problem(check: Check) -> Finding:
    """The one finding of a check that is not ok."""
    (found,) = [finding for finding in look(check) if finding.status != Status.OK]
    return found


def is_well(check: Check) -> bool:
    """Whether a check finds something, or nothing that is not ok."""
    return all(finding.status == Status.OK for finding in look(check))


def commands(finding: Finding) -> list[str]:
    """The commands of a mend."""
    return re.findall(r"`([^`]+)`", finding.mend)


def mend(finding: Finding, count: int = 1) -> str:
    """Run the first ``count`` commands of a mend, as they stand there, with this environment on PATH."""
    environment = {
        **os.environ,
        "GIT_EDITOR": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    output = ""
    for command in commands(finding)[:count]:
        result = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        output += result.stdout
    return output
