"""Checks of the git repository, the parameters and their data source, and of DVC: locks, experiments and stages."""

import importlib.util
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.paths import PARAMS, user_path, with_variables
from pipeline.common.text import listed
from pipeline.doctor.environment import installing
from pipeline.doctor.finding import ERROR, NOTE, OK, Finding, ask, check, complaint, shell_path
from pipeline.errors import PipelineError
from pipeline.git import git
from pipeline.machine import checkpoint_folder

if TYPE_CHECKING:
    from pipeline.params.schema import DataParams

FIRST_COMMIT = '`git add --all`, then `git commit -m "first"`'
RESTORE = "`git status -- .dvc dvc.yaml dvc.lock` shows what changed; `git checkout HEAD -- PATH` restores it"
DVC = (sys.executable, "-m", "dvc")
TEMPORARY = Path(".dvc/tmp")
STATUS_SECONDS = 60.0  # for dvc status, which reads each file that it does not know yet
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "drvfs", "fuse.sshfs", "afs", "lustre", "gpfs", "beegfs", "ceph")


def git_output(*arguments: str) -> str:
    """What git prints; empty if it fails, which ``git_repository`` reports."""
    try:
        return git(*arguments)
    except PipelineError:
        return ""


@check("Project", "folder")
def folder() -> Iterator[Finding]:
    """The project's files are here, and the code that runs is that of this folder."""
    import pipeline

    here, code = Path.cwd(), Path(pipeline.__path__[0]).resolve().parent
    missing = [name for name in (PARAMS.name, "dvc.yaml", "pyproject.toml") if not Path(name).is_file()]
    if missing:
        fix = f"`git checkout -- {' '.join(missing)}`; or `cd` to the folder that you cloned"
        yield Finding(ERROR, f"{shell_path(here)} has no {' and no '.join(missing)}", fix)
    elif code != here.resolve():
        fix = "`unset PYTHONSAFEPATH`" if sys.flags.safe_path else f"`cd {shell_path(code)}`"
        yield Finding(ERROR, f"{shell_path(here)}, but the code runs from {shell_path(code)}", fix)
    else:
        yield Finding(OK, shell_path(here))
    if not str(here).isascii():
        line = "DVC writes the path of its cache in ASCII only, so dvc exp run --temp and --queue fail in this folder"
        yield Finding(NOTE, line, "move the project to a path without such letters; seeds and sweep work here")


@check("Project", "git")
def git_repository() -> Iterator[Finding]:
    """This folder is a git repository with a commit, which DVC's experiments start from, and git knows its user."""
    here = Path.cwd()
    if not any((folder / ".git").exists() for folder in (here, *here.parents)):
        yield Finding(ERROR, "this folder is in no git repository", f"`git init`, {FIRST_COMMIT}; or clone the project")
        return
    try:
        root = git("rev-parse", "--show-toplevel")
    except PipelineError as problem:
        if "safe.directory" in str(problem):
            fix = f"`git config --global --add safe.directory {shell_path(here)}`"
            yield Finding(ERROR, "git does not trust this folder, because it belongs to another user", fix)
        else:
            yield Finding(ERROR, str(problem), "`apt install git`, `brew install git`, or https://git-scm.com")
        return
    commit = git_output("show", "-s", "--format=%h of %cs", "HEAD")
    if Path(root).resolve() != here.resolve():
        line = f"this folder is part of {shell_path(root)}, but compare, seeds and sweep need the root of a repository"
        yield Finding(NOTE, line, "move the project to a repository of its own")
    elif commit:
        yield Finding(OK, f"commit {commit} on {git_output('branch', '--show-current') or 'no branch (detached HEAD)'}")
    else:
        yield Finding(ERROR, "there is no commit yet, which dvc exp run needs", FIRST_COMMIT)
    values = {"user.name": '"Your Name"', "user.email": "you@example.com"}
    missing = [key for key in values if not git_output("config", "--get", key)]
    if missing:
        line = f"git has no {' and no '.join(missing)}, which git commit, dvc exp run --queue and dvc exp save need"
        yield Finding(NOTE, line, ", ".join(f"`git config --global {key} {values[key]}`" for key in missing))
    for lock in Path(git_output("rev-parse", "--git-dir")).glob("*.lock"):
        fix = f"wait if git is running; if not, it was killed: `rm {shell_path(lock)}`"
        yield Finding(ERROR, f"{shell_path(lock)} exists, so git add and git commit fail", fix)


