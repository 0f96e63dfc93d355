"""A look at the augmentation: originals beside their views."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.plots.style import saved_figure


def plot_preview(path: Path, copies: NDArray[np.uint8], titles: list[str]) -> None:
    """Draw a row an image, ``copies`` of shape ``(images, copies, height, width, 3)``, the plain one first."""
    rows, columns = copies.shape[:2]
    with saved_figure(path, 1.1 * columns + 0.6, 1.1 * rows + 0.5, texts=titles) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            for column in range(columns):
                axis = axes[row, column]
                axis.imshow(copies[row, column])
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title("plain" if column == 0 else f"view {column}", fontsize=9)
            axes[row, 0].set_ylabel(titles[row], fontsize=9)
