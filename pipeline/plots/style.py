"""What all pictures share: the backend, the look, and how they are saved."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from pipeline.files import replacing
from pipeline.plots.fonts import fonts_for

sns.set_theme(context="notebook", style="ticks", palette="deep")


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
