"""Tests of fonts for names in any script."""

import warnings

import matplotlib
import pytest
from matplotlib import font_manager, get_data_path
from matplotlib import pyplot as plt
from matplotlib.ft2font import FT2Font

from pipeline.plots import fonts
from pipeline.plots.fonts import fonts_for, shortened
from pipeline.plots.style import saved_figure

CHINESE = ("面包", "乳制品", "油炸食品", "鱼/肉", "noodles")
DEJAVU = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch):
    monkeypatch.setattr(fonts, "_reported", set())
    # Fonts that a test registers with matplotlib are removed after it.
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))


@pytest.fixture
def dejavu_alone(monkeypatch):
    monkeypatch.setattr(fonts, "installed_fonts", lambda: [DEJAVU])


def draw(families: list[str], text: str) -> bytes:
    """Draw a text in the given fonts, and return the pixels; a missing glyph is an error."""
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plt.figure(figsize=(3, 1))
        try:
            figure.text(0, 0.5, text)
            figure.canvas.draw()
            return bytes(figure.canvas.buffer_rgba())
        finally:
            plt.close(figure)


def machine_has(character: str) -> bool:
    for path in font_manager.findSystemFonts():
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):
            continue
        if not font.family_name.startswith("Last") and font.get_char_index(ord(character)):
            return True
    return False


needs_chinese = pytest.mark.skipif(not machine_has("鱼"), reason="needs a font with Chinese: install fonts-noto-cjk")


def test_latin_names_keep_the_default_font_without_a_message(capsys):
    assert fonts_for(["bread", "crème brûlée", "Smørrebrød", "борщ", "→ µ"]) == ["sans-serif"]
    assert fonts_for([]) == ["sans-serif"]
    assert capsys.readouterr().out == ""


@needs_chinese
def test_chinese_names_get_a_font_with_their_glyphs(capsys):
    families = fonts_for(CHINESE)
    assert families[0] == "sans-serif"
    assert len(families) == 2
    assert draw(families, "面包") != draw(families, "乳制")
    assert capsys.readouterr().out == ""
    assert fonts_for(CHINESE) == families


@needs_chinese
def test_a_font_that_is_newer_than_the_cache_of_matplotlib_is_found(monkeypatch):
    known = [entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(get_data_path())]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    families = fonts_for(CHINESE)
    assert len(families) == 2
    draw(families, "鱼/肉")


def test_missing_glyphs_are_reported_in_one_line_with_the_package_to_install(dejavu_alone, capsys):
    assert fonts_for(CHINESE) == ["sans-serif"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: no installed font has ")
    assert "面" in line or "制" in line
    assert line.endswith("install fonts-noto-cjk")
    # Each glyph is reported once per process.
    fonts_for(CHINESE)
    assert capsys.readouterr().out == ""
    fonts_for([*CHINESE, "汤"])
    assert "汤" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "package"), [("ขนมปัง", "fonts-noto-core"), ("\U0001f9ea", "fonts-symbola"), ("빵", "cjk")]
)
def test_the_package_depends_on_the_script(dejavu_alone, capsys, text, package):
    fonts_for([text])
    assert package in capsys.readouterr().out


def test_a_figure_with_missing_glyphs_is_drawn_without_warnings(dejavu_alone, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with saved_figure(tmp_path / "plot.png", 3, 2, texts=CHINESE) as figure:
            figure.suptitle(CHINESE[0])
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("name", ["$5 and $6", "a_{b", "$\\frac$", "_hidden", "50 %"])
def test_names_are_not_parsed_as_formulas(tmp_path, name):
    with saved_figure(tmp_path / "plot.png", 3, 2, texts=[name]) as figure:
        figure.suptitle(name)
    assert (tmp_path / "plot.png").exists()


def test_settings_of_matplotlib_are_restored_after_a_figure(tmp_path):
    before = dict(matplotlib.rcParams)
    with saved_figure(tmp_path / "plot.png", 3, 2, texts=CHINESE):
        pass
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("bread", 10, "bread"),
        ("a_rather_long_name_0001.jpg", 15, "a_rathe…001.jpg"),
        ("面条意大利面", 12, "面条意大利面"),
        ("面条意大利面", 9, "面条…利面"),
        ("a\nb", 10, "a?b"),
        ("9.41\u202fAM\u3000👨\u200d👩.png", 20, "9.41 AM 👨👩.png"),
    ],
)
def test_long_names_are_shortened_in_the_middle(text, width, expected):
    assert shortened(text, width) == expected
