"""Checks of Python: the version, the one that stages get, the packages and what the environment says."""

import importlib.metadata
import locale
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.programs import ask
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import listed

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# These bring the same module cv2 as the one that is wanted, and overwrite it.
OTHER_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")


def version(here: Surroundings) -> Iterator[Finding]:
    """Python's version is one that the project allows."""
    from packaging.specifiers import SpecifierSet

    allowed = SpecifierSet(here.project["requires-python"])
    found, place = platform.python_version(), f"{shell_path(sys.executable)} ({_kind()})"
    if allowed.contains(found, prereleases=True):
        yield ok("version", f"{found}, {place}")
    else:
        mend = "install one of these, then `make PYTHON=python3.12`, or an environment of your own with it"
        yield error("version", f"{found} at {place}; allowed is {allowed}", mend)


def _kind() -> str:
    if os.environ.get("CONDA_PREFIX") and Path(os.environ["CONDA_PREFIX"]) == Path(sys.prefix):
        return "conda environment"
    return "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"


def on_path(_: Surroundings) -> Iterator[Finding]:
    """``python``, which every stage calls, is this Python."""
    program = shutil.which("python")
    if program is None:
        yield error("on PATH", "there is no program python on PATH, which every stage calls", activating())
        return
    answer = ask("python", "-c", "import sys; print(sys.prefix)")
    if answer is None or answer.code:
        reason = f": {answer.complaint.splitlines()[-1]}" if answer and answer.complaint else ""
        yield error("on PATH", f"{shell_path(program)}, which every stage calls, does not run{reason}", activating())
    elif Path(answer.text).resolve() != Path(sys.prefix).resolve():
        yield error(
            "on PATH",
            f"stages call {shell_path(program)}, which is another environment than this Python's",
            activating(),
        )
    else:
        yield ok("on PATH", f"stages call {shell_path(program)}, the same environment")


def activating() -> str:
    """How to make ``python`` and ``dvc`` those of this Python."""
    folder = Path(sys.executable).parent
    if (folder / "activate").is_file():
        return f"`source {shell_path(folder / 'activate')}`"
    if (Path(sys.prefix) / "conda-meta").is_dir():
        return f"`conda activate {shell_path(sys.prefix)}`"
    return f"`export PATH={shell_path(folder)}:$PATH`"


def installing(what: str = "-c constraints.txt -e .") -> str:
    """How to install what is missing, into this Python and no other."""
    # Not find_spec: setuptools takes that for an import of pip, after which torch cannot compile in this process.
    if _installed("pip") is None:
        return f"`uv pip install --python {shell_path(sys.executable)} {what}`"
    return f"`{shell_path(sys.executable)} -m pip install {what}`"


def code(_: Surroundings) -> Iterator[Finding]:
    """The package ``pipeline`` that runs is the one in this folder."""
    import pipeline

    place = Path(pipeline.__path__[0]).resolve().parent
    if place != Path.cwd().resolve():
        reason = (
            "PYTHONSAFEPATH is set" if sys.flags.safe_path else "this folder has none, or the call came from elsewhere"
        )
        yield error(
            "code",
            f"runs from {shell_path(place)}, not from this folder ({reason})",
            "`unset PYTHONSAFEPATH`" if sys.flags.safe_path else f"`cd {shell_path(place)}`",
        )


def packages(here: Surroundings) -> Iterator[Finding]:
    """Every package that the project names is installed in a version that it allows."""
    requirements = _requirements(here.project["dependencies"])
    missing = [need.name for need in requirements if _installed(need.name) is None]
    wrong = [
        f"{need.name} {found} (allowed is {need.specifier})"
        for need in requirements
        if (found := _installed(need.name)) is not None and not need.specifier.contains(found, prereleases=True)
    ]
    if missing or wrong:
        parts = [f"missing: {listed(missing, 40)}"] * bool(missing) + [f"wrong version: {listed(wrong, 40)}"] * bool(
            wrong
        )
        yield error("packages", "; ".join(parts), installing())
    else:
        yield ok("packages", f"{len(requirements)} packages, all in the versions that pyproject.toml allows")


def _requirements(lines: list[str]) -> "list[Requirement]":
    """Those that hold for this machine and Python."""
    from packaging.requirements import Requirement

    needs = [Requirement(line) for line in lines]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def conflicts(here: Surroundings) -> Iterator[Finding]:
    """What the named packages need themselves is there, and nothing overwrites what one of them brings."""
    found = []
    for need in _requirements(here.project["dependencies"]):
        if _installed(need.name) is None:
            continue
        for inner in _requirements(importlib.metadata.requires(need.name) or []):
            version = _installed(inner.name)
            if version is None or not inner.specifier.contains(version, prereleases=True):
                found.append(f"{need.name} wants {inner.name}{inner.specifier}, found {version or 'none'}")
    if found:
        yield error("conflicts", listed(found), installing())
    others = [name for name in OTHER_OPENCV if _installed(name)]
    if others:
        yield note(
            "conflicts",
            f"{listed(others)} overwrites the files of opencv-python-headless",
            f"`python -m pip uninstall -y {' '.join(others)} opencv-python-headless`, then {installing()}",
        )


def pins(here: Surroundings) -> Iterator[Finding]:
    """The versions are those that the project was tried with: others can change the last bits."""
    pinned = {}
    for need in _requirements(_lines(Path("constraints.txt"))):
        pinned[_normal(need.name)] = next((pin.version for pin in need.specifier if pin.operator == "=="), None)
    names = [need.name for need in _requirements(here.project["dependencies"])]
    other = [
        f"{name} {found} (pinned is {wanted})"
        for name in names
        if (wanted := pinned.get(_normal(name))) and (found := _installed(name)) and found.split("+")[0] != wanted
    ]
    if other:
        yield note(
            "pins", f"not as constraints.txt has them, so the last bits may differ: {listed(other, 40)}", installing()
        )
    else:
        yield ok("pins", "as constraints.txt has them")


def _lines(path: Path) -> list[str]:
    """The requirements in a file of them, without comments and options."""
    lines = (line.split(" #")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def encoding(_: Surroundings) -> Iterator[Finding]:
    """Text is UTF-8: class names and file names may be in any script."""
    found = {
        "files": locale.getencoding(),
        "names": sys.getfilesystemencoding(),
        "output": getattr(sys.__stdout__, "encoding", None) or "unknown",
    }
    other = [f"{what} {name}" for what, name in found.items() if _normal(name) not in ("utf-8", "utf8")]
    if other and not sys.flags.utf8_mode:
        yield note("encoding", f"not UTF-8: {listed(other)}", "`export PYTHONUTF8=1`")
    else:
        yield ok("encoding", "UTF-8")
