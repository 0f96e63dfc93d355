"""Fonts that have the glyphs for the names in a figure, in any script."""

import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from pipeline.common.text import is_printable, listed
from pipeline.progress import say

# Fonts with a placeholder for every character, or with glyphs of other characters.
UNFIT = ("last resort", "lastresort", "adobe blank", "cmb10", "cmex10", "cmmi10", "cmr10", "cmss10", "cmsy10", "cmtt10")
PLAIN_STYLES = ("Regular", "Book", "Roman", "Normal", "Medium")
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")

_reported: set[str] = set()


def fonts_for(texts: Iterable[str]) -> list[str]:
    """Font families for matplotlib's ``font.family``: the default one, then fonts with the glyphs that it lacks.

    If no installed font has a glyph, one line reports what is missing and what to install, once per process.
    """
    default = FT2Font(font_manager.findfont(font_manager.FontProperties(family=["sans-serif"])))
    missing = _lacking(default, {c for text in texts for c in text if unicodedata.category(c)[0] not in "CZ"})
    families = ["sans-serif"]
    fonts = _open_fonts() if missing else []
    while missing:
        best = min(fonts, key=lambda font: _rank(font, missing), default=default)
        left = _lacking(best, missing)
        if left == missing:
            break
        families.append(_family(best, missing - left))
        missing = left
    if missing - _reported:
        _reported.update(missing)
        packages = " and ".join(sorted({_package(character) for character in missing}))
        say(f"warning: no installed font has {listed(sorted(missing))}, shown as boxes; install {packages}")
    return families


def shortened(text: str, width: int) -> str:
    """Shorten ``text`` to one line of ``width`` columns by an ellipsis in its middle; wide characters take two."""
    # Fonts have no glyphs for joiners, and not for every kind of space.
    text = "".join(c if c.isprintable() else "?" if not is_printable(c) else " " if c.isspace() else "" for c in text)
    if _width(text) <= width:
        return text
    head, tail = text[: width // 2], text[len(text) - width // 2 :]
    while _width(head + tail) >= width:
        head, tail = (head[:-1], tail) if _width(head) > _width(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def installed_fonts() -> list[str]:
    """The paths of all fonts, including those installed after matplotlib cached its list of fonts."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    return sorted(known.union(font_manager.findSystemFonts()))


def _open_fonts() -> list[FT2Font]:
    fonts = []
    for path in installed_fonts():
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):
            # matplotlib cannot read all kinds of fonts.
            continue
        if font.scalable and not font.family_name.lower().startswith(UNFIT):
            fonts.append(font)
    return fonts


def _lacking(font: FT2Font, characters: set[str]) -> set[str]:
    return {character for character in characters if not font.get_char_index(ord(character))}


def _rank(font: FT2Font, missing: set[str]) -> tuple[int, bool, bool, str, str]:
    """The sort key of a font: most glyphs first; the name last, so that the choice is the same in every run."""
    plain, sans = font.style_name in PLAIN_STYLES, "Sans" in font.family_name
    return len(_lacking(font, missing)), not plain, not sans, font.family_name, str(font.fname)


def _family(font: FT2Font, characters: set[str]) -> str:
    """Register a font with matplotlib if needed, and return its family; of a collection the one for the script."""
    entries = font_manager.fontManager.ttflist
    if not any(entry.fname == font.fname for entry in entries):
        font_manager.fontManager.addfont(str(font.fname))
    names = [entry.name for entry in entries if entry.fname == font.fname]
    scripts = {unicodedata.name(character, "").partition(" ")[0] for character in characters}
    ending = "JP" if scripts & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in scripts else "SC"
    return next((name for name in names if name.endswith(f" {ending}")), names[0])


def _package(character: str) -> str:
    """The package of Debian and Ubuntu with a font for the character."""
    if unicodedata.name(character, "").startswith(EAST_ASIAN):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) == "So" else "fonts-noto-core"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
