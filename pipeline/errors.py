"""The one exception that a user is meant to read."""

from collections.abc import Iterable


class PipelineError(Exception):
    """Bad input. The message is one line: the file or key, what was found, what is allowed, how to mend it."""


def listed(items: Iterable[object], limit: int = 5) -> str:
    """Join the first ``limit`` items by commas and count the rest: ``a, b, c and 12 more``."""
    names = [str(item) for item in items]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")
