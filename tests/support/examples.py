"""How many examples Hypothesis tries: ``make test-all`` multiplies the numbers of ``make test``."""

import os

FACTOR = int(os.environ.get("TEST_EXAMPLES_FACTOR", "1"))


def examples(count: int) -> int:
    return FACTOR * count
