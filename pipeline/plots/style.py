"""The style of all figures, and how they are saved."""

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
    """One colour per class, none near black or white; more than twelve are spread over all hues in two lightnesses."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    colours = [colorsys.hls_to_rgb(place / count, (0.45, 0.62)[place % 2], 0.65) for place in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in colours]


@contextmanager
def saved_figure(path: Path, width: float, height: float, texts: Iterable[str] = ()) -> Iterator[Figure]:
    """Yield a figure of the given size in inches, and save it when the block succeeds.

    ``texts`` are the class and file names in the figure: it uses fonts that have their glyphs, and no dollar sign in
    the figure starts a formula.
    """
    texts = tuple(texts)
    with (
        matplotlib.rc_context({"font.family": fonts_for(texts), "text.parse_math": False} if texts else {}),
        warnings.catch_warnings(),
    ):
        # fonts_for has reported them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = plt.figure(figsize=(width, height), layout="constrained")
        try:
            yield figure
            with replacing(path) as temporary:
                # Without the version of matplotlib in the metadata, the same figure has the same bytes.
                figure.savefig(temporary, dpi=120, metadata={"Software": None})
        finally:
            plt.close(figure)
