"""Two revisions in one picture: their learning curves, and the recall of each class."""

from io import StringIO
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.common.paths import LIVE
from pipeline.errors import PipelineError
from pipeline.experiments.comparison import class_changes
from pipeline.experiments.revisions import read_text
from pipeline.plots.fonts import shortened
from pipeline.plots.style import saved_figure

MEASURES = ("loss", "accuracy")
CLASSES_SHOWN, SHOWN_CHARACTERS = 25, 30


def plot_comparison(path: Path, names: tuple[str, str], pairs: pd.DataFrame) -> None:
    """Draw loss and accuracy by epoch of both revisions, and the recall of the classes that changed most.

    Args:
        path: the picture.
        names: of the revisions.
        pairs: the table of ``compare_revisions``.

    Raises:
        PipelineError: the file is no PNG, or a revision has no curves.
    """
    if path.suffix.lower() != ".png":
        raise PipelineError(f"--plots: got {path}, allowed is the name of a PNG file, such as comparison.png")
    curves = [read_curves(name) for name in names]
    changes = class_changes(pairs)
    shown = changes.reindex(changes["change"].abs().sort_values(ascending=False, kind="stable").index)
    shown = shown.head(CLASSES_SHOWN).sort_values("change", kind="stable")
    shown["class"] = [shortened(name, SHOWN_CHARACTERS) for name in shown["class"]]
    titles = [shortened(name, SHOWN_CHARACTERS) for name in names]
    texts = [*titles, *shown["class"]]
    with saved_figure(path, 15, max(4.5, 1.5 + 0.25 * len(shown)), texts) as figure:
        *by_epoch, recall = figure.subplots(1, 3)
        for axis, measure in zip(by_epoch, MEASURES, strict=True):
            for number, (name, table) in enumerate(zip(titles, curves, strict=True)):
                for split, line in (("train", ":"), ("valid", "-")):
                    axis.plot(
                        table["epoch"], table[f"{split}_{measure}"], line, color=f"C{number}", label=f"{split}: {name}"
                    )
            axis.set(xlabel="epoch", title=measure)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        by_epoch[0].legend(frameon=False)
        _draw_recall(recall, shown, len(changes))


def read_curves(revision: str) -> pd.DataFrame:
    """Loss and accuracy of both splits by epoch: epoch, train_loss, train_accuracy, valid_loss and valid_accuracy.

    Raises:
        PipelineError: see ``read_text``; or a file is not a curve.
    """
    columns = {}
    for split in ("train", "valid"):
        for measure in MEASURES:
            path = LIVE / "plots/metrics" / split / f"{measure}.tsv"
            try:
                table = pd.read_csv(StringIO(read_text(revision, path)), sep="\t", index_col="step")
                columns[f"{split}_{measure}"] = table[measure].astype(float)
            except (KeyError, ValueError):
                raise PipelineError(f"{revision}: {path} is not a curve; run dvc repro --force train there") from None
    # DVCLive counts from 0.
    return pd.DataFrame(columns).rename_axis("epoch").rename(index=lambda step: step + 1).reset_index()


def _draw_recall(axis: Axes, shown: pd.DataFrame, classes: int) -> None:
    """A line from the recall of A to that of B for each class, and a point at both."""
    places = range(len(shown))
    axis.hlines(places, shown["recall_a"], shown["recall_b"], color="0.75", zorder=1)
    for number, column in enumerate(("recall_a", "recall_b")):
        axis.scatter(shown[column], places, color=f"C{number}", zorder=2)
    title = "recall by class" if len(shown) == classes else f"recall of {len(shown)} of {classes} classes"
    axis.set(yticks=places, yticklabels=shown["class"], xlabel="recall", title=title)
