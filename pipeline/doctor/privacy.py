"""What a report may show when it is pasted where everyone reads it: no credentials, no name of a home folder."""

import re
import shlex
from pathlib import Path

# To the next white space, because a password may hold any other character.
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)(\S+)")
_NAMED_SECRET = re.compile(
    r"(?i)\b((?:[\w-]*?(?:password|passwd|secret|token|credential|signature|api_?key|access_?key|account_?key))[\w-]*"
    r"""["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;"']+)"""
)


def shareable(text: str) -> str:
    """Make a text fit to be shown: URLs without user, password, query and fragment, the home folder as ``~``.

    Control characters, which could change a terminal, become spaces; line ends stay.
    """
    text = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())
    text = _URL.sub(_bare, text)
    text = _NAMED_SECRET.sub(r"\1***", text)
    for home in _homes():
        text = re.sub(rf"{re.escape(home)}(?=$|[^\w.-])", "~", text)
    return text


def _bare(found: re.Match[str]) -> str:
    """Drop what is in front of the last @, and all from the first ? or # on; where it is not clear which, both."""
    scheme, rest = found.groups()
    closing = re.search(r"[`'\")\].,;:]*$", rest)
    address, *query = re.split(r"[?#]", rest, maxsplit=1)
    if query and "@" in query[0]:
        return f"{scheme}***{closing[0] if closing else ''}"
    return scheme + address.rpartition("@")[2] + (f"?***{closing[0] if closing else ''}" if query else "")


def _homes() -> list[str]:
    try:
        home = Path.home()
        homes = {str(home), str(home.resolve())}
    except (OSError, RuntimeError):
        return []
    return sorted((path for path in homes if len(path) > 1), key=len, reverse=True)


def shell_path(path: Path | str) -> str:
    """Write a path for a shell, the home folder as ``~``, which a quoted text would not be taken for."""
    text = str(path)
    for home in _homes():
        if text.startswith(f"{home}/"):
            return f"~/{shlex.quote(text[len(home) + 1 :])}"
    return shlex.quote(text)
