"""YAML that a user wrote: within limits, or refused in one line before anything is built."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.yaml_file import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_VALUES, parse_yaml, read_yaml
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]


def laughs(levels, item="[{}]"):
    """Anchors of which each has nine aliases to the one before."""
    lines = ["a0: &a0 {x: 1, y: 1}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} " + item.format(", ".join([f"*a{level - 1}"] * 9)))
    return "\n".join(lines)


HOSTILE = {
    "laughs": (laughs(12), f"more than {MAX_VALUES:,} values"),
    "merged laughs": (laughs(12, "{{<<: [{}]}}"), f"more than {MAX_VALUES:,} values"),
    "bytes": ("x" * (MAX_BYTES + 1), f"allowed are {MAX_BYTES:,}"),
    "list in itself": ("a: &a [*a]", r"the alias \*a within its own value"),
    "mapping in itself": ("a: &a {<<: *a}", r"the alias \*a within its own value"),
    "anchor twice": ("a: &a 1\nb: &a [*a]", "the anchor &a twice"),
    "lists": ("[" * 100_000, f"more than {MAX_DEPTH} deep"),
    "blocks": ("- " * 100_000, f"more than {MAX_DEPTH} deep"),
    "keys": ("? " * 100_000, f"more than {MAX_DEPTH} deep"),
    "hexadecimal digits": ("a: 0x" + "f" * 8000, f"a number of 8,002 characters, allowed are {MAX_DIGITS}"),
    "octal key": ("? 0o" + "7" * 8000, "a number of 8,002 characters"),
    "number as key": ("5: 1", "a key '5', allowed is text of 1 to 200 printable characters"),
    "null as key": ("a: {null: 1}", "a key 'null', allowed is text"),
    "no key": ("? \n: 1", "a key '', allowed is text"),
    "date as key": ("2001-01-01: 1", "a key '2001-01-01', allowed is text"),
    "list as key": ("? [a]\n: 1", "a key that is a list or a mapping, allowed is text"),
    "escape in key": ('"\\e[31m": 1', r"a key '\\x1b\[31m', allowed is text"),
    "long key": ("? " + "k" * 100_000 + "\n: 1", "a key 'kkk.* … k*', allowed is text"),
    "decimal digits": ("a: " + "9" * 5000, "a number of 5,000 characters"),
    "fraction": ("a: 0." + "3" * 5000, "a number of 5,002 characters"),
    "tag": ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary, allowed are values without tags"),
    "tag of a list": ("a: !!python/object/apply:os.system [id]", "the tag .*os.system, allowed are values without"),
    "two documents": ("a: 1\n---\na: 2", "another document"),
    "duplicate key": ("a: 1\na: 2", "duplicate key"),
    "NUL": ("a: b\0c", "special characters are not allowed"),
    "date": ("a: 2001-99-99", "a value cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_one_line(name):
    text, problem = HOSTILE[name]
    with pytest.raises(PipelineError, match=rf"^params\.yaml: .*{problem}") as error:
        parse_yaml(text, "params.yaml")
    assert str(error.value).isprintable()


def test_what_is_within_the_limits_is_read():
    content = parse_yaml(f"a: {'1' * MAX_DIGITS}\nb: {'[' * 31}{']' * 31}\n{laughs(4)}", "params.yaml")
    assert content["a"] == int("1" * MAX_DIGITS)
    assert len(content["a3"]) == 9
    assert parse_yaml(f"a: {'x' * 8000}\nb: '{'1' * 8000}'", "params.yaml") == {"a": "x" * 8000, "b": "1" * 8000}
    merged = parse_yaml("a: &a {lr: 1, epochs: 2}\nb: {<<: *a, lr: 3}", "params.yaml")
    assert merged["b"] == {"lr": 3, "epochs": 2}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: (path.touch(), os.truncate(path, 2**30)), f"1,073,741,824 bytes, allowed are {MAX_BYTES:,}"),
        (lambda path: path.write_bytes("a: 1".encode("utf-16")), "not UTF-8 text"),
        (lambda path: path.write_bytes(b"a: \xe9"), "not UTF-8 text"),
    ],
)
def test_what_is_no_small_file_of_text_is_refused_at_once(tmp_path, make, problem):
    path = tmp_path / "params.yaml"
    make(path)
    with pytest.raises(PipelineError, match=f"^{re.escape(str(path))}: {problem}") as error:
        read_yaml(path)
    assert str(error.value).isprintable()


def test_all_of_them_take_less_than_half_a_gigabyte():
    code = (
        "import resource, tests.common.test_yaml_file as hostile\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "for text, problem in hostile.HOSTILE.values():\n"
        "    with hostile.pytest.raises(hostile.PipelineError): hostile.parse_yaml(text, 'params.yaml')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
