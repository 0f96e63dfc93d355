"""Other programs, asked for what they know."""

import os
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """How a program ended and what it printed, without the white space at its end."""

    code: int
    text: str
    complaint: str


def ask(*command: str, environment: dict[str, str] | None = None, seconds: float = 20.0) -> Answer | None:
    """Run a program that changes nothing; None where it is not there, cannot be started or does not end in time."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment or dict(os.environ),
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Answer(done.returncode, done.stdout.rstrip(), done.stderr.rstrip())
