"""The command as a user calls it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doctor.conftest import ROOT

pytestmark = pytest.mark.slow


def call(*arguments: str, options: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **environment}
    command = [sys.executable, *options, "-m", "pipeline", "doctor", *arguments]
    return subprocess.run(command, env=given, capture_output=True, timeout=300)


def test_a_repository_that_never_ran(repository):
    """Plain text without escape codes, even where colours are forced; everything is told; nothing is written."""
    repository.dvc("remote", "add", "-d", "web", "https://ann:s3cr3t@example.org/?token=s3cr3t")
    before = repository.git("status", "--porcelain", "--ignored")
    result = call(FORCE_COLOR="1", HTTPS_PROXY="http://ann:s3cr3t@proxy:3128", API_TOKEN="s3cr3t")
    text = result.stdout.decode()
    assert result.stderr == b""
    assert "\x1b" not in text
    assert "s3cr3t" not in text
    assert repository.git("status", "--porcelain", "--ignored") == before
    for heading in ("Project", "Git", "Python", "DVC", "Device", "Machine", "Parameters", "Data", "Stages"):
        assert f"\n\n{heading}\n" in text
    assert "could not be checked" not in text
    assert "  ! note  evaluate         never ran: dvc.lock does not know it\n" in text
    assert f"{' ' * 27}mend: `dvc repro`\n" in text
    # The code is that of another folder here, which is an error.
    assert "runs from" in text
    assert text.splitlines()[-1].endswith("1 error")
    assert result.returncode == 1


def test_broken_in_many_ways_at_once(repository):
    subprocess.run(["rm", "-rf", ".git", ".dvc/config"], check=True)
    Path("params.yaml").write_text("train: [")
    Path("dvc.yaml").write_text("stages: {a: 1}")
    Path("pyproject.toml").write_text("[project")
    result = call("--json")
    found = json.loads(result.stdout)
    assert result.returncode == 1
    assert found["counts"]["error"] == sum(check["status"] == "error" for check in found["checks"]) >= 4
    errors = " ".join(check["found"] for check in found["checks"] if check["status"] == "error")
    assert "in no git repository" in errors
    assert "params.yaml: line 1" in errors
    assert "DVC cannot read the stages" in errors
    assert all(check["mend"] for check in found["checks"] if check["status"] == "error")
    device = next(check for check in found["checks"] if check["name"] == "torch")
    assert device["status"] == "ok"


def test_from_a_folder_below_the_root_is_examined(repository, monkeypatch):
    monkeypatch.chdir("code")
    found = json.loads(call("--json").stdout)
    note = next(check for check in found["checks"] if check["name"] == "folder")
    assert note["mend"] == f"`cd {repository.folder}`"
    assert found["commit"] == repository.git("rev-parse", "HEAD").strip()


def test_in_an_empty_folder(workspace):
    result = call()
    assert result.returncode == 1
    assert "neither params.yaml nor dvc.yaml is here" in result.stdout.decode()


def test_a_python_without_any_package_is_examined_too(repository):
    result = call(options=("-S",))
    text = result.stdout.decode()
    assert result.stderr == b""
    assert "there is no package packaging" in text or "missing: altair" in text
    assert "DVC cannot be imported: No module named 'dvc'" in text
    assert "cannot be imported: No module named 'torch'" in text
    assert result.returncode == 1


def test_an_output_that_is_not_utf_8_has_plain_words(repository):
    text = call(PYTHONIOENCODING="ascii").stdout.decode("ascii")
    assert "\n  ok    program " in text
    assert "\n  note  encoding " in text


def test_a_terminal_gets_colours_and_wrapped_lines(repository):
    main, other = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "70"}
    command = [sys.executable, "-m", "pipeline", "doctor"]
    with subprocess.Popen(command, env=environment, stdout=other, stderr=other) as process:
        os.close(other)
        output = b""
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:
                break
            if not chunk:
                break
            output += chunk
    text = output.decode()
    assert process.returncode == 1
    assert "\x1b[32m" in text
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= 70
