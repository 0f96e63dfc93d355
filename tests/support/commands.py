"""The commands of ``python -m pipeline``, run in process: no import of torch for each of them."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from pipeline.cli import main


@dataclass(frozen=True)
class Result:
    """The exit code of a command, and what it printed."""

    code: int
    stdout: str
    stderr: str


def run_command(*arguments: str) -> Result:
    """Run a command in the current folder, with its messages, as ``python -m pipeline`` does."""
    stdout, stderr = io.StringIO(), io.StringIO()
    code = 0
    with patch.object(sys, "argv", ["pipeline", *arguments]), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Result(code, stdout.getvalue(), stderr.getvalue())
