"""DVC in processes of its own, watched while it runs and stopped as a whole."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.experiments import guardian
from pipeline.progress import say

SECONDS_BETWEEN_LOOKS = 0.5


class DvcError(PipelineError):
    """DVC failed; ``stage`` is the one that it was running, None before the first."""

    def __init__(self, message: str, stage: str | None) -> None:
        super().__init__(message)
        self.stage = stage


def run_dvc(
    folder: Path,
    *arguments: str,
    stop: Callable[[str | None], bool] = lambda stage: False,
    variables: Mapping[str, str] | None = None,
) -> bool:
    """Run DVC and pass on what the stages say.

    Ctrl-C, and the end of this process by any signal, stop DVC and all that it started: training writes its
    checkpoint first. A second Ctrl-C does not wait for that.

    Args:
        folder: the repository's root; ``{folder}.running`` is locked meanwhile.
        arguments: the command.
        stop: called with the stage that DVC runs, None before the first, after each line and twice a second; where
            it returns true, DVC is stopped.
        variables: of the environment, beside those of this process.

    Returns:
        Whether DVC came to its end; false where it was stopped.

    Raises:
        DvcError: DVC failed: why, in the words of the stage or else of DVC.
        KeyboardInterrupt: when all has ended.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-P", guardian.__file__, f"{folder}.running", sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "DVC_EXP_AUTO_PUSH": "false", **(variables or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C in a terminal reaches this process alone, which passes it on, however it came.
        start_new_session=True,
    )
    try:
        lines, stage, stopped = _follow(process, stop)
    finally:
        process.wait()
        # What a stage left running.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode and not stopped:
        raise DvcError(_reason("\n".join(lines)) or f"dvc {arguments[0]} failed", stage)
    return not stopped


def _follow(process: subprocess.Popen[bytes], stop: Callable[[str | None], bool]) -> tuple[list[str], str | None, bool]:
    """Wait for the end; return what was said, the stage that was running at last, and whether ``stop`` asked for it."""
    assert process.stdin is not None
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(process, waiting), daemon=True).start()
    lines: list[str] = []
    stage, stopped, interrupt = None, False, None
    while True:
        try:
            with suppress(queue.Empty):
                line = waiting.get(timeout=SECONDS_BETWEEN_LOOKS)
                if line is None:
                    break
                lines.append(line)
                started = re.match("Running stage '(.+)':$", line)
                stage = started[1] if started else stage
                if re.match("(?!error)[a-z_]+: ", line):
                    say(f"  {line}")
            if not stopped and not interrupt and stop(stage):
                stopped = True
                process.stdin.close()
        except BaseException as error:
            if interrupt:
                os.killpg(process.pid, signal.SIGKILL)
            interrupt = interrupt or error
            process.stdin.close()
    if interrupt:
        raise interrupt
    return lines, stage, stopped


def _read_lines(process: subprocess.Popen[bytes], waiting: "queue.SimpleQueue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        waiting.put(line.decode("utf-8", "replace").rstrip())
    waiting.put(None)


def _reason(text: str) -> str:
    # DVC's own complaint, which can be of several lines, follows a stage's and says only that there was one.
    by_stage = re.findall("^error: (.*)", text, re.MULTILINE)
    by_dvc = re.findall(r"^ERROR: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(("; ".join(by_stage) or (by_dvc or [""])[-1]).split())
