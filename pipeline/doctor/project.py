"""Checks of the folder that the command was called in."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.common.paths import PARAMS
from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.surroundings import Surroundings, find_root


def folder(here: Surroundings) -> Iterator[Finding]:
    """This is the root of the project, where every command belongs."""
    root = Path.cwd()
    if find_root(root) is None:
        mend = "`cd` to the folder that was cloned"
        yield error("folder", f"{shell_path(root)}: neither {PARAMS} nor dvc.yaml is here, or in a folder above", mend)
        return
    missing = [name for name in (PARAMS.name, "dvc.yaml", "pyproject.toml") if not Path(name).is_file()]
    if missing:
        mend = f"`git checkout -- {' '.join(missing)}`" if here.commit else "clone the project anew"
        yield error("folder", f"{shell_path(root)} has no {' and no '.join(missing)}", mend)
    elif here.start.resolve() != root.resolve():
        yield note(
            "folder",
            f"called in {shell_path(here.start)}; the commands belong in the root, which is checked here",
            f"`cd {shell_path(root)}`",
        )
    else:
        yield ok("folder", shell_path(root))
