"""The one exception that a user is meant to read."""


class PipelineError(Exception):
    """Bad input. The message is one line: the file or key, what was found, what is allowed, how to mend it."""


def listed(items, limit: int = 5) -> str:
    """Join the first ``limit`` items by commas and count the rest: ``a, b, c and 12 more``."""
    items = [str(item) for item in items]
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest:,} more" if rest > 0 else "")