@check("Project", "changes")
def changes() -> Iterator[Finding]:
    """The results are committed, and git tracks all code."""
    lines = git_output("status", "--porcelain", "--branch", "--untracked-files=all", "--", ".").splitlines()
    changed = [line[3:] for line in lines[1:] if not line.startswith("??")]
    new = [line[3:] for line in lines if line.startswith(("?? pipeline/", "?? dvc."))]
    if new:
        line = f"git does not track {listed(new)}, so experiments of --queue and --temp do not see them"
        yield Finding(NOTE, line, f"`git add {' '.join(sorted({path.split('/')[0] for path in new}))}`")
    if "dvc.lock" in changed:
        line = "dvc.lock is not committed, so nobody else can get these results"
        yield Finding(NOTE, line, '`git commit --all -m "results"`')
    if lines:
        yield Finding(OK, f"since the commit: {listed(changed) or 'none'}")


@check("Project", "parameters")
def parameters() -> Iterator[Finding]:
    """Every value in ``params.yaml`` is allowed, and the data source has the images; the network is not used."""
    from pipeline.params.file import load_params

    try:
        params = load_params(PARAMS)
    except PipelineError as problem:
        yield Finding(ERROR, str(problem), f"edit it, or restore it: `git checkout -- {PARAMS}`")
        return
    network = f"{params.model.name}, {params.augment.image_size} pixels, {params.train.epochs} epochs"
    yield Finding(OK, f"{PARAMS} is valid: {params.data.source}, {network}")
    if params.model.name.startswith("timm/") and not importlib.util.find_spec("timm"):
        fix = installing("-c constraints.txt -e .[timm]")
        yield Finding(ERROR, f"model.name: {params.model.name} needs the package timm", fix)
    yield _source(params.data)


def _source(data: "DataParams") -> Finding:
    """Whether the images are where ``data.source`` and ``data.location`` say, or can be downloaded."""
    from pipeline.common.paths import is_url
    from pipeline.download.cache import cache_folder
    from pipeline.source.listing import changes_since, find_source

    location = data.location or ""
    if data.source == "modelscope" and not importlib.util.find_spec("modelscope_hub") and not shutil.which("git-lfs"):
        fix = f"{installing('-c constraints.txt -e .[modelscope]')}, or `apt install git-lfs`"
        return Finding(ERROR, "data.source: modelscope needs the package modelscope-hub or git-lfs", fix)
    try:
        place = with_variables(location)
    except PipelineError as problem:
        return Finding(ERROR, str(problem))
    if data.source == "modelscope" or is_url(place):
        downloaded = (cache_folder() / (data.sha256 or "modelscope")).exists()
        state = "downloaded" if downloaded else "not downloaded yet"
        return Finding(OK, f"data.source: {data.source} {location}, {state}")
    try:
        path, source = user_path(place), find_source(data.source, data.location, data.labels)
    except PipelineError as problem:
        return Finding(ERROR, str(problem))
    found = "is a folder" if path.is_dir() else "is a file" if path.is_file() else "does not exist"
    if {"folder": "is a folder", "archive": "is a file"}.get(data.source, found) != found:
        fix = "set data.location to a folder of images and data.source to folder, or to a zip or tar and archive"
        return Finding(ERROR, f"data.location: {location} {found}, and data.source is {data.source}", fix)
    if data.source == "folder" and not any(path.iterdir()):
        return Finding(ERROR, f"data.location: the folder {location} is empty", "put images there, a folder per class")
    line = f"data.source: {data.source} {location}".strip()
    changes = changes_since(source)
    if changes:
        return Finding(NOTE, f"{line} has changed since the last dvc repro: {changes}", "`dvc repro`")
    if location and git_output("ls-files", "--others", "--exclude-standard", "--directory", "--", str(path)):
        fix = f"`dvc add {shell_path(path)}`, or move it out of the repository"
        return Finding(NOTE, f"{line} is new to git: git add --all would commit the images", fix)
    return Finding(OK, line)


@check("Project", "checkpoints")
def checkpoints() -> Iterator[Finding]:
    """Show the training runs that were interrupted."""
    for path in checkpoint_folder(Path()).glob("[!.]*.pt"):
        saved = f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}, {path.stat().st_size / 1e6:,.1f} MB"
        line = f"{shell_path(path)}, {saved}: its training is running or was interrupted"
        fix = f"`dvc repro` resumes it if parameters, data and code are the same; else `rm {shell_path(path)}`"
        yield Finding(NOTE, line, fix)


@check("DVC", "dvc doctor")
def dvc_doctor() -> Iterator[Finding]:
    """DVC runs, on a local disk, and can link files to its cache."""
    answer = ask(*DVC, "doctor")
    if answer.returncode:
        yield Finding(ERROR, complaint(answer), RESTORE)
        return
    about = dict(re.findall(r"(?m)^([A-Z][\w. ]+): (.*)", answer.stdout))
    # Before the first run there is no cache to test, and DVC prints a link to its documentation.
    links = about.get("Cache types", "unknown").replace("<https://error.dvc.org/no-dvc-cache>", "not tested yet")
    disk = about.get("Workspace directory", "a disk without a DVC repository")
    line = f"DVC {about['DVC version']} on {disk}; links to the cache: {links}; remotes: {about.get('Remotes')}"
    if disk.startswith(NETWORK_FILE_SYSTEMS):
        fix = "keep the project on a local disk; or `dvc config --local core.hardlink_lock true`"
        yield Finding(NOTE, f"{line}; locks may fail on a network file system", fix)
    elif not links:
        fix = "`dvc cache dir --unset` puts the cache on the disk of the workspace"
        yield Finding(NOTE, f"{line}none, so each output is on the disk twice", fix)
    else:
        yield Finding(OK, line)


