"""A gallery of mistakes."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.plots.fonts import shortened
from pipeline.plots.style import saved_figure

COLUMNS = 6


def plot_mistakes(path: Path, images: NDArray[np.uint8], captions: list[tuple[str, str, str, str]], title: str) -> None:
    """Draw a grid of photos, ``uint8``, ``(mistakes, height, width, 3)``.

    ``captions`` are the true class, the predicted class, the confidence and the file's name; without mistakes the
    picture says so.
    """
    columns = min(max(len(images), 1), COLUMNS)
    rows = max(math.ceil(len(images) / COLUMNS), 1)
    texts = [text for caption in captions for text in caption]
    # The title needs the width of four photos, and without any a single line.
    with saved_figure(path, 2.1 * max(columns, 4), 2.5 * rows + 0.6 if len(images) else 0.8, texts=texts) as figure:
        figure.suptitle(title, fontsize=11)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes:
            axis.set_axis_off()
        for axis, image, (true, predicted, confidence, name) in zip(axes, images, captions, strict=False):
            axis.imshow(image)
            lines = shortened(true, 26), f"→ {shortened(predicted, 24)}", f"{confidence} · {shortened(name, 20)}"
            axis.set_title("\n".join(lines), fontsize=8)
