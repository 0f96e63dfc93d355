"""Reads the results of other revisions and experiments through DVC, and compares two of them."""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.paths import DETAILS, EVALUATION, METRICS, MODEL
from pipeline.common.reading import checksum, json_object
from pipeline.common.runs import unknown
from pipeline.common.text import one_line
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.experiments.comparison import OWN_COLUMNS, SHARED_COLUMNS, Comparison, compare, pair
from pipeline.git import git

WORKSPACE = ("workspace", ".")
PREDICTIONS = EVALUATION / "predictions.csv"
_AGAIN = "run dvc repro --force evaluate there"


@dataclass(frozen=True)
class Experiment:
    """A DVC experiment; ``reference`` is ``refs/exps/{2 digits}/{38 digits}/{name}``, the digits those of a commit."""

    reference: str

    @property
    def name(self) -> str:
        return self.reference.rpartition("/")[2]

    @property
    def baseline(self) -> str:
        return "".join(self.reference.split("/")[2:4])

    def read(self, path: Path) -> str:
        """The text of a file that a stage wrote; raises what :func:`read_text` raises."""
        return read_text(self.reference, path)

    def copy(self, path: Path, target: Path) -> None:
        """Copy a file that a stage wrote; raises what :func:`copy_file` raises."""
        copy_file(self.reference, path, target)

    def results(self, stage: str, folder: Path = METRICS) -> dict[str, Any]:
        """The metrics of a stage, or its other results in the folder ``DETAILS``; raises what :meth:`read` raises."""
        return read_results(self.reference, stage, folder)


def require_root() -> str:
    """Check that this is the root of a git repository with DVC and a commit, and return the commit HEAD.

    Raises:
        PipelineError: it is not, so that there are no experiments, and DVC finds no file of another revision.
    """
    try:
        head, prefix = git("rev-parse", "HEAD"), git("rev-parse", "--show-prefix")
    except PipelineError as error:
        raise PipelineError(f"experiments need a git repository with a commit ({error})") from error
    if prefix or not Path(".dvc").is_dir():
        raise PipelineError(
            "experiments need the root of a git repository with a folder .dvc; change to it, or move the project to a "
            "repository of its own"
        )
    return head


def read_text(revision: str, path: Path) -> str:
    """The text of a file that a stage wrote, as it was in a revision.

    Args:
        revision: a commit, branch, tag or experiment; ``workspace`` or ``.`` for the current file.
        path: relative to the repository's root; in git, or an output of DVC in the cache or the remote storage.

    Raises:
        PipelineError: the revision does not exist, it has no such file, or the file is in no cache.
    """
    if revision in WORKSPACE:
        if not path.is_file():
            raise PipelineError(f"workspace: {path} does not exist; run dvc repro")
        return path.read_text("utf-8")
    if not revision:
        # DVC would take it for the workspace.
        raise PipelineError("a revision is empty; allowed are commits, branches, tags, experiments and workspace")
    require_root()
    import dvc.api

    try:
        text: str = dvc.api.read(path.as_posix(), rev=revision, encoding="utf-8")
    except Exception as error:  # a remote storage may raise anything
        raise PipelineError(_why_not(revision, path, error)) from error
    return text


def copy_file(revision: str, path: Path, target: Path) -> None:
    """Copy a file that a stage wrote, as it was in a revision, to a path of this machine.

    Raises:
        PipelineError: the revision has no such file, or it is in no cache.
    """
    from dvc.api import DVCFileSystem

    try:
        DVCFileSystem(rev=revision).get_file(path.as_posix(), str(target))
    except Exception as error:  # a remote storage may raise anything
        raise PipelineError(_why_not(revision, path, error)) from error


def read_results(revision: str, stage: str, folder: Path) -> dict[str, Any]:
    """The metrics of a stage, or its other results in the folder ``DETAILS``, as they were in a revision.

    Raises:
        PipelineError: see :func:`read_text`; or the file is not a JSON object.
    """
    path = folder / f"{stage}.json"
    try:
        return json_object(read_text(revision, path))
    except (ValueError, RecursionError):
        raise PipelineError(f"{revision}: {path} is not a JSON object; {_AGAIN}") from None


