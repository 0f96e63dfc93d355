"""One configuration under several seeds, each an experiment that DVC runs."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from filelock import FileLock, Timeout

from pipeline.errors import PipelineError, listed
from pipeline.experiments import read_metrics
from pipeline.files import replacing
from pipeline.paths import PARAMS
from pipeline.progress import say

# Inside DVC's own folder of temporary files: git ignores it, and it is on the disk of the cache, which can be linked.
SANDBOXES = Path(".dvc/tmp/seeds")
SEED_METRICS = {"evaluate": ("accuracy", "log_loss", "macro_f1"), "train": ("valid_accuracy",)}


def run_seeds(seeds: Sequence[int], overrides: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Run this configuration, as the workspace has it, under each seed as an experiment of DVC, up to ``evaluate``.

    It runs in a clone that shares DVC's cache: the workspace is left alone, and what is changed there meanwhile
    changes nothing here.

    Args:
        seeds: values of the parameter ``seed``.
        overrides: further parameters, ``key=value``, as ``dvc exp run -S`` takes them.

    Returns:
        The column experiment, its name, and the columns of metrics, indexed by the seed; and a line for each seed
        that failed.

    Raises:
        PipelineError: this is no repository of DVC with a commit, or an override is none or is that of the seed.
    """
    _check_overrides(overrides)
    head, tree = _snapshot()
    # All that can change a result, and so an experiment of this name is the one wanted.
    digest = hashlib.sha256(json.dumps([head, tree, *overrides]).encode()).hexdigest()[:7]
    rows, failures = {}, []
    with _sandbox(digest) as sandbox:
        for count, seed in enumerate(seeds, start=1):
            name, start = f"seed-{seed}-{digest}", time.monotonic()
            say(f"seed {seed} ({count} of {len(seeds)}): experiment {name}")
            try:
                _ensure_experiment(sandbox, head, tree, name, [f"seed={seed}", *overrides])
                rows[seed] = {"experiment": name, **_seed_metrics(name)}
            except PipelineError as error:
                failures.append(f"seed {seed}: {error}")
                say(f"seed {seed}: failed: {error}")
            else:
                say(f"seed {seed}: accuracy {rows[seed]['accuracy']:.4f}, {time.monotonic() - start:,.0f} s")
    return pd.DataFrame.from_dict(rows, orient="index"), failures


def _ensure_experiment(sandbox: Path, head: str, tree: str, name: str, parameters: Sequence[str]) -> None:
    """Run an experiment in the sandbox and fetch it, unless it is there already."""
    reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    if _git("for-each-ref", reference):
        say("  is there already")
        return
    if not sandbox.exists():
        with replacing(sandbox) as beside:
            _make_sandbox(beside)
    _reset(sandbox, head, tree)
    _run_experiment(sandbox, name, parameters)
    _git("fetch", "--quiet", "--no-tags", str(sandbox), f"{reference}:{reference}")


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise PipelineError(f"-S: got {override!r}, allowed is key=value, such as train.lr=3e-4")
        if key.removeprefix(f"{PARAMS.name}:").lstrip("+~") == "seed":
            raise PipelineError(f"-S: got {override!r}; the seeds are those of --first and --n")


