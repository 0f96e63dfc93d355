"""What other revisions and experiments left, read through DVC, and two of them compared."""

import difflib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from pipeline.common.paths import EVALUATION, METRICS
from pipeline.errors import PipelineError, listed
from pipeline.experiments.comparison import OWN_COLUMNS, SHARED_COLUMNS, Comparison, compare, pair

WORKSPACE = ("workspace", ".")


@contextmanager
def open_result(revision: str, path: Path) -> Iterator[TextIO]:
    """Open a file that a stage wrote, as it was in a revision, to read its text.

    Args:
        revision: a commit, branch, tag or experiment of this repository; ``workspace`` or ``.`` is the file as it is.
        path: relative to the repository's root, in git or an output of DVC, in the cache or the remote storage.

    Raises:
        PipelineError: there is no such revision, or it has no such file, or nobody has the file any more.
    """
    if revision in WORKSPACE:
        if not path.is_file():
            raise PipelineError(f"workspace: there is no {path}; run dvc repro")
        with path.open(encoding="utf-8") as file:
            yield file
        return
    if not revision:
        # DVC would take it for the workspace.
        raise PipelineError("a revision has no name; allowed are commits, branches, tags, experiments and workspace")
    import dvc.api
    from dvc.exceptions import DvcException

    with ExitStack() as stack:
        try:
            file = stack.enter_context(dvc.api.open(path.as_posix(), rev=revision, encoding="utf-8"))
        except DvcException as error:
            raise PipelineError(_why_not(revision, path, error)) from error
        yield file


def _why_not(revision: str, path: Path, error: Exception) -> str:
    """One line on why DVC has no ``path`` of ``revision``."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import FileMissingError, PathMissingError
    from dvc.scm import RevError

    if isinstance(error, RevError):
        return _unknown_revision(revision, error)
    if not isinstance(error, FileMissingError | PathMissingError):
        return f"{revision}: DVC cannot read {path}: {' '.join(str(error).split())}"
    if DVCFileSystem(rev=revision).exists(path.as_posix()):
        return (
            f"{revision}: neither DVC's cache nor a remote storage holds its {path}; make it again: dvc exp apply "
            f"{revision}, or git checkout for a commit, then dvc repro"
        )
    return (
        f"{revision}: has no {path}: its stage evaluate never ran, or its code did not write that file yet; run it "
        "again with the code of today"
    )


def _unknown_revision(revision: str, error: Exception) -> str:
    from dvc.repo import Repo

    with Repo() as repo:
        named = [name for found in repo.experiments.ls(all_commits=True).values() for name, _ in found]
        names = [*WORKSPACE[:1], "HEAD", *named, *repo.scm.list_branches(), *repo.scm.list_tags()]
    if "ambiguous" in str(error):
        return f"{revision}: experiments of several commits have this name; give the commit that dvc exp list -A shows"
    close = difflib.get_close_matches(revision, names, n=5, cutoff=0.4) or names
    return f"{revision}: no commit, branch, tag or experiment has this name; there are {listed(dict.fromkeys(close))}"


def read_predictions(revision: str) -> pd.DataFrame:
    """The table ``results/evaluation/predictions.csv`` of a revision: id, class, predicted_class, confidence, loss.

    Raises:
        PipelineError: as :func:`open_result`; or the file is not such a table.
    """
    path = EVALUATION / "predictions.csv"
    text = dict.fromkeys(["id", "class", "predicted_class"], str)
    with open_result(revision, path) as file:
        try:
            # A class may be called NA or null.
            table = pd.read_csv(
                file, usecols=SHARED_COLUMNS + OWN_COLUMNS, dtype=text, na_filter=False, encoding="utf-8"
            )
        except ValueError as error:
            raise PipelineError(f"{revision}: {path} is no table of predictions: {error}") from error
    if table["id"].duplicated().any():
        example = table["id"][table["id"].duplicated()].iloc[0]
        raise PipelineError(f"{revision}: {path} has two rows for the image {example}")
    return table


def read_metrics(revision: str, stage: str) -> dict[str, Any]:
    """The metrics of a stage in a revision.

    Raises:
        PipelineError: as :func:`open_result`.
    """
    with open_result(revision, METRICS / f"{stage}.json") as file:
        metrics: dict[str, Any] = json.load(file)
    return metrics


def compare_revisions(a: str, b: str) -> tuple[Comparison, pd.DataFrame, str]:
    """Compare the predictions of two revisions, as :func:`open_result` takes them, for the same images.

    Returns:
        The figures, the table of both predictions for each image, and the name of the split.

    Raises:
        PipelineError: as :func:`open_result` and ``comparison.pair``; or the splits are not the same.
    """
    tables = [read_predictions(revision) for revision in (a, b)]
    splits = [read_metrics(revision, "evaluate").get("split", "evaluated") for revision in (a, b)]
    if splits[0] != splits[1]:
        raise PipelineError(
            f"{a} was evaluated on the {splits[0]} split and {b} on the {splits[1]} split; set evaluate.split alike"
        )
    pairs = pair(*tables)
    left_out = sum(len(table) - len(pairs) for table in tables)
    return compare(pairs, left_out), pairs, splits[0]