@check("DVC", "lock")
def dvc_lock() -> Iterator[Finding]:
    """No command that is running, or was killed, locks files that ``dvc repro`` needs."""
    import psutil

    path, processes = TEMPORARY / "rwlock", {}
    try:
        content = json.loads(path.read_text("utf-8").strip() or "{}") if path.is_file() else {}
        for entry in chain(content.get("write", {}).values(), *content.get("read", {}).values()):
            processes[int(entry["pid"])] = str(entry["cmd"])
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        yield Finding(ERROR, f"{path} is damaged ({problem}): every dvc repro fails", f"`rm {path}`")
        return
    alive = [psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)]
    for process in alive:
        # The system may have given the number of a killed process to another program, which DVC would wait for.
        if any("dvc" in Path(part).name for part in process.cmdline()):
            line = f"`{processes[process.pid]}` is running as process {process.pid}: a second one fails"
            yield Finding(NOTE, line, "wait for it")
        else:
            line = f"{path} names process {process.pid}, which is {process.name()}, not DVC, but blocks dvc repro"
            yield Finding(ERROR, line, f"`rm {path}`")
    if not alive:
        yield Finding(OK, "free")  # DVC itself removes what a killed command left


@check("DVC", "experiments")
def experiments() -> Iterator[Finding]:
    """No experiment waits in the queue or failed, and none that was killed left its workspace."""
    output = ask(*DVC, "queue", "status").stdout if (TEMPORARY / "exps/celery").is_dir() else ""
    counts = Counter(re.findall(r"(?m)\b(Queued|Running|Failed)\s*$", output))
    if counts:
        line = ", ".join(f"{count} {status.lower()}" for status, count in counts.items())
        fix = "`dvc queue start` runs them, `dvc queue logs NAME` says why one failed, `dvc queue remove` removes them"
        yield Finding(NOTE, f"{line}; {output.strip().splitlines()[-1]}", fix)
    else:
        yield Finding(OK, "the queue is empty")
    names = ("exps/tmp*", "exps/standalone/tmp*", "seeds/*", "folds/*", "sweeps/*", "ray/*")
    folders = [path for name in names for path in TEMPORARY.glob(name) if path.is_dir()]  # not the locks
    if folders:
        line = f"temporary workspaces of experiments that are running or were killed: {len(folders)}"
        yield Finding(NOTE, line, f"if none is running: `rm -r {' '.join(map(shell_path, folders[:3]))}`")


@check("DVC", "dvc status")
def stages() -> Iterator[Finding]:
    """Each stage ran with the current code, parameters and data, and its outputs are here."""
    answer = ask(*DVC, "status", "--json", seconds=STATUS_SECONDS)
    if answer.returncode == 124:
        line = f"not compared: no answer within {STATUS_SECONDS:g} s, probably because DVC has to read a lot of data"
        yield Finding(NOTE, line, "`dvc status` has no limit")
    elif "Unable to acquire lock" in answer.stderr:
        yield Finding(NOTE, "not compared: another DVC command is running", "wait for it")
    elif answer.returncode:
        yield Finding(ERROR, complaint(answer), RESTORE)
    elif changed := _without_always_changed(json.loads(answer.stdout or "{}")):
        lines = [f"{stage}: {_reasons(entries)}" for stage, entries in changed.items()]
        fix = "`dvc repro`; or `dvc checkout` for deleted outputs, `dvc pull` for outputs not in the cache, "
        fix += "and `dvc commit STAGE` to keep outputs that you changed"
        yield Finding(NOTE, "\n".join(["dvc repro would run these stages, and what depends on them:", *lines]), fix)
    else:
        yield Finding(OK, "all stages are up to date")


def _without_always_changed(changed: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What ``dvc status`` prints, without that the stage ``source`` runs each time."""
    reasons = {stage: [entry for entry in entries if entry != "always changed"] for stage, entries in changed.items()}
    return {stage: entries for stage, entries in reasons.items() if entries}


def _reasons(entries: list[Any]) -> str:
    """The first entry that ``dvc status`` prints for a stage: ``changed deps: pipeline/train modified``."""
    if isinstance(entries[0], str):
        return entries[0]
    ((kind, paths),) = entries[0].items()
    # The parameters of a file are a mapping of their own.
    parts = [what if isinstance(what, dict) else {path: what} for path, what in paths.items()]
    return f"{kind}: {listed([f'{key} {what}' for part in parts for key, what in part.items()])}"
