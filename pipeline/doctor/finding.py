"""What a check found, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pipeline.doctor.surroundings import Surroundings


class Status(StrEnum):
    """How bad it is: nothing, good to know, or something will stop or is wrong."""

    OK = "ok"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    Attributes:
        name: of what was looked at, a word or two.
        status: how bad it is.
        found: what was found; further lines are details.
        mend: how to mend it, with the commands in backquotes; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    mend: str = ""


# A check looks at one thing, writes nothing into the repository, and yields a line or more; none where it does not
# apply. What it raises is told as a line of its own.
Check = Callable[[Surroundings], Iterator[Finding]]


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, Status.OK, found)


def note(name: str, found: str, mend: str = "") -> Finding:
    """It works, but there is something to know."""
    return Finding(name, Status.NOTE, found, mend)


def error(name: str, found: str, mend: str) -> Finding:
    """It does not work."""
    return Finding(name, Status.ERROR, found, mend)
