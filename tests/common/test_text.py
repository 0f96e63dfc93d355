"""Text for people: lists stay short; whatever text contains, it cannot change the terminal and shows no secret."""

import os
import string
import time
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.common import text as module
from pipeline.common.text import hide, is_printable, listed, one_line, shown, shown_name, similar

VISIBLE = string.ascii_letters + string.digits + string.punctuation
# Both ends are marked with a text that occurs nowhere else.
SECRET = st.text(VISIBLE, max_size=20).map(lambda text: f"s3cr3t{text}s3cr3t")


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


@given(st.text())
@example("\x1b]0;title\x07\x9b31m\x00\x7f\u202egpj.exe\u2066\u200b\ufeff\ud800\r\v\f\x85\u2028 größe 图")
def test_shown_text_is_printable_in_the_same_lines_and_does_not_change_when_it_is_shown_again(text):
    result = shown(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in result.replace("\n", ""))
    assert result.count("\n") == text.count("\n")
    assert shown(result) == result


@pytest.mark.parametrize(
    ("text", "line"),
    [("a  b", "a b"), (" two\r\nlines\t", "two lines"), ("\x1b[1mbold\u2028größe 图", "?[1mbold größe 图"), ("\n", "")],
)
def test_one_line_joins_lines_and_replaces_what_is_not_printable(text, line):
    assert one_line(text) == line


@pytest.mark.parametrize(
    "name", ["", "a b", "größe 图", "9.41.00\u202fAM", "猫\u3000犬", "👨\u200d👩\u200d👧 ❤️", "می\u200cخواهم"]
)
def test_names_may_have_any_spaces_and_joiners(name):
    assert is_printable(name)


@pytest.mark.parametrize(
    "character",
    [*map(chr, range(32)), *"\x7f\x85\x9b\u200b\u200e\u2028\u2029\u202a\u202d\u202e\u2066\u2069\ud800\udcff\ufeff"],
    ids=ascii,
)
def test_names_have_no_control_characters_line_breaks_overrides_of_direction_or_surrogates(character):
    assert not is_printable(f"a\u202f{character}b")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("größe 图.png", "größe 图.png"),
        (Path("a/b.png"), "a/b.png"),
        ("two\nlines\x1b[1m\t", "two?lines?[1m?"),
        ("9\u202fAM", "9 AM"),
    ],
)
def test_shown_name_replaces_what_is_not_printable(name, shown):
    assert shown_name(name) == shown


def test_shown_name_accepts_names_that_are_not_utf_8():
    assert shown_name(os.fsdecode(b"\xff.png")) == "\ufffd.png"


@given(
    scheme=st.sampled_from(
        ["https://", "Https://", "s3://", "smb://", "webdavs://", "git+https://", "//", "https:/", ""]
    ),
    user=st.text(string.ascii_letters + string.digits + "!$&*+-._~%", min_size=1, max_size=8),
    secret=SECRET,
    quoted=st.booleans(),
    tail=st.sampled_from(["", "/", "/data/food.zip", "/a@b/c", ":8080/x"]),
    around=st.sampled_from(
        ["{}", "HTTPS_PROXY={}, x", "url = {}", "'{}'", "['http://a:80/b','{}']", "see `{}`, please"]
    ),
)
@example("https://", "u", "s3cr3t?/#@s3cr3t", False, "/x", "{}")
@example("https://", "u", "s3cr3t@/s3cr3t", False, "", "{}")
def test_no_password_in_a_url_is_shown(scheme, user, secret, quoted, tail, around):
    password = quote(secret, safe="") if quoted else secret
    result = shown(around.format(f"{scheme}{user}:{password}@example.org{tail}"))
    assert "s3cr3t" not in result
    assert "***" in result


