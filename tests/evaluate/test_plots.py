"""The pictures of the stage ``evaluate``, for any number of classes and images."""

import warnings

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from pipeline.evaluate.calibration import reliability
from pipeline.evaluate.metrics import curves_by_class
from pipeline.evaluate.plots import (
    plot_confusion,
    plot_curves_by_class,
    plot_mistakes,
    plot_normalized_confusion,
    plot_reliability,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def predictions(classes: int, images: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The last class has no images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, max(classes - 1, 1), images)
    weights = random.dirichlet(np.ones(classes), images) + np.eye(classes)[labels]
    return labels, weights / weights.sum(axis=1, keepdims=True), tuple(f"_class ${index}$" for index in range(classes))


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


CASES = [(2, 1), (2, 40), (3, 2), (11, 500), (26, 500), (100, 1000), pytest.param(1000, 3000, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("classes", "images"), CASES)
@pytest.mark.parametrize("plot", [plot_confusion, plot_normalized_confusion])
def test_confusion_matrices_of_any_size_can_be_looked_at(tmp_path, plot, classes, images):
    labels, probabilities, names = predictions(classes, images)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(classes))
    plot(tmp_path / "confusion.png", counts, names, "Confusion matrix")
    width, height = size(tmp_path / "confusion.png")
    assert 400 < height < width < 2600


@pytest.mark.parametrize(("classes", "images"), CASES)
def test_curves_of_any_number_of_classes_make_a_picture_of_one_size(tmp_path, classes, images):
    labels, probabilities, names = predictions(classes, images)
    plot_curves_by_class(tmp_path / "curves.png", *curves_by_class(labels, probabilities, names), "Curves")
    assert size(tmp_path / "curves.png") == (1800, 696)


@pytest.mark.parametrize("images", [1, 500])
def test_reliability_diagrams_stand_side_by_side(tmp_path, images):
    labels, probabilities, _ = predictions(4, images)
    table = reliability(labels, probabilities)
    plot_reliability(tmp_path / "reliability.png", {"plain": table, "scaled": table}, "Reliability")
    assert size(tmp_path / "reliability.png") == (1296, 792)


@pytest.mark.parametrize(("mistakes", "width"), [(0, 1008), (1, 1008), (5, 1260), (24, 1512)])
def test_galleries_show_every_mistake_that_they_are_given(tmp_path, mistakes, width):
    black = np.zeros((mistakes, 32, 32, 3), np.uint8)
    captions = [("true_{class", "predicted $class", "99.0%", f"{index:040}.jpg") for index in range(mistakes)]
    plot_mistakes(tmp_path / "mistakes.png", black, captions, "Mistakes")
    with Image.open(tmp_path / "mistakes.png") as picture:
        assert picture.size[0] == width
        pixels = np.asarray(picture.convert("L"))
    # Photos are black, what surrounds them is white.
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
