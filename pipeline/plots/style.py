"""What all pictures share: the backend, the look, and how they are saved."""

import colorsys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from pipeline.common.files import replacing
from pipeline.plots.fonts import fonts_for

sns.set_theme(context="notebook", style="ticks", palette="deep")

COLOURS = (
    *("#4c84c9", "#e8743b", "#3fa34d", "#d64550", "#8e6bbf", "#9c6b4f"),
    *("#d667b5", "#7f8790", "#b3a125", "#22a6b3", "#84cc3f", "#f4a6a0"),
)


def class_colours(count: int) -> list[str]:
    """One colour a class, none near black or white; more than twelve go round the colour circle, two tones by turns."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    tones = [colorsys.hls_to_rgb(place / count, (0.45, 0.62)[place % 2], 0.65) for place in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in tone) for tone in tones]


@contextmanager
def saved_figure(path: Path, width: float, height: float, texts: Iterable[str] = ()) -> Iterator[Figure]:
    """Yield a figure of the given size in inches; it is saved when the block ends well.

    ``texts`` are the names from outside that it shows: they get fonts that have their glyphs, and a dollar sign in
    one is no formula.
    """
    texts = tuple(texts)
    with (
        matplotlib.rc_context({"font.family": fonts_for(texts), "text.parse_math": False} if texts else {}),
        warnings.catch_warnings(),
    ):
        # fonts_for has told of them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = plt.figure(figsize=(width, height), layout="constrained")
        try:
            yield figure
            with replacing(path) as beside:
                # Without metadata the same picture is the same bytes, whatever matplotlib's version says of itself.
                figure.savefig(beside, dpi=120, metadata={"Software": None})
        finally:
            plt.close(figure)
