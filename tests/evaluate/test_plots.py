"""Pictures of the stage ``evaluate``, for any number of classes and images."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from sklearn.metrics import confusion_matrix

from pipeline.evaluate.calibration import reliability
from pipeline.evaluate.metrics import curves_by_class
from pipeline.evaluate.plots import (
    plot_confusion,
    plot_curves_by_class,
    plot_mistakes,
    plot_reliability,
)
from pipeline.plots.style import COLOURS, class_colours

pytestmark = pytest.mark.filterwarnings("error")


def predictions(classes: int, images: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The last class has no images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, max(classes - 1, 1), images)
    weights = random.dirichlet(np.ones(classes), images) + np.eye(classes)[labels]
    return labels, weights / weights.sum(axis=1, keepdims=True), tuple(f"_class ${index}$" for index in range(classes))


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


CASES = [
    *[(2, 1), (3, 2), (11, 500), (26, 500)],
    pytest.param(100, 1000, marks=pytest.mark.slow),
    pytest.param(1000, 3000, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("classes", "images"), CASES)
@pytest.mark.parametrize("normalized", [False, True])
def test_confusion_matrix_of_any_number_of_classes_has_a_viewable_size(tmp_path, normalized, classes, images):
    labels, probabilities, names = predictions(classes, images)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(classes))
    plot_confusion(tmp_path / "confusion.png", counts, names, "Confusion matrix", normalized)
    width, height = size(tmp_path / "confusion.png")
    assert 400 < height < width < 2600


@pytest.mark.parametrize(("classes", "images"), CASES)
def test_curves_of_any_number_of_classes_have_the_same_size(tmp_path, classes, images):
    labels, probabilities, names = predictions(classes, images)
    plot_curves_by_class(tmp_path / "curves.png", *curves_by_class(labels, probabilities, names), "Curves")
    assert size(tmp_path / "curves.png") == (1800, 696)


@pytest.mark.parametrize("images", [1, 500])
def test_reliability_diagrams_are_side_by_side(tmp_path, images):
    labels, probabilities, _ = predictions(4, images)
    table = reliability(labels, probabilities)
    plot_reliability(tmp_path / "reliability.png", {"plain": table, "scaled": table}, "Reliability")
    assert size(tmp_path / "reliability.png") == (1296, 792)


@pytest.mark.parametrize(("mistakes", "width"), [(0, 1008), (1, 1008), (5, 1260), (24, 1512)])
def test_gallery_shows_every_mistake(tmp_path, mistakes, width):
    black = np.zeros((mistakes, 32, 32, 3), np.uint8)
    captions = [("true_{class", "predicted $class", "99.0%", f"{index:040}.jpg") for index in range(mistakes)]
    plot_mistakes(tmp_path / "mistakes.png", black, captions, "Mistakes")
    with Image.open(tmp_path / "mistakes.png") as picture:
        assert picture.size[0] == width
        pixels = np.asarray(picture.convert("L"))
    # Images are black, the background is white.
    dark = (pixels < 10).mean()
    assert dark < 0.05 if mistakes == 0 else dark > 0.1 if mistakes > 1 else dark > 0.05


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    labels, probabilities, names = predictions(5, 200)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(5))
    for folder in ("one", "two"):
        plot_confusion(tmp_path / folder / "a.png", counts, names, "Confusion matrix")
        plot_curves_by_class(tmp_path / folder / "b.png", *curves_by_class(labels, probabilities, names), "Curves")
        plot_reliability(tmp_path / folder / "c.png", {"plain": reliability(labels, probabilities)}, "Reliability")
    for name in ("a.png", "b.png", "c.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("classes", [5, 20, 40])
def test_a_class_has_the_colour_of_the_t_sne_picture_in_the_curves(tmp_path, monkeypatch, classes):
    """The last class has no images and no curve, but keeps its colour; of more than 20 classes, 8 have a colour."""
    drawn = {}
    plot = Axes.plot

    def spy(self, x, y, **style):
        drawn.setdefault(style["color"], 0)
        drawn[style["color"]] += len(x) > 2
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    labels, probabilities, names = predictions(classes, 400)
    plot_curves_by_class(tmp_path / "curves.png", *curves_by_class(labels, probabilities, names), "Curves")
    coloured = [colour for colour in drawn if colour not in ("grey", "0.85")]
    expected = class_colours(classes)[:-1] if classes <= 20 else COLOURS[:8]
    assert sorted(coloured) == sorted(expected)
