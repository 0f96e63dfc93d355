"""Text in messages: lists stay short, text from outside cannot disturb the terminal or show a password."""

import os
from pathlib import Path

import pytest

from pipeline.errors import listed, one_line, printable, shown_name


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
def test_listed_joins_the_first_items_and_counts_the_others(items, limit, text):
    assert listed(items, limit) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [("a  b", "a b"), (" two\r\nlines\t", "two lines"), ("\x1b[1mbold\u2028größe 图", "[1mbold größe 图"), ("\n", "")],
)
def test_one_line_replaces_what_is_not_printable(text, line):
    assert one_line(text) == line


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
def test_printable_shows_a_url_in_one_line_without_a_password(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [("größe 图.png", "größe 图.png"), (Path("a/b.png"), "a/b.png"), ("two\nlines\x1b[1m", "two?lines?[1m")],
)
def test_shown_name_replaces_what_is_not_printable(name, shown):
    assert shown_name(name) == shown


def test_shown_name_accepts_names_that_are_not_utf_8():
    assert shown_name(os.fsdecode(b"\xff.png")) == "\ufffd.png"
