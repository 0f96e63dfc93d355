"""Run a check of the doctor in the current folder, and the commands that it prints as a fix."""

import os
import re
import subprocess
import sys
from pathlib import Path

from pipeline.doctor.finding import OK, Check, Finding
from pipeline.doctor.report import run_check


def problem(check: Check) -> Finding:
    """The only finding of a check that is not OK."""
    (found,) = [finding for finding in run_check(check) if finding.status != OK]
    return found


def is_ok(check: Check) -> bool:
    """Whether a check finds nothing wrong."""
    return all(finding.status == OK for finding in run_check(check))


def apply_fix(finding: Finding, count: int = 1) -> None:
    """Run the first ``count`` commands of a fix as they are printed, with this environment on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in re.findall(r"`([^`]+)`", finding.fix)[:count]:
        subprocess.run(["bash", "-c", command], env={**os.environ, "PATH": path}, check=True, timeout=120)