def _git(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run git in ``folder``, by default the workspace, and return what it says.

    Raises:
        PipelineError: with the last line of git's complaint.
    """
    result = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise PipelineError(f"git {arguments[0]}: {reason}")
    return result.stdout.strip()


def _snapshot() -> tuple[str, str]:
    """The commit HEAD, and the tree of what git tracks as it is in the workspace now; changes neither.

    What git does not know is no part of an experiment, here as in ``dvc exp run --temp``.
    """
    try:
        head, prefix = _git("rev-parse", "HEAD"), _git("rev-parse", "--show-prefix")
    except PipelineError as error:
        raise PipelineError(f"experiments need a git repository with a commit ({error})") from error
    if prefix or not Path(".dvc").is_dir():
        raise PipelineError("experiments need the root of a git repository with a folder .dvc; change to it")
    unknown = _git("ls-files", "--others", "--exclude-standard", "--", "pipeline", PARAMS.name, "dvc.yaml")
    if unknown:
        say(f"git does not know {listed(unknown.splitlines())}: the experiments run without; git add what they need")
    with TemporaryDirectory() as folder:
        index = shutil.copy(_git("rev-parse", "--git-path", "index"), folder)
        _git("add", "--update", GIT_INDEX_FILE=index)
        return head, _git("write-tree", GIT_INDEX_FILE=index)


@contextmanager
def _sandbox(digest: str) -> Iterator[Path]:
    """Where a clone of the repository may lie, for this process alone; it is removed in the end.

    A training that is stopped in it goes on in the next one: its checkpoint lies in the repository around it.
    """
    sandbox = SANDBOXES.absolute() / digest
    sandbox.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(f"{sandbox}.lock").acquire(timeout=0)
    except Timeout as error:
        raise PipelineError("another process runs the seeds of this configuration; wait for it") from error
    with lock:
        try:
            # A process that was killed left it.
            shutil.rmtree(sandbox, ignore_errors=True)
            yield sandbox
        finally:
            shutil.rmtree(sandbox, ignore_errors=True)


def _make_sandbox(folder: Path) -> None:
    """Clone the repository; the clone shares its objects and DVC's cache."""
    from dvc.repo import Repo

    # DVC commits in the name of the user, and not at all without one.
    name, email = (_git("config", "--default", "pipeline", "--get", f"user.{key}") for key in ("name", "email"))
    identity = ["--config", f"user.name={name}", "--config", f"user.email={email}"]
    _git("clone", "--quiet", "--shared", *identity, ".", str(folder))
    # The tree of the snapshot is in no commit, so that only this brings it; a shallow repository is not shared at all.
    objects = Path(_git("rev-parse", "--git-path", "objects")).absolute()
    (folder / ".git/objects/info/alternates").write_text(f"{objects}\n")
    if Path(".dvc/config.local").exists():
        shutil.copy(".dvc/config.local", folder / ".dvc")
    with Repo() as repo:
        cache = repo.cache.local_cache_dir
    _dvc(folder, "cache", "dir", "--local", cache)


def _reset(sandbox: Path, head: str, tree: str) -> None:
    """Bring the files that git tracks to the snapshot, whatever the seed before has left."""
    _git("checkout", "--quiet", "--force", "--detach", head, folder=sandbox)
    _git("read-tree", "--reset", "-u", tree, folder=sandbox)


def _run_experiment(sandbox: Path, name: str, parameters: Sequence[str]) -> None:
    """``dvc exp run`` up to the stage ``evaluate``."""
    settings = [part for parameter in parameters for part in ("--set-param", parameter)]
    try:
        _dvc(sandbox, "exp", "run", "--name", name, *settings, "evaluate")
    except PipelineError as error:
        hint = "; experiments lack what neither git nor DVC tracks: run dvc repro download here first"
        raise PipelineError(f"{error}{hint if 'data.location' in str(error) else ''}") from error


def _dvc(folder: Path, *arguments: str) -> None:
    """Run DVC and pass on what the stages say.

    Raises:
        PipelineError: DVC failed: why, in the words of the stage or else of DVC.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "DVC_EXP_AUTO_PUSH": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    lines = []
    for line in _lines_to_the_end(process):
        lines.append(line)
        if re.match("(?!error)[a-z_]+: ", line):
            say(f"  {line}")
    if process.wait():
        text = "\n".join(lines)
        # DVC's own complaint, which can be of several lines, follows a stage's and says only that there was one.
        by_stage = re.findall("^error: (.*)", text, re.MULTILINE)
        by_dvc = re.findall(r"^ERROR: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        reason = "; ".join(by_stage) or (by_dvc or [f"dvc {arguments[0]} failed"])[-1]
        raise PipelineError(" ".join(reason.split()))


def _lines_to_the_end(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a process says; Ctrl-C, which it gets too, is raised when it has put its things in order and ended."""
    assert process.stdout is not None
    interrupt = None
    while True:
        try:
            line = process.stdout.readline()
        except KeyboardInterrupt as error:
            interrupt = error
            continue
        if not line:
            break
        yield line.rstrip()
    if interrupt:
        raise interrupt


def _seed_metrics(name: str) -> dict[str, float]:
    metrics = {stage: read_metrics(name, stage) for stage in SEED_METRICS}
    return {key: metrics[stage][key] for stage, keys in SEED_METRICS.items() for key in keys if key in metrics[stage]}
