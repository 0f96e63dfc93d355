"""Checks of git: DVC's experiments live in it, and so does the record of what ran."""

import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.programs import ask
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import listed

FIRST_COMMIT = '`git add --all`, then `git commit -m "first"`'
UNFINISHED = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}


def program(_: Surroundings) -> Iterator[Finding]:
    """Git is installed."""
    answer = ask("git", "--version")
    if answer is None or answer.code:
        yield error(
            "program",
            "git is not installed, or cannot be started; without it there are no experiments",
            "`apt install git`, `brew install git`, or https://git-scm.com",
        )
    else:
        yield ok("program", answer.text)


def repository(here: Surroundings) -> Iterator[Finding]:
    """This folder is the root of a repository that git trusts."""
    answer = ask("git", "rev-parse", "--show-toplevel")
    if answer is None:
        return
    root = Path.cwd()
    if answer.code:
        if "dubious ownership" in answer.complaint:
            mend = f"`git config --global --add safe.directory {shell_path(root)}`"
            yield error("repository", "git does not trust this folder: it belongs to another user", mend)
        elif "not a git repository" in answer.complaint:
            yield error(
                "repository",
                "this folder is in no git repository; it may have come as a zip file",
                f"`git init`, {FIRST_COMMIT}; or clone the project",
            )
        else:
            yield error("repository", f"git cannot read it: {answer.complaint}", "clone the project anew")
        return
    if Path(answer.text).resolve() != root.resolve():
        yield note(
            "repository",
            f"this folder is a part of the repository {shell_path(answer.text)}, and "
            "`python -m pipeline seeds` wants its root",
            "keep the project in a repository of its own",
        )


def commit(here: Surroundings) -> Iterator[Finding]:
    """There is a commit, from which experiments start."""
    if not here.has_repository:
        return
    if not here.commit:
        yield error("commit", "there is none yet; dvc exp run needs one", FIRST_COMMIT)
        return
    shown = here.git("show", "-s", "--format=%h of %cs", "HEAD")
    branch = here.git("symbolic-ref", "--quiet", "--short", "HEAD")
    where = f"on {branch.text}" if branch else "on no branch (detached)"
    yield ok("commit", f"{shown.text if shown else here.commit} {where}")


def identity(here: Surroundings) -> Iterator[Finding]:
    """Git knows who commits; some of DVC's experiments commit too."""
    if not here.has_repository:
        return
    missing = [key for key in ("user.name", "user.email") if not _setting(here, key)]
    if missing:
        values = {"user.name": '"Your Name"', "user.email": "you@example.com"}
        yield note(
            "identity",
            f"git has no {' and no '.join(missing)}: git commit, dvc exp run --queue and dvc exp save stop without",
            ", ".join(f"`git config --global {key} {values[key]}`" for key in missing),
        )
    else:
        yield ok("identity", "user.name and user.email are set")


def _setting(here: Surroundings, key: str) -> bool:
    answer = here.git("config", "--get", key)
    return answer is not None and bool(answer.text)


def locks(here: Surroundings) -> Iterator[Finding]:
    """No process of git that was killed left its lock."""
    folder = here.git("rev-parse", "--git-dir")
    if folder is None:
        return
    for lock in sorted(Path(folder.text).glob("*.lock")):
        seconds = time.time() - lock.stat().st_mtime
        path = shell_path(lock)
        yield error(
            "lock",
            f"{path} is there since {age(seconds)}: git add and git commit stop",
            f"wait for the git that runs; if there is none, it was killed: `rm {path}`",
        )


def age(seconds: float) -> str:
    """A time span in words: ``3 minutes``."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {unit}{'s' * (count != 1)}"
    return "less than a minute"


def unfinished(here: Surroundings) -> Iterator[Finding]:
    """No merge is half done; conflict marks in dvc.lock stop every command of DVC."""
    folder = here.git("rev-parse", "--git-dir")
    if folder is None:
        return
    running = {name for file, name in UNFINISHED.items() if (Path(folder.text) / file).exists()}
    # Else diff writes into the index what it learns about the files' times.
    answer = here.git("-c", "diff.autoRefreshIndex=false", "diff", "--name-only", "--relative", "--diff-filter=U")
    conflicts = answer.text.splitlines() if answer else []
    if conflicts:
        yield error("conflicts", f"not resolved: {listed(conflicts)}", _resolving(conflicts))
    elif running:
        (name, *_) = running
        yield note(name, f"a {name} is not finished", f"`git {name} --continue`, or `git {name} --abort`")


def _resolving(conflicts: list[str]) -> str:
    if "dvc.lock" not in conflicts:
        return "edit them, then `git add` each of them and `git commit`"
    others = " once the other files are merged" if len(conflicts) > 1 else ""
    return f"`git checkout --ours dvc.lock`, `git add dvc.lock`, and{others} `dvc repro`, which brings it up to date"


def changes(here: Surroundings) -> Iterator[Finding]:
    """What ran is committed, so that others can have it."""
    if not here.commit:
        return
    answer = here.git("status", "--porcelain", "--untracked-files=all", "--", ".")
    lines = answer.text.splitlines() if answer else []
    changed = [line[3:] for line in lines if not line.startswith("??")]
    unknown = [line[3:] for line in lines if line.startswith("??") and line[3:].startswith(("pipeline/", "dvc."))]
    if unknown:
        yield note(
            "new files",
            f"git does not know {listed(unknown)}: experiments of --queue and --temp run without",
            f"`git add {' '.join(sorted({path.split('/')[0] for path in unknown}))}`",
        )
    if not changed:
        yield ok("changes", "none since the commit")
        return
    lock = "dvc.lock is not committed: nobody else can have these results; " if "dvc.lock" in changed else ""
    mend = '`git commit --all -m "what is new"`' if lock else ""
    yield (note if lock else ok)(
        "changes", f"{lock}{len(changed):,} files differ from the commit: {listed(changed)}", *([mend] * bool(mend))
    )


def history(here: Surroundings) -> Iterator[Finding]:
    """The history is whole."""
    answer = here.git("rev-parse", "--is-shallow-repository")
    if answer is not None and answer.text == "true":
        yield note(
            "history",
            "a shallow clone: compare and dvc metrics diff do not know older commits",
            "`git fetch --unshallow`",
        )
