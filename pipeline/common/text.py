"""Text for people: lists, and names and addresses that can be shown as they are."""

import os
import re
from collections.abc import Iterable
from pathlib import Path


def listed(items: Iterable[object], limit: int = 5) -> str:
    """Join the first ``limit`` items by commas and count the rest: ``a, b, c and 12 more``."""
    names = [str(item) for item in items]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def one_line(text: str) -> str:
    """Bring a text into one line: what is not printable becomes a space, and several spaces one."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def printable(text: str) -> str:
    """Make a URL, or a message about it, fit to be shown: one line without ``user:password@``."""
    return one_line(re.sub(r"//(?:[^/?#\s]*|[^/\s:\[]*:(?!\d+(?:[/?#\s]|$))\S*)@", "//", text))


def shown_name(name: Path | str) -> str:
    """A name that cannot disturb the terminal: what is not printable becomes a question mark."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
