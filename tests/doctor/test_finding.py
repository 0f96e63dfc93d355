"""What a report shows contains no password and no home folder, and other programs are asked with a time limit."""

import subprocess
import sys
from pathlib import Path

from pipeline.doctor.finding import ask, complaint, shareable, shell_path


def test_the_report_shows_no_secret_and_changes_no_terminal():
    assert (
        shareable("branch \x1b[31mred, HTTPS_PROXY=ann:s3cr3t@proxy:3128")
        == "branch ?[31mred, HTTPS_PROXY=***@proxy:3128"
    )


def test_the_home_folder_becomes_a_tilde_but_not_a_folder_with_a_longer_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    assert shareable(f"in {tmp_path}/ann/food, {tmp_path}/anna, {tmp_path}/ann") == f"in ~/food, {tmp_path}/anna, ~"


def test_a_shell_finds_a_quoted_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    for path in (tmp_path / "ann" / "my food", tmp_path, Path("a b")):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        command = f"cd {shell_path(path)} && pwd"
        result = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert result.stdout.strip() == str(tmp_path / path), result.stderr


def test_a_program_that_does_not_end_or_does_not_exist_has_an_exit_code_and_a_reason():
    late = ask(sys.executable, "-c", "import time; time.sleep(60)", seconds=0.3)
    assert (late.returncode, complaint(late)) == (124, "no answer within 0.3 s")
    missing = ask("no-such-program")
    assert (missing.returncode, complaint(missing)) == (127, "no-such-program: No such file or directory")
    failed = ask(sys.executable, "-c", "print('ERROR: a reason'); print('Traceback (most'); exit(3)")
    assert (failed.returncode, complaint(failed)) == (3, "a reason")
