"""What other revisions and experiments left, read through DVC; and experiments under several seeds, run by DVC."""

import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from pipeline.comparison import OWN_COLUMNS, SHARED_COLUMNS
from pipeline.errors import PipelineError, listed
from pipeline.paths import EVALUATION, METRICS, PARAMS
from pipeline.progress import say

WORKSPACE = ("workspace", ".")
# Inside DVC's own folder of temporary files: git ignores it, and it is on the disk of the cache, which can be linked.
SANDBOXES = Path(".dvc/tmp/seeds")
SEED_METRICS = {"evaluate": ("accuracy", "log_loss", "macro_f1"), "train": ("valid_accuracy",)}


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
            f"{revision}: {path} is neither in DVC's cache nor in a remote storage; run dvc fetch --rev {revision}, "
            f"or dvc exp apply {revision} (or git checkout) and dvc repro"
        )
    return (
        f"{revision}: has no {path}: its stage evaluate did not write that file, or never ran; run it again with "
        "today's code"
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
        return json.load(file)


def run_seeds(seeds: Sequence[int], overrides: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Run this configuration, as the workspace has it, under each seed as an experiment of DVC, up to ``evaluate``.

    It runs in a clone that shares DVC's cache: the workspace is left alone, and what is changed there meanwhile
    changes nothing here. The clone is kept while a seed has not come through, for its training to go on from there.

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
    digest = hashlib.sha256(json.dumps([head, tree, list(overrides)]).encode()).hexdigest()[:7]
    rows, failures = {}, []
    with _sandbox(digest, head) as folder:
        for count, seed in enumerate(seeds, start=1):
            name, start = f"seed-{seed}-{digest}", time.monotonic()
            reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
            try:
                if _git("for-each-ref", reference):
                    say(f"seed {seed} ({count} of {len(seeds)}): the experiment {name} is there already")
                else:
                    say(f"seed {seed} ({count} of {len(seeds)}): the experiment {name} runs")
                    _run_experiment(folder, tree, name, [f"seed={seed}", *overrides])
                    _git("fetch", "--quiet", "--no-tags", str(folder.root), f"{reference}:{reference}")
                rows[seed] = {"experiment": name, **_seed_metrics(name)}
            except PipelineError as error:
                failures.append(f"seed {seed}: {error}")
                say(f"seed {seed}: failed: {error}")
            else:
                say(f"seed {seed}: accuracy {rows[seed]['accuracy']:.4f}, {time.monotonic() - start:,.0f} s")
        if not failures:
            shutil.rmtree(folder.root)
    return pd.DataFrame.from_dict(rows, orient="index"), failures
