"""Cross-validation: each fold as a DVC experiment, and a prediction for each image by a network not trained on it.

These predictions show which labels may be wrong.
"""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

from pipeline.common.files import hidden_path, write_table, write_text
from pipeline.common.label_files import read_corrections
from pipeline.common.paths import DATASET, RAW_ARCHIVE, SWEEPS
from pipeline.common.raw_archive import RawReader, read_raw_archive
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import overridden_params, override_key
from pipeline.experiments.ray_cluster import Cluster
from pipeline.experiments.revisions import PREDICTIONS, Experiment
from pipeline.experiments.sandbox import SANDBOXES, take_snapshot
from pipeline.experiments.series import Series, series_lines
from pipeline.predict.table import require_csv
from pipeline.progress import say, wrapped
from pipeline.report.review import review_page

ON_VALID = "evaluate.split=valid"
_AGAIN = "the images changed between the experiments: dvc exp remove the older ones, and run folds again"


def run_folds(overrides: Sequence[str], output: Path | None, cluster: Cluster | None = None) -> None:
    """Run each of the ``data.folds`` folds as a DVC experiment, print their metrics, and write what they predict, as a
    table and as a page to review labels.

    The experiments run and are reused as those of ``seeds.run_seeds``, also if ``dvc.lock`` in the workspace is that of
    another fold.

    Args:
        overrides: ``key=value``, as for ``dvc exp run -S``.
        output: the CSV file of the out-of-fold predictions; None writes it to the folder of the sweeps. The page has
            the same name with the extension .html.
        cluster: where they run, all at once; None runs them here, one after the other.

    Raises:
        PipelineError: this is not a DVC repository with a commit; an override or ``output`` is not allowed;
            ``data.folds`` is null; a fold failed; or the folds do not fit together.
    """
    series, data = _series(overrides, cluster)
    output = output or SWEEPS / f"out_of_fold-{series.identity}.csv"
    require_csv("--output", output)
    results, experiments, failures = series.run(range(data["folds"]))
    for line in series_lines("fold", results) if len(results) else ():
        say(line)
    if failures:
        raise PipelineError("\n".join(failures))
    images = {fold: _read(experiment, DATASET / "index.csv") for fold, experiment in experiments.items()}
    table = join_folds({fold: _read(experiment, PREDICTIONS) for fold, experiment in experiments.items()}, images)
    write_table(output, table)
    for line in (*_summary_lines(results, table, images[0]), f"All of them are in {output}"):
        say(line)
    page = output.with_suffix(".html")
    write_text(page, _page(table, experiments[0], read_corrections(data["corrections"])))
    say(f"{page} shows the images with another prediction than their label, to find wrong labels and correct them")


def _page(table: pd.DataFrame, experiment: Experiment, corrections: Mapping[str, str]) -> str:
    """The page to review labels, with the photos of an experiment."""
    ranked = most_suspect(table)
    wrong = ranked[ranked["predicted"] != ranked["label"]]
    # It may be too large for the system's folder of temporary files.
    archive = hidden_path(SANDBOXES / RAW_ARCHIVE.name, "part")
    try:
        experiment.copy(RAW_ARCHIVE, archive)
        classes, images, _ = read_raw_archive(archive)
        photos = {image.path: image for image in images}
        return review_page(wrong, len(table), classes, corrections, RawReader(archive), photos)
    finally:
        archive.unlink(missing_ok=True)


def _series(overrides: Sequence[str], cluster: Cluster | None) -> tuple[Series, dict[str, Any]]:
    """The experiments, and their section ``data``."""
    for override in overrides:
        if override_key(override) in ("data.fold", "evaluate.split"):
            raise PipelineError(f"-S: got {override!r}; folds runs every fold and evaluates its valid split")
    # Fold 0 exists for any number of folds, that of params.yaml may not.
    params = overridden_params([*overrides, ON_VALID, "data.fold=0"])
    data = params["data"]
    if data["folds"] is None:
        raise PipelineError("data.folds: got null, needs the number of folds; set it, such as -S data.folds=5")
    snapshot = take_snapshot()
    # Each fold has its own archive, and the workspace has that of one of them.
    inputs = {path: value for path, value in snapshot.inputs(params).items() if path != RAW_ARCHIVE.as_posix()}
    return Series("fold", "data.fold", [*overrides, ON_VALID], snapshot, [inputs, params], cluster), data


