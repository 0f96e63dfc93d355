"""Checks of DVC itself: its version, the program, the cache and how files are linked from it, remote storages."""

import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.machine import existing
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.programs import ask
from pipeline.doctor.python import activating, installing
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import listed

SECRETS = ("password", "secret", "token", "connection_string", "account_key", "sas", "credential")


def version(here: Surroundings) -> Iterator[Finding]:
    """DVC can be imported; its version is checked with those of the other packages."""
    try:
        import dvc.repo  # noqa: F401
    except Exception as problem:  # a broken installation can raise anything
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        yield error("version", f"DVC cannot be imported: {reason}", installing())
        return
    allowed = next((line for line in here.project["dependencies"] if line.startswith("dvc>")), "dvc")
    yield ok("version", f"{importlib.metadata.version('dvc')} (allowed is {allowed.removeprefix('dvc')})")


def program(_: Surroundings) -> Iterator[Finding]:
    """The program ``dvc`` on PATH is the one of this environment."""
    found = shutil.which("dvc")
    if found is None:
        yield error("program", "there is no program dvc on PATH", activating())
        return
    if Path(found).absolute().parent == Path(sys.executable).absolute().parent:
        yield ok("program", shell_path(found))
        return
    answer = ask("dvc", "--version")
    if answer is None or answer.code:
        yield error("program", f"{shell_path(found)} does not run", activating())
    elif not _is_ours(found):
        yield note("program", f"{shell_path(found)}, DVC {answer.text}, is of another environment", activating())
    else:
        yield ok("program", shell_path(found))


def _is_ours(program: str) -> bool:
    """Whether a script begins with the name of this environment's Python."""
    with suppress(OSError, UnicodeDecodeError), Path(program).open(encoding="utf-8") as file:
        return Path(file.readline().removeprefix("#!").strip()).parent == Path(sys.executable).parent
    return False


def repository(here: Surroundings) -> Iterator[Finding]:
    """There is a repository of DVC here, and its configuration can be read."""
    if not Path(".dvc").is_dir():
        mend = "`git checkout -- .dvc`" if here.commit else "`dvc init` (with --no-scm where there is no git)"
        yield error("repository", "there is no folder .dvc: every dvc command stops", mend)
        return
    if not Path(".dvc/.gitignore").is_file():
        mend = "`git checkout -- .dvc/.gitignore`"
        yield note(
            "repository", ".dvc/.gitignore is missing: git would take DVC's cache for a part of the project", mend
        )
    try:
        config = here.dvc
    except Exception as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        yield error("repository", f"DVC cannot open it: {reason}", _configuring(here, problem))
        return
    yield ok("repository", f"cache in {shell_path(_relative(config.cache.parents[1]))}")


def _configuring(here: Surroundings, problem: Exception) -> str:
    if isinstance(problem, OSError):
        return "make the folder .dvc/tmp writable, and its disk too"
    local = Path(".dvc/config.local")
    also = f"; then look at {local}" if local.exists() else ""
    return f"`git checkout -- .dvc/config`{also}" if here.commit else f"mend .dvc/config{also}"


def _relative(path: Path) -> Path:
    """The path from here where it lies below, else the whole of it."""
    with suppress(ValueError):
        return path.resolve().relative_to(Path.cwd().resolve())
    return path


def links(here: Surroundings) -> Iterator[Finding]:
    """The first of the configured links that works between cache and workspace is tried, with a file of four bytes."""
    if not Path(".dvc").is_dir():
        return
    config = here.dvc
    cache = config.cache.parents[1]  # beside files/md5, where DVC looks for nothing
    if not cache.exists() and cache.resolve() != Path(".dvc/cache").resolve():
        yield note("links", f"not tried: {shell_path(cache)} is not there yet; the first dvc repro makes it")
        return
    working, problem = _working_links(cache)
    if problem:
        place = existing(cache)
        yield error("links", f"nothing can be written: {problem}", f"`sudo chown -R $(id -un) {shell_path(place)}`")
        return
    used = next((link for link in config.links if link == "copy" or link in working), None)
    there = f"works here: {', '.join([*working, 'copy'])}; cache.type: {', '.join(config.links)}"
    relink = "`dvc config --local cache.type hardlink,symlink,copy`, then `dvc checkout --relink`"
    if used is None:
        yield error("links", f"no link works; {there}", relink)
    elif used == "copy" and len(config.links) == 1 and working:
        yield note("links", f"copy: each output is on the disk twice; {there}", relink)
    elif used == "copy":
        yield note("links", f"copy: each output is on the disk twice; {there}", "`dvc cache dir --unset` keeps it here")
    elif "reflink" in config.links[: config.links.index(used)]:
        # https://github.com/treeverse/dvc/issues/10549
        yield note(
            "links", f"DVC takes a copy for a reflink: each new output folder is on the disk twice; {there}", relink
        )
    else:
        yield ok("links", f"{used}; {there}")


