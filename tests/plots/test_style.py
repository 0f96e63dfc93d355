"""Tests of the style of all figures."""

import colorsys

import pytest

from pipeline.plots.style import class_colours, saved_figure


@pytest.mark.parametrize("count", [1, 12, 13, 101])
def test_class_colours_are_distinct_and_neither_black_nor_white(count):
    colours = class_colours(count)
    assert len(set(colours)) == count
    for colour in colours:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert 0.3 < colorsys.rgb_to_hls(*channels)[1] < 0.85


def test_the_same_figure_has_the_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        with saved_figure(tmp_path / name, 2, 1) as figure:
            figure.subplots().plot([1, 2, 3])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in (tmp_path / "one.png").read_bytes()


def test_a_figure_is_not_saved_after_an_error(tmp_path):
    with pytest.raises(ValueError), saved_figure(tmp_path / "plot.png", 2, 1):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