def _read(experiment: Experiment, path: Path) -> pd.DataFrame:
    """A table as text, so that numbers keep their digits; a class may be called NA or null."""
    return pd.read_csv(StringIO(experiment.read(path)), dtype=str, na_filter=False)


def join_folds(predictions: Mapping[int, pd.DataFrame], images: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Join the predictions of all folds by the paths of the images in the source.

    Args:
        predictions: of each fold for its validation images, as ``evaluate`` writes them; all columns are text.
        images: the index of the dataset of each fold; all columns are text.

    Returns:
        The columns of the predictions and ``fold``, one row per image, sorted by source.

    Raises:
        PipelineError: the folds have different columns, or a labelled image that is not a test image is in the
            predictions of no fold or of more than one.
    """
    for fold, table in predictions.items():
        if differing := sorted(set(table.columns) ^ set(predictions[0].columns)):
            raise PipelineError(f"fold {fold} and fold 0 differ in the columns {listed(differing)}; {_AGAIN}")
    joined = pd.concat([table.assign(fold=fold) for fold, table in predictions.items()])
    joined = joined.sort_values(["source", "fold"], kind="stable", ignore_index=True)
    if repeated := _sources(joined[joined["source"].duplicated()]):
        folds = listed(joined["fold"][joined["source"] == min(repeated)])
        raise PipelineError(
            f"{len(repeated):,} images are predicted more than once, such as {min(repeated)} in the folds {folds}; "
            f"{_AGAIN}"
        )
    labelled = {path for table in images.values() for path in _sources(_in_folds(table))}
    if missing := labelled - _sources(joined):
        raise PipelineError(
            f"{len(missing):,} of {len(labelled):,} images are predicted by no fold, such as {min(missing)}; {_AGAIN}"
        )
    return joined


def most_suspect(table: pd.DataFrame) -> pd.DataFrame:
    """The predictions of :func:`join_folds` as numbers, those with the most suspect labels first: of the images that
    are predicted as another class, and then of the others, the ones whose label has the lowest probability."""
    numbers = ["label", "predicted", "confidence", "loss"]
    table = table.assign(**table[numbers].apply(pd.to_numeric))
    return table.iloc[np.lexsort([-table["loss"], table["predicted"] == table["label"]])]


def _sources(table: pd.DataFrame) -> set[str]:
    return set(table["source"])


def _in_folds(index: pd.DataFrame) -> pd.DataFrame:
    """The rows of the images that are cut into folds: those with a label that never was a pseudo-label.

    The id of a pseudo-labelled image begins with a folder, also after a correction has confirmed its label.
    """
    return index[(index["split"] != "test") & (index["label"] != "") & ~index["id"].str.contains("/")]


def _summary_lines(results: pd.DataFrame, table: pd.DataFrame, index: pd.DataFrame) -> list[str]:
    mean, deviation = results["accuracy"].mean(), results["accuracy"].std()
    accuracy = accuracy_score(table["label"], table["predicted"])
    macro_f1 = f1_score(table["label"], table["predicted"], average="macro", zero_division=0)
    tested = int(((index["split"] == "test") & (index["label"] != "")).sum())
    rest = f"; the {tested:,} labelled images of the test split are in no fold" if tested else ""
    return wrapped(
        f"Accuracy {mean:.2%} ± {100 * deviation:.2f} points (mean and standard deviation of {len(results)} folds). "
        f"Out-of-fold predictions of {len(table):,} images: accuracy {accuracy:.4f}, macro F1 {macro_f1:.4f}{rest}."
    )
