"""The t-SNE picture."""

from pathlib import Path

import pandas as pd
import seaborn as sns

from pipeline.plots.style import class_colours, saved_figure


def plot_tsne(path: Path, points: pd.DataFrame, classes: tuple[str, ...], title: str) -> None:
    """Draw a point an image; ``points`` has the columns x, y and class."""
    with saved_figure(path, 9, 7) as figure:
        axis = figure.subplots()
        sns.scatterplot(
            points,
            x="x",
            y="y",
            hue="class",
            hue_order=classes,
            palette=class_colours(len(classes)),
            s=22,
            linewidth=0.3,
            ax=axis,
        )
        # The axes of t-SNE have no unit: only who is near whom means something.
        axis.set(xticks=[], yticks=[], xlabel="", ylabel="", title=title)
        axis.set_aspect("equal", "datalim")
        axis.legend(
            title="class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=1 + len(classes) // 30
        )
        sns.despine(ax=axis, left=True, bottom=True)
