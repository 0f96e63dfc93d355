"""Text for people. Whatever it contains, such as the name of a file or the error of a library, :func:`shown` makes it
fit for a terminal, a log file and a public bug report: it cannot change the terminal, and its secrets are ``***``."""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

SHORTEST_SECRET = 6  # characters of a value that is hidden wherever it occurs
_JOINERS = "\u200c\u200d"  # zero width non-joiner and joiner
_PUNCTUATION = "`'\")]}>.,;:"  # after a URL in a sentence
# A password may contain any character but white space.
_WORD = re.compile(r"(?<!\S)[^\s@?#]*+[@?#]\S*")
_START = r"(?<![^\s'\"`=(\[{<>,;|])"  # of a word, or of a value in it that follows =, a quote or a bracket
# Path joins the slashes of https://host to https:/host. A scheme has two letters or more, the drive of C:/ one.
_URL = re.compile(rf"(?<=[\w+.-][\w+.-]):/+|{_START}//+")
# user:password@, where the password may contain any character, but not host:port; or all that an @ follows in the host.
_USER = re.compile(r"(?P<password>(?!\[[\da-fA-F.]*:[\da-fA-F:.]*\])[^/?#:]*:(?!\d+(?:[/?#'\"`),;\]]|$)))|[^/?#]*@")
# user:password@host without a scheme, as of a proxy; not photos/a:b@c.jpg, C:\a@b and localhost:80/@x.
_BARE_USER = re.compile(rf"{_START}[^\s'\"`=(\[{{<>,;|:@/?#\\]+:(?![\\/]|\d+/)")
_QUERY = re.compile(r"[?#]")
_BARE_QUERY = re.compile(r"[?#](?=[\w.~%+-]+=)")  # of a URL of which a library shows the path alone
# The names of environment variables, as in https://$USER:$PASSWORD@host/?token=$TOKEN, are no secrets.
_VARIABLE = r"\$[A-Z_][A-Z0-9_]*"
_VARIABLES = re.compile(rf"(?:[\w.%+-]+[:=])?{_VARIABLE}(?:[&:](?:[\w.%+-]+[:=])?{_VARIABLE})*")
_NAMED = re.compile(
    r"(?i)(?<![\w-])(?=[\w-]{0,60}?(?:password|passwd|secret|token|credential|signature|authorization|api_?key"
    r"|access_?key|account_?key))"
    r"([\w-]{1,80}+[\"']?\s{0,9}+[=:]\s{0,9}+(?:(?:Basic|Bearer)\s+)?)"
    rf"(?!(?-i:{_VARIABLE})(?![\w$]))"
    r"""("[^"]*"|'[^']*'|[^\s,;"']+)"""
)
_PARTS_OF_NAMES = ("passw", "secret", "token", "credential", "signature", "authorization", "key")  # quicker to find
_hidden: dict[str, str] = {}


def hide(secret: str, name: str) -> None:
    """From now on, show ``name`` in place of a secret, also where it is percent-encoded."""
    _hidden.update({form: name for form in (secret, quote(secret), quote(secret, "")) if len(form) >= SHORTEST_SECRET})


def without_secrets(text: str) -> str:
    """Replace secrets in a text of any length, in linear time.

    These are user and password, query and fragment of each URL, ``user:password@host``, and values that are named as
    secrets, such as ``API_TOKEN=…``: they become ``***``. What was given to :func:`hide` becomes its name.
    """
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, _hidden[secret])
    text = _WORD.sub(lambda word: _masked(word[0]), text)
    return _NAMED.sub(r"\1***", text) if any(part in text.lower() for part in _PARTS_OF_NAMES) else text


def _masked(word: str) -> str:
    """Mask what is before an @, and what follows the first ? or #, in a word that contains a URL or a part of one."""
    urls = list(_URL.finditer(word))
    start, end = _user(word, urls)
    pattern, place = (_QUERY, urls[0].end()) if urls else (_BARE_QUERY, 0)
    query = pattern.search(word, place)
    if query and start <= query.start() < end:
        query = pattern.search(word, end)
    tail = word[query.start() :] if query else ""
    cut, ending = len(word) - len(tail), tail[len(tail.rstrip(_PUNCTUATION)) :]
    value = tail[1 : len(tail) - len(ending)]
    before = word[:cut] if start > cut else f"{word[:start]}{_stars(word[start:end])}{word[end:cut]}"
    return f"{before}{tail[:1]}{_stars(value)}{ending}" if value else before + tail


def _stars(secret: str) -> str:
    return "***" if secret and not _VARIABLES.fullmatch(secret) else secret


def _user(word: str, urls: list[re.Match[str]]) -> tuple[int, int]:
    """Where the user, and the password if there is one, begins and ends in a word; the same place if there is none."""
    last = word.rfind("@")
    for url in urls:
        user = _USER.match(word, url.end())
        if user and user.end() <= last + 1:
            return url.end(), last if user["password"] is not None else user.end() - 1
    bare = _BARE_USER.search(word, 0, last) if re.match(r"[\w\[]", word[last + 1 :]) and last > 0 else None
    return (bare.start(), last) if bare else (0, 0)


def shown(text: str) -> str:
    """Make text fit for people: in the same lines, without secrets, and printable.

    Other white space becomes a space, and ``?`` each control character, or one that changes the direction of text.
    """
    if not text.isprintable():
        spaces = {char: " " for char in set(text) if char.isspace()} | {"\n": "\n"}
        text = "".join(char if char.isprintable() else spaces.get(char, "?") for char in text)
    return without_secrets(text)


def one_line(text: str) -> str:
    """Make text fit for people in one line; several spaces become one."""
    return " ".join(shown(text).split())


def shown_name(name: Path | str) -> str:
    """A file name or a class name in one line: what is not printable becomes a space or a question mark."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " if unicodedata.category(char) == "Zs" else "?" for char in text)


def is_printable(name: str) -> bool:
    """Whether a file name or a class name is text in one line.

    Unlike ``str.isprintable``, it allows spaces of any width, such as that of macOS before AM, and the two joiners,
    which emoji and several scripts need. Control characters, line breaks, surrogates and what changes the direction of
    text are not allowed.
    """
    return name.isprintable() or all(
        char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs" for char in name
    )


def listed(items: Iterable[object], limit: int = 5) -> str:
    """Join the first ``limit`` items by commas and count the rest: ``a, b, c and 12 more``."""
    names = [str(item) for item in items]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def likewise(others: Sequence[object], what: str, limit: int = 5) -> str:
    """What a message about the first of several adds about the ``others``; nothing if there are none."""
    return f" (likewise {len(others):,} more {what}: {listed(others, limit)})" if others else ""


def similar(name: str, names: Iterable[str]) -> str:
    """List the names most similar to one that is none of them; the first ones if none is similar."""
    allowed = list(names)
    return listed(difflib.get_close_matches(name, allowed) or allowed, 12)


def shortened(text: str, most: int = 400) -> str:
    """The text without its middle if it is too long for a message, as a value that a user gave may be of any size.

    Secrets are masked before the cut, behind which a part of one would not be recognised.
    """
    text = without_secrets(text)
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[len(text) - most // 3 :]}"
