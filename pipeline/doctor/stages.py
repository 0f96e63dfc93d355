"""Checks of the stages: what ``dvc repro`` would do, and what is in its way. Nothing is hashed that would take long."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.surroundings import Surroundings, open_repository
from pipeline.errors import listed

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

# Bytes whose hashes DVC does not know yet and that are read for the answer: half a second or so.
MOST_READ = 200_000_000


def stages(here: Surroundings) -> Iterator[Finding]:
    """Each stage has run with the code, the parameters and the data of now, and its outputs are here."""
    if not Path(".dvc").is_dir():
        return
    from dvc.exceptions import DvcException

    with open_repository() as repo:
        try:
            graph = repo.index.graph
            found = list(repo.index.stages)
        except DvcException as problem:
            cause = problem.__cause__
            reason = " ".join(f"{problem} {cause or ''}".split())
            mend = "mend dvc.yaml or dvc.lock there" + (
                "; `git diff HEAD -- dvc.yaml dvc.lock` shows what is new" * bool(here.commit)
            )
            yield error("dvc.yaml", f"DVC cannot read the stages: {reason}", mend)
            return
        if not found:
            yield error(
                "dvc.yaml",
                "there are no stages",
                "`git checkout -- dvc.yaml`" if here.commit else "clone the project anew",
            )
            return
        yield from _all(here, repo, _in_order(graph))


def _in_order(graph: Any) -> "list[Stage]":
    import networkx

    return list(networkx.dfs_postorder_nodes(graph))


def _all(here: Surroundings, repo: "Repo", found: "list[Stage]") -> Iterator[Finding]:
    yield from _in_git(here, found)
    known = {out.fs_path for stage in found for out in stage.outs}
    to_run = []
    for stage in found:
        finding = _stage(repo, stage, known)
        yield finding
        if "dvc repro" in finding.mend:
            to_run.append(stage)
    if to_run:
        import networkx

        later = {after for stage in to_run for after in networkx.ancestors(repo.index.graph, stage)} - {*to_run}
        after = (
            f", and if their outputs change {listed([s.addressing for s in found if s in later], 20)}" if later else ""
        )
        yield ok("dvc repro", f"would bring back or run {listed([stage.addressing for stage in to_run], 20)}{after}")


def _in_git(here: Surroundings, found: "list[Stage]") -> Iterator[Finding]:
    """What DVC is to keep must not be in git: dvc repro would stop."""
    outs = [out.def_path for stage in found for out in stage.outs if out.use_cache]
    answer = here.git("ls-files", "--", *outs) if outs else None
    tracked = answer.text.splitlines() if answer else []
    if tracked:
        roots = sorted({out for out in outs for path in tracked if path == out or path.startswith(f"{out}/")})
        mend = f'`git rm -r --cached --quiet -- {" ".join(roots)}`, then `git commit -m "outputs belong to DVC"`'
        yield error("outputs", f"git tracks {listed(roots)}, which DVC keeps: dvc repro stops", mend)


def _stage(repo: "Repo", stage: "Stage", known: set[str]) -> Finding:
    name = stage.addressing
    if stage.outs and not any(out.hash_info for out in stage.outs):
        return note(name, "never ran: dvc.lock does not know it", "`dvc repro`")
    bytes_to_read = sum(_unknown_bytes(repo, Path(entry.fs_path)) for entry in [*stage.deps, *stage.outs])
    if bytes_to_read > MOST_READ:
        what = f"not compared: DVC does not know the hashes of {bytes_to_read / 1e9:,.1f} GB here yet"
        return note(name, what, "`dvc status` reads them")
    because = _reasons(stage, known)
    missing = [out for out in stage.outs if not out.exists]
    lost = [out for out in missing if not (out.use_cache and _in_cache(out))]
    edited = [out for out in stage.outs if out.exists and out.get_hash() != out.hash_info]
    if because:
        return note(name, f"changed since it ran: {listed(because)}", "`dvc repro`")
    if lost:
        where = ", nor in the cache" if any(out.use_cache for out in lost) else ""
        return note(name, f"not here{where}: {listed([out.def_path for out in lost], 3)}", _bringing(repo))
    if edited:
        paths = [out.def_path for out in edited]
        return note(name, f"changed by hand, or by another run: {listed(paths)}", _restoring(name, edited))
    if missing:
        return note(
            name, f"in the cache, but not here: {listed([out.def_path for out in missing], 3)}", "`dvc checkout`"
        )
    uncached = [out.def_path for out in stage.outs if out.use_cache and not _in_cache(out)]
    if uncached:
        return note(name, f"here, but not in the cache: {listed(uncached)}", f"`dvc commit --force {name}`")
    return ok(name, "up to date" + (", frozen: dvc repro leaves it out" if stage.frozen else ""))


def _bringing(repo: "Repo") -> str:
    return "`dvc pull`, or make it again: `dvc repro`" if repo.config["remote"] else "`dvc repro`"


def _restoring(name: str, edited: "list[Output]") -> str:
    """How to go back, where that is possible, and how to keep the change."""
    if all(out.use_cache and _in_cache(out) for out in edited):
        back = f"`dvc checkout --force {' '.join(out.def_path for out in edited)}`"
    else:
        back = "make it again: `dvc repro`"
    return f"{back}; to keep it as it is: `dvc commit --force {name}`"


def _reasons(stage: "Stage", known: set[str]) -> list[str]:
    """What a stage reads that is not as it was; outputs of other stages that are not here are told there."""
    reasons = ["its command"] if stage.cmd_changed else []
    if stage.frozen:
        return reasons
    for dep in stage.deps:
        for path, what in dep.status().items():
            if isinstance(what, dict):
                reasons += [f"{key}" for key in what]
            elif what != "deleted":
                reasons.append(path)
            elif dep.fs_path not in known:
                reasons.append(f"{path} (is not here)")
    return reasons


def _in_cache(out: "Output") -> bool:
    """Whether the cache has all files of an output; they are not read, and nothing is removed."""
    from dvc_data.hashfile import load

    if not out.hash_info:
        return False
    if not out.cache.exists(out.hash_info.value):
        return False
    if not out.hash_info.isdir:
        return True
    tree: Any = load(out.cache, out.hash_info)
    return all(out.cache.exists(entry.value) for _, _, entry in tree)


def _unknown_bytes(repo: "Repo", path: Path) -> int:
    """How many bytes DVC would have to read to know the hashes below a path."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    total = 0
    for file in files:
        with suppress(OSError):
            if repo.state.get(str(file), repo.fs)[0] is None:
                total += file.stat().st_size
    return total