def _why_not(revision: str, path: Path, error: Exception) -> str:
    """Why DVC cannot open ``path`` of ``revision``, in one line."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import FileMissingError, PathMissingError
    from dvc.scm import RevError
    from dvc_data.index import DataIndexDirError

    missing = (
        f"{revision}: its {path} is neither in DVC's cache nor in a remote storage; restore it: dvc exp apply "
        f"{revision}, or git checkout for a commit, then dvc repro"
    )
    if isinstance(error, DataIndexDirError):  # nor is the list of the files in its folder
        return missing
    if isinstance(error, RevError):
        return f"{revision}: {unknown(revision, WORKSPACE[0], 'HEAD')}"
    if not isinstance(error, FileMissingError | PathMissingError):
        return f"{revision}: DVC cannot read {path}: {one_line(str(error)) or type(error).__name__}"
    if DVCFileSystem(rev=revision).exists(path.as_posix()):
        return missing
    return f"{revision}: has no {path}; its stage evaluate never ran, or ran with other code; run it again"


def read_predictions(revision: str) -> pd.DataFrame:
    """The table ``results/evaluation/predictions.csv`` of a revision: source, id, class, predicted_class, confidence,
    loss; the name of the split is in its ``attrs``.

    Raises:
        PipelineError: see :func:`read_text`; or the file is not such a table, is damaged, or is in the workspace and of
            an earlier network.
    """
    types = dict.fromkeys([*SHARED_COLUMNS, "predicted_class"], str) | dict.fromkeys(["confidence", "loss"], float)
    if revision in WORKSPACE:
        _require_current()
    try:
        text = read_text(revision, PREDICTIONS)
        # A class may be called NA or null.
        table = pd.read_csv(StringIO(text), usecols=SHARED_COLUMNS + OWN_COLUMNS, dtype=types, na_filter=False)
        if not np.isfinite(table[["confidence", "loss"]]).all(axis=None):
            raise ValueError("a confidence or a loss is not finite")
    except ValueError as error:
        raise PipelineError(
            f"{revision}: {PREDICTIONS} is not a table of predictions: {one_line(str(error))}; {_AGAIN}"
        ) from error
    details = read_results(revision, "evaluate", DETAILS)
    table.attrs, files = {"split": details.get("split")}, details.get("files")
    # A revision of an older version of the code has no checksums.
    if isinstance(files, dict) and files.get(PREDICTIONS.as_posix()) != checksum([text.encode()]):
        raise PipelineError(f"{revision}: {PREDICTIONS} is damaged, its checksum is wrong; {_AGAIN}")
    repeated = table["source"][table["source"].duplicated()]
    if len(repeated):
        raise PipelineError(f"{revision}: {PREDICTIONS} has two rows for the image {repeated.iloc[0]}")
    return table


def locked_stages() -> dict[str, Any]:
    """What ``dvc.lock`` in the workspace has about each stage; empty without that file."""
    lock = Path("dvc.lock")
    return read_yaml(lock).get("stages", {}) if lock.exists() else {}


def _require_current() -> None:
    """Refuse the predictions in the workspace if they are not those of its network."""
    stages = locked_stages()
    trained, judged = (
        [file.get("md5") for file in stages.get(stage, {}).get(kind, ()) if file["path"] == MODEL.as_posix()]
        for stage, kind in (("train", "outs"), ("evaluate", "deps"))
    )
    if trained and not MODEL.exists():
        raise PipelineError(f"workspace: {MODEL} is missing; run dvc repro, or dvc pull")
    if trained != judged:
        raise PipelineError(f"workspace: {PREDICTIONS} are not those of its {MODEL}; run dvc repro")


def compare_revisions(a: str, b: str) -> tuple[Comparison, pd.DataFrame, str]:
    """Compare the predictions of two revisions for the same images.

    Returns:
        The figures, the table of both predictions for each image, and the name of the split.

    Raises:
        PipelineError: see :func:`read_text` and ``comparison.pair``; or the splits are not the same.
    """
    tables = [read_predictions(revision) for revision in (a, b)]
    splits = [table.attrs["split"] for table in tables]
    if splits[0] != splits[1]:
        raise PipelineError(
            f"{a} was evaluated on the {splits[0]} split and {b} on the {splits[1]} split; use the same evaluate.split"
        )
    pairs = pair(*tables)
    left_out = sum(len(table) - len(pairs) for table in tables)
    return compare(pairs, left_out), pairs, splits[0]
