"""Fonts that have the glyphs of the names in a picture, in whatever script they are."""

import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from pipeline.errors import listed
from pipeline.progress import say

# They have a box or nothing for every character, or letters where other ones belong.
UNFIT = ("last resort", "lastresort", "adobe blank", "cmb10", "cmex10", "cmmi10", "cmr10", "cmss10", "cmsy10", "cmtt10")
PLAIN_STYLES = ("Regular", "Book", "Roman", "Normal", "Medium")
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")

_told: set[str] = set()


def fonts_for(texts: Iterable[str]) -> list[str]:
    """Font families for matplotlib's ``font.family``: the usual one, then those that have what it lacks.

    Where no installed font has a glyph, one line says which are missing and what to install, once a process.
    """
    usual = FT2Font(font_manager.findfont(font_manager.FontProperties(family=["sans-serif"])))
    missing = _lacking(usual, {c for text in texts for c in text if unicodedata.category(c)[0] not in "CZ"})
    families = ["sans-serif"]
    fonts = _open_fonts() if missing else []
    while missing:
        best = min(fonts, key=lambda font: _rank(font, missing), default=usual)
        left = _lacking(best, missing)
        if left == missing:
            break
        families.append(_family(best, missing - left))
        missing = left
    if missing - _told:
        _told.update(missing)
        packages = " and ".join(sorted({_package(character) for character in missing}))
        say(f"warning: no font here has {listed(sorted(missing))}: boxes stand for them; install {packages}")
    return families


def shortened(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` letters, wide ones counting twice; its middle gives way to an …"""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if _width(text) <= width:
        return text
    head, tail = text[: width // 2], text[len(text) - width // 2 :]
    while _width(head + tail) >= width:
        head, tail = (head[:-1], tail) if _width(head) > _width(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def installed_fonts() -> list[str]:
    """The paths of all fonts, those among them that were installed after matplotlib wrote its list of them."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    return sorted(known.union(font_manager.findSystemFonts()))


def _open_fonts() -> list[FT2Font]:
    fonts = []
    for path in installed_fonts():
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):
            # matplotlib cannot read every kind, and so cannot draw with it.
            continue
        if font.scalable and not font.family_name.lower().startswith(UNFIT):
            fonts.append(font)
    return fonts


def _lacking(font: FT2Font, characters: set[str]) -> set[str]:
    return {character for character in characters if not font.get_char_index(ord(character))}


def _rank(font: FT2Font, missing: set[str]) -> tuple[int, bool, bool, str, str]:
    """The font that has the most comes first; at the end its name, for a choice that is the same on every run."""
    plain, sans = font.style_name in PLAIN_STYLES, "Sans" in font.family_name
    return len(_lacking(font, missing)), not plain, not sans, font.family_name, str(font.fname)


def _family(font: FT2Font, characters: set[str]) -> str:
    """The family to name for a font, made known to matplotlib; in a collection the one for the script."""
    entries = font_manager.fontManager.ttflist
    if not any(entry.fname == font.fname for entry in entries):
        font_manager.fontManager.addfont(str(font.fname))
    names = [entry.name for entry in entries if entry.fname == font.fname]
    scripts = {unicodedata.name(character, "").partition(" ")[0] for character in characters}
    ending = "JP" if scripts & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in scripts else "SC"
    return next((name for name in names if name.endswith(f" {ending}")), names[0])


def _package(character: str) -> str:
    """What has the glyph, by its name in Debian and Ubuntu."""
    if unicodedata.name(character, "").startswith(EAST_ASIAN):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) == "So" else "fonts-noto-core"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
