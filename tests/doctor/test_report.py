"""The whole report, as text and as JSON; whatever happens to one check, the others run."""

import json
import os
import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from pipeline.doctor import report
from pipeline.doctor.finding import CHECKS, ERROR, NOTE, OK, Finding
from pipeline.doctor.report import doctor, run_check

ROOT = Path(__file__).parents[2]


def good():
    yield Finding(OK, "all is well")


def bad():
    yield Finding(ERROR, "a line\nand a detail", "`command`")


def raises():
    print("not part of the report")
    yield Finding(OK, "this far")
    raise ValueError("a reason\nand more")


def lacks_a_package():
    yield from ()
    import no_such_package_anywhere  # noqa: F401


def hangs():
    print("not part of the report", file=sys.stderr)
    yield Finding(OK, "this far")
    time.sleep(30)


@pytest.mark.parametrize(
    ("check", "found"),
    [
        (raises, ["this far", "could not be checked: ValueError: a reason"]),
        (lacks_a_package, ["could not be checked: the package no_such_package_anywhere is missing"]),
        (hangs, ["this far", "could not be checked: no answer within 0.3 s"]),
        (sys.exit, ["could not be checked: SystemExit:"]),
    ],
)
def test_a_check_that_fails_hangs_or_prints_does_not_disturb_the_report(check, found, capsys):
    findings = run_check(check, 0.3)
    assert [finding.found for finding in findings] == found
    assert [finding.status for finding in findings] == [OK, NOTE][-len(found) :]
    assert capsys.readouterr() == ("", "")


class Output(StringIO):
    """An output with another encoding, or a terminal."""

    encoding = "utf-8"
    terminal = False

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("encoding", "terminal", "line"),
    [
        ("utf-8", False, "  ✗ error bad         a line"),
        ("ascii", False, "  error bad         a line"),
        ("utf-8", True, "  \x1b[1;31m✗ error\x1b[0m bad         a line"),
    ],
)
def test_output_without_utf_8_has_no_symbols_and_only_a_terminal_gets_colours(monkeypatch, encoding, terminal, line):
    output = Output()
    output.encoding, output.terminal = encoding, terminal
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(report, "CHECKS", {("All", "good"): good, ("All", "bad"): bad})
    assert doctor() == 1
    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert lines[5:] == [line.strip(), "and a detail", "fix: `command`", "", "ok: 1, notes: 0, errors: 1"]
    monkeypatch.setitem(report.CHECKS, ("All", "bad"), good)
    assert doctor() == 0


def test_every_check_says_what_it_is_about():
    assert len(CHECKS) >= 15
    assert all(check.__doc__ for check in CHECKS.values())


def test_the_report_of_a_repository_is_plain_text_without_secrets(repository, monkeypatch, capsys):
    repository.dvc("remote", "add", "-d", "web", "https://ann:s3cr3t@example.org/?token=s3cr3t")
    for name, value in {
        "FORCE_COLOR": "1",
        "HTTPS_PROXY": "http://ann:s3cr3t@proxy:3128",
        "API_TOKEN": "s3cr3t",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir("code")
    assert doctor() == 1  # the code that runs is that of another folder
    text, errors = capsys.readouterr()
    assert errors == ""
    assert "\x1b" not in text
    assert "s3cr3t" not in text
    assert "could not be checked" not in text
    assert re.findall(r"(?m)^\w+$", text) == ["Python", "Machine", "Project", "DVC"]
    assert f"{repository.folder}, but the code runs from" in text
    assert "dvc status  all stages are up to date" in text
    assert text.splitlines()[-1].endswith("errors: 1")


def test_a_repository_broken_in_many_ways_has_all_errors_in_json(repository, capsys):
    subprocess.run(["rm", "-rf", ".git", ".dvc/config"], check=True)
    Path("params.yaml").write_text("train: [")
    Path("dvc.yaml").write_text("stages: {a: 1}")
    Path("pyproject.toml").write_text("[project")
    assert doctor(as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    errors = [check for check in found["checks"] if check["status"] == ERROR]
    assert found["counts"]["error"] == len(errors) >= 3
    assert all(check["fix"] for check in errors)
    text = " ".join(check["found"] for check in errors)
    assert "in no git repository" in text
    assert "params.yaml: line 1" in text
    assert next(check for check in found["checks"] if check["name"] == "torch")["status"] == OK


def test_a_python_without_any_package_is_checked_too(repository):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-m", "pipeline", "doctor"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.stderr == ""
    assert "missing: altair" in result.stdout
    assert "cannot be imported: No module named 'torch'" in result.stdout
    assert result.returncode == 1