@given(
    address=st.sampled_from(["https://example.org/store", "Https://h", "s3://b/k", "/store", "with url: /food.zip"]),
    key=st.sampled_from(["token", "sig", "X-Amz-Signature", "k"]),
    secret=SECRET,
    mark=st.sampled_from("?#"),
)
def test_no_query_or_fragment_of_a_url_is_shown(address, key, secret, mark):
    result = shown(f"remote: {address}{mark}a=b&{key}={secret} (a reason)")
    assert "s3cr3t" not in result
    assert result.startswith(f"remote: {address}{mark}***")
    assert result.endswith(" (a reason)")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("https://me:secret@host:80/a?b=c", "https://***@host:80/a?***"),
        ("https://me:sec@ret@host/a", "https://***@host/a"),
        ("https://me:p@ss/w@host/a", "https://***@host/a"),
        ("https://me:1ecret/x@host/a", "https://***@host/a"),
        ("https://secret@host/@scope/a", "https://***@host/@scope/a"),
        ("https://me:secret@[::1]:80/a", "https://***@[::1]:80/a"),
        ("Invalid URL 'http://me:secret@': No host", "Invalid URL 'http://***@': No host"),
        ("the archive /repo/s3:/key:sec/ret@bucket/x", "the archive /repo/s3:/***@bucket/x"),
        ("(https://host/a?sig=x&b#c).", "(https://host/a?***)."),
        ("http://a/b?next=http://me:secret@host", "http://a/b?***"),
        ("me:sec\x1bret\u202e@host", "***@host"),
        ("password = 'two words', next", "password = ***, next"),
        ("AccountName=me;AccountKey=s3cr3t==;EndpointSuffix=x", "AccountName=me;AccountKey=***;EndpointSuffix=x"),
        ("secret_access_key: 's3cr3t and more'", "secret_access_key: ***"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ('GITHUB_TOKEN="s3cr3t"', "GITHUB_TOKEN=***"),
    ],
)
def test_secrets_become_stars(text, result):
    assert shown(text) == result


@pytest.mark.parametrize(
    "text",
    [
        "https://host/@scope/a@1.zip and https://host:8080/@scope/a.zip",
        "https://[::1]:8080/@scope/a.zip, http://localhost:80, localhost:8000/@scope",
        "photos/a:b@c.jpg: cannot be decoded",
        "classes: a@b, c#d, what?",
        r"C:\Users\a@b and C:/Users/a@b.png",
        "git@github.com:a/b.git, HEAD@{1}",
        "a URL needs data.sha256: set it to 3.11 (>=3.11,<4), as https://example.org/food.zip",
        r"data.groups: got '(?P<group>a+)_.*?', allowed",
        "see https://example.org/? or https://example.org/#.",
        "https://ann:$PASSWORD@host/?token=$TOKEN&sig=$SIG",
    ],
)
def test_other_text_is_not_changed(text):
    assert shown(text) == text


def test_a_hidden_value_is_shown_by_its_name_wherever_it_is(monkeypatch):
    monkeypatch.setattr(module, "_hidden", {})
    hide("v@lue/of it", "$TOKEN")
    hide("short", "$SHORT")
    assert (
        shown("at /v@lue/of it/x, /v%40lue/of%20it/x and ?t=v%40lue%2Fof%20it")
        == "at /$TOKEN/x, /$TOKEN/x and ?t=$TOKEN"
    )
    assert shown("short words stay") == "short words stay"


@pytest.mark.parametrize(
    "part",
    [
        *("a", "@", "?", "a:", "=a:", "'//", "://", "http://a", "https://a:b@c?", "token", "token=", "a-", ",;", "[:"),
        *("a='", '"', "$A&", "?a", "//", "\x1b", "#=", "a.b:@"),
    ],
)
@pytest.mark.parametrize("ends", ["{}", "https://{}@", "{}?x"])
def test_a_long_text_takes_no_longer_per_character_than_a_short_one(part, ends):
    start = time.process_time()
    shown(ends.format(part * (100_000 // len(part))))
    assert time.process_time() - start < 2


def test_similar_lists_the_closest_names_or_without_any_the_first_twelve() -> None:
    assert similar("rsnet18", ["vit_b_16", "resnet18", "resnet34"]) == "resnet18, resnet34"
    assert similar("x", [f"layer{number}" for number in range(14)]).endswith("layer11 and 2 more")
    assert similar("x", []) == ""