def _working_links(cache: Path) -> tuple[list[str], str]:
    """The kinds of links that work, tried as DVC does; or the complaint of a folder that cannot be written to.

    The files lie in folders of their own in ``.dvc/tmp`` and in the cache, and are removed again.
    """
    from dvc_objects.fs.generic import test_links
    from dvc_objects.fs.local import LocalFileSystem

    files, workspace = LocalFileSystem(), Path(".dvc/tmp")
    fresh = not workspace.exists()
    try:
        workspace.mkdir(exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="doctor-", dir=cache if cache.exists() else workspace) as source,
            tempfile.TemporaryDirectory(prefix="doctor-", dir=workspace) as target,
        ):
            kinds = ["reflink", "hardlink", "symlink"]
            return list(test_links(kinds, files, source, files, f"{Path(target).resolve()}/file")), ""
    except OSError as problem:
        return [], f"{problem.filename}: {problem.strerror}"
    finally:
        if fresh:
            with suppress(OSError):
                workspace.rmdir()


def remotes(here: Surroundings) -> Iterator[Finding]:
    """Remote storages have what their kind needs; none is asked, so no network is needed."""
    if not Path(".dvc").is_dir():
        return
    config = here.dvc
    if not config.remotes:
        yield ok("remotes", "none: outputs stay on this machine")
        return
    default = config.core.get("remote")
    for name, settings in config.remotes.items():
        url = str(settings.get("url", "no url"))
        # Of a URL with a user, a password or a token only the place is shown.
        line = f"{name}: {url}{' (default)' if name == default else ''}; not asked"
        missing = _missing_packages(url)
        if missing:
            kind = url.partition("://")[0]
            yield error("remotes", f"{line}; it needs {listed(missing)}", installing(f"'dvc[{kind}]'"))
        elif "://" not in url and not Path(url).exists():
            yield note("remotes", f"{line}; there is no such folder", "connect its disk; or dvc push makes the folder")
        else:
            yield ok("remotes", line)
    if default is None:
        yield note(
            "remotes",
            "none is the default: dvc push and dvc pull stop",
            f"`dvc remote default {next(iter(config.remotes))}`",
        )
    elif default not in config.remotes:
        yield error(
            "remotes",
            f"the default, {default}, is not one of them",
            f"`dvc remote default {next(iter(config.remotes))}`",
        )


def _missing_packages(url: str) -> list[str]:
    """What DVC needs for this kind of URL and does not have."""
    from dvc.fs import get_fs_cls

    scheme = url.partition("://")[0] if "://" in url else "local"
    try:
        return list(get_fs_cls({"url": url}).get_missing_deps())
    except ImportError:
        return [f"dvc-{scheme}"]


def secrets(_: Surroundings) -> Iterator[Finding]:
    """No secret is in the configuration that git keeps; what it is is not told."""
    path = Path(".dvc/config")
    if not path.is_file():
        return
    lines = path.read_text("utf-8", errors="replace").splitlines()
    keys = [
        line.partition("=")[0].strip() for line in lines if "=" in line and not line.lstrip().startswith(("#", ";"))
    ]
    found = [key for key in keys if any(word in key.lower() for word in SECRETS)]
    with_user = [
        line
        for line in lines
        if line.partition("=")[0].strip() == "url"
        and "@" in line
        and "://" in line
        and ":" in line.partition("://")[2].partition("@")[0]
    ]
    if found or with_user:
        yield note(
            "secrets",
            f".dvc/config, which git keeps, holds {listed([*found, *['a url with a password'] * bool(with_user)])}",
            "move it to .dvc/config.local: `dvc remote modify --local NAME KEY VALUE`, and take it out of .dvc/config",
        )
