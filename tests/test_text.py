"""Text from outside, made fit for a message."""

import pytest

from pipeline.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:80/a?b=c", "https://host:80/a?b=c"),
        ("https://me:sec@ret@host/a", "https://host/a"),
        ("https://me:sec/ret@host/a", "https://host/a"),
        ("https://me:1ecret/x@host/a", "https://host/a"),
        ("https://secret@host/a", "https://host/a"),
        ("https://host/@scope/a@1.zip", "https://host/@scope/a@1.zip"),
        ("https://host:8080/@scope/a.zip", "https://host:8080/@scope/a.zip"),
        ("https://[::1]:8080/@scope/a.zip", "https://[::1]:8080/@scope/a.zip"),
        ("Invalid URL 'http://me:secret@': No host", "Invalid URL 'http://': No host"),
        ("two\nlines\x1b[1m\u2028and more", "two lines [1m and more"),
    ],
)
def test_a_url_is_shown_in_one_line_without_a_password(text, shown):
    assert printable(text) == shown
