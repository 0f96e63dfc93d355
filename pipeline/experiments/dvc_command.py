"""``dvc exp run``: its overrides, and DVC in a process of its own, watched while it runs and stopped as a whole."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.common.paths import PARAMS
from pipeline.common.text import listed, one_line
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import MachineError, PipelineError
from pipeline.experiments import guardian
from pipeline.params.file import check_params
from pipeline.params.names import unknown_keys
from pipeline.progress import say

SECONDS_BETWEEN_CHECKS = 0.5


class DvcError(PipelineError):
    """DVC failed; ``stage`` is the one that it was running, None before the first, and ``exit_code`` that stage's."""

    def __init__(self, message: str, stage: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message)
        self.stage, self.exit_code = stage, exit_code


def override_key(override: str) -> str:
    """The parameter that an override of ``dvc exp run -S`` sets, ``train.lr`` for ``train.lr=3e-4``.

    Raises:
        PipelineError: it is not of the form key=value.
    """
    key, equals, _ = override.partition("=")
    if not equals:
        raise PipelineError(f"-S: got {override!r}, allowed is key=value, such as train.lr=3e-4")
    return key.removeprefix(f"{PARAMS.name}:").lstrip("+~")


def overridden_params(overrides: Sequence[str]) -> dict[str, Any]:
    """The content of ``params.yaml`` with overrides, as ``dvc exp run -S`` applies them.

    Raises:
        PipelineError: an override is not of the form key=value, has a value that is not allowed, or names no parameter.
    """
    content: dict[str, Any] = read_yaml(PARAMS)
    check_params(content, PARAMS)
    # DVC's own message about an unknown key advises adding it.
    unknown = unknown_keys(map(override_key, overrides))
    if unknown:
        raise PipelineError("\n".join(f"-S: {line}" for line in unknown))
    if not overrides:
        return content
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides
    from ruamel.yaml.error import YAMLError

    with TemporaryDirectory() as folder:
        path = Path(shutil.copy(PARAMS, folder))
        try:
            apply_overrides(path, [override.removeprefix(f"{PARAMS.name}:") for override in overrides])
        except (DvcException, YAMLError) as error:
            reason = one_line(str(error.__cause__ or error))
            raise PipelineError(f"-S: DVC rejects {listed(overrides)} ({reason}); fix it") from error
        content = read_yaml(path)
    check_params(content, Path("-S"))
    for override in overrides:
        if override.partition("=")[2].strip() == "{}":
            _refuse_empty_mapping(override_key(override), content)
    return content


def _refuse_empty_mapping(key: str, content: Any) -> None:
    """Refuse an override ``key={}`` that does not make the value of the key in ``content`` an empty mapping."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    if content and isinstance(content, dict):
        fix = f"use {key}=null" if "." in key else "name one of its parameters"
        raise PipelineError(f"-S: got {key}={{}}, which changes nothing, as DVC merges mappings; {fix}")


def run_dvc(
    folder: Path,
    *arguments: str,
    stop: Callable[[str | None], bool] = lambda stage: False,
    variables: Mapping[str, str] | None = None,
) -> bool:
    """Run a command of DVC in a process of its own and print the messages of the stages.

    Ctrl-C, and the end of this process by any signal, stop DVC and everything that it started: training writes its
    checkpoint first. A second Ctrl-C does not wait for that.

    Args:
        folder: the repository's root; ``{folder}.running`` is locked meanwhile.
        stop: called twice a second with the stage that DVC runs, None before the first; true stops DVC.
        variables: added to the environment.

    Returns:
        Whether DVC ran to its end; false if it was stopped.

    Raises:
        DvcError: DVC failed; with the message of the stage, otherwise of DVC.
        KeyboardInterrupt: after all processes have ended.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-P", guardian.__file__, f"{folder}.running", sys.executable, "-m", "dvc", *arguments]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PATH": path,
            "DVC_EXP_AUTO_PUSH": "false",
            "PYTHONIOENCODING": "utf-8",
            **(variables or {}),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C in a terminal reaches only this process, which passes it on.
        start_new_session=True,
    ) as process:
        reader = threading.Thread(target=_collect_output, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            stopped = _watch(process, reader, lambda: stop(_last_stage(lines)))
        finally:
            process.wait()
            # A stage may have left processes.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode and not stopped:
        output = "\n".join(lines)
        codes = re.findall(r"^ERROR: failed to reproduce .*, exited with (\d+)$", output, re.MULTILINE)
        # DVC's own message about a full disk has no code.
        full = not codes and os.strerror(errno.ENOSPC) in output
        code = int(codes[-1]) if codes else MachineError.exit_code if full else 1
        raise DvcError(_reason(output) or f"dvc {arguments[0]} failed", _last_stage(lines), code)
    return not stopped


def _watch(process: subprocess.Popen[str], reader: threading.Thread, stop: Callable[[], bool]) -> bool:
    """Wait for the end of the output; return whether ``stop`` ended the process before."""
    assert process.stdin is not None
    stopped, interrupt = False, None
    while reader.is_alive():
        try:
            reader.join(SECONDS_BETWEEN_CHECKS)
            if reader.is_alive() and not stopped and not interrupt and stop():
                stopped = True
                process.stdin.close()
        except BaseException as error:
            if interrupt:
                os.killpg(process.pid, signal.SIGKILL)
            interrupt = interrupt or error
            process.stdin.close()
    if interrupt:
        raise interrupt
    return stopped


def _collect_output(output: Iterable[str], lines: list[str]) -> None:
    """Append the lines to ``lines``, and print those of stages."""
    for line in output:
        lines.append(line.rstrip())
        if re.match("(?!error)[a-z_]+: ", line):
            say(f"  {line.rstrip()}")


def _last_stage(lines: Sequence[str]) -> str | None:
    """The last stage that DVC started."""
    started = (re.match("Running stage '(.+)':$", line) for line in reversed(lines))
    return next((match[1] for match in started if match), None)


def _reason(output: str) -> str:
    # DVC's own message, which can have several lines, follows that of a stage and only says that the stage failed.
    by_stage = re.findall("^error: (.*)", output, re.MULTILINE)
    by_dvc = re.findall(r"^ERROR: (.*?)(?:\n\n|\Z)", output, re.MULTILINE | re.DOTALL)
    return " ".join(("; ".join(by_stage) or (by_dvc or [""])[-1]).split())
