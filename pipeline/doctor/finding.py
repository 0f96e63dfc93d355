"""What a check is and finds, how it asks other programs, and how its text is made fit for a public bug report."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.common.text import one_line, shown

OK, NOTE, ERROR = "ok", "note", "error"


class Finding(NamedTuple):
    """What a check found, in one or more lines, and how to fix it, with commands in backquotes."""

    status: str  # OK, NOTE (it works, but there is something to know) or ERROR (something does not work)
    found: str
    fix: str = ""


# A check changes nothing in the project, and yields nothing if it does not apply. What it raises becomes a finding.
Check = Callable[[], Iterator[Finding]]
CHECKS: dict[tuple[str, str], Check] = {}


def check(heading: str, title: str) -> Callable[[Check], Check]:
    """Add a function to the checks, by the heading that its lines are printed under and the title of each line."""

    def register(function: Check) -> Check:
        CHECKS[heading, title] = function
        return function

    return register


def ask(*command: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program that changes nothing; the exit code is 127 if it cannot be started, 124 if it takes too long."""
    # Plain text, even if the user forces colours; DVC reports no usage and looks for no update.
    variables = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    variables |= {"DVC_NO_ANALYTICS": "1", "CI": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}
    try:
        return subprocess.run(command, input="", capture_output=True, errors="replace", env=variables, timeout=seconds)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {seconds:g} s")
    except OSError as problem:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {problem.strerror}")


def complaint(answer: subprocess.CompletedProcess[str]) -> str:
    """Why a program failed, on one line, without a traceback or the source lines that DVC quotes."""
    text = re.split(r"\nTraceback |\n {2,}\d+ ", answer.stderr.strip() or answer.stdout)[0]
    return one_line(text.replace("ERROR: ", ""))[:400] or f"exit code {answer.returncode}"


def shareable(text: str) -> str:
    """Make text fit for a public bug report: as :func:`shown` does, and with ``~`` for the home folder."""
    text = shown(text)
    for home in _homes():
        text = re.sub(rf"{re.escape(home)}(?=$|[^\w.-])", "~", text)
    return text


def _homes() -> list[str]:
    """The home folder as it is written and as it resolves, the longer one first."""
    try:
        homes = {str(Path.home()), str(Path.home().resolve())}
    except (OSError, RuntimeError):
        return []
    return sorted((path for path in homes if len(path) > 1), key=len, reverse=True)


def shell_path(path: Path | str) -> str:
    """Quote a path for a shell, with the home folder as ``~``, which no shell replaces within quotes."""
    text = str(path)
    for home in _homes():
        if text.startswith(f"{home}/"):
            return f"~/{shlex.quote(text[len(home) + 1 :])}"
    return shlex.quote(text)
