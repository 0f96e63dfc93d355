"""How git is called: in English, since its complaints are read, and without locks that would disturb another git."""

import os
import subprocess
from pathlib import Path

from pipeline.errors import PipelineError


def git(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run git in ``folder``, by default the current one, and return what it prints, without the white space around it.

    Raises:
        PipelineError: git is not installed, or failed; with the last line of its complaint.
    """
    variables = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", **environment}
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=variables,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except FileNotFoundError:
        raise PipelineError("git is not installed") from None
    if result.returncode:
        if "dubious ownership" in result.stderr:
            folder = (folder or Path()).absolute()
            raise PipelineError(
                f"{folder} belongs to another user, so git does not trust it; if you trust that user: "
                f"git config --global --add safe.directory {folder}"
            )
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise PipelineError(f"git {arguments[0]}: {reason}")
    return result.stdout.strip()
