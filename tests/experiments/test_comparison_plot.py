"""Two revisions in one picture."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image

from pipeline.common.files import write_text
from pipeline.common.paths import LIVE
from pipeline.errors import PipelineError
from pipeline.experiments.comparison_plot import plot_comparison

CURVES = {"loss": (2.0, 1.0), "accuracy": (0.5, 0.75)}


@pytest.fixture
def curves(workspace):
    for split in ("train", "valid"):
        for name, (first, second) in CURVES.items():
            write_text(LIVE / f"plots/metrics/{split}/{name}.tsv", f"step\t{name}\n0\t{first}\n1\t{second}\n")


def pairs_of(classes: int) -> pd.DataFrame:
    names = [f"class {number}" for number in range(classes)] * 2
    return pd.DataFrame({"class": names, "predicted_class_a": [*names[:-2], "x", "x"], "predicted_class_b": names})


@pytest.mark.parametrize(("classes", "title"), [(3, "recall by class"), (40, "recall of 25 of 40 classes")])
def test_the_curves_and_the_recalls_of_both_are_drawn(curves, monkeypatch, classes, title):
    drawn, titles = {}, []
    plot, set_ = Axes.plot, Axes.set

    def spy_plot(self, x, y, *style, **options):
        drawn[options["label"], y.name] = (list(x), list(y))
        return plot(self, x, y, *style, **options)

    def spy_set(self, **options):
        titles.append(options["title"])
        return set_(self, **options)

    monkeypatch.setattr(Axes, "plot", spy_plot)
    monkeypatch.setattr(Axes, "set", spy_set)
    plot_comparison(Path("both.png"), ("workspace", "."), pairs_of(classes))
    assert drawn["valid: .", "valid_loss"] == drawn["train: workspace", "train_loss"] == ([1, 2], [2.0, 1.0])
    assert len(drawn) == 8
    assert titles == ["loss", "accuracy", title]
    with Image.open("both.png") as picture:
        assert picture.size[0] == 1800


def test_another_format_and_a_damaged_curve_are_refused_in_one_line(curves):
    with pytest.raises(PipelineError, match=r"--plots: got both.html, allowed is the name of a PNG file"):
        plot_comparison(Path("both.html"), ("workspace", "."), pairs_of(3))
    write_text(LIVE / "plots/metrics/valid/loss.tsv", "step\tloss\n0\tx\n")
    with pytest.raises(PipelineError, match=r"^workspace: results/live/.*loss.tsv is not a curve; run dvc repro"):
        plot_comparison(Path("both.png"), ("workspace", "."), pairs_of(3))
    (LIVE / "plots/metrics/train/loss.tsv").unlink()
    with pytest.raises(PipelineError, match=r"^workspace: results/live/.*loss.tsv does not exist; run dvc repro"):
        plot_comparison(Path("both.png"), ("workspace", "."), pairs_of(3))
