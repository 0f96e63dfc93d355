"""Lists in messages stay short."""

import pytest

from pipeline.errors import listed


@pytest.mark.parametrize(
    ("items", "limit", "text"),
    [
        ([], 5, ""),
        (["a"], 5, "a"),
        (["a", 2, None], 3, "a, 2, None"),
        ("abcdef", 5, "a, b, c, d, e and 1 more"),
        (range(1234), 2, "0, 1 and 1,232 more"),
        ({"train": 1, "test": 2}, 5, "train, test"),
    ],
)
def test_the_first_items_are_listed_and_the_rest_counted(items, limit, text):
    assert listed(items, limit) == text
