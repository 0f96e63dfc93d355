"""Mutations of the text of a params.yaml, a sweep and a table of labels: valid, or refused in few short lines.

The number of a mutation is its random seed; to run others, or a single one:

    PIPELINE_TEXTS=200-10200 pytest -s -m slow tests/params/test_hostile_text.py
"""

import os
import random
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.common.yaml_file import read_yaml
from pipeline.download.labels import read_labels
from pipeline.errors import PipelineError
from pipeline.experiments.sweep_file import read_sweep
from pipeline.params.file import MAX_LINES, load_params
from tests.support.trees import tree_of

ROOT = Path(__file__).parents[2]
FIRST, END = map(int, os.environ.get("PIPELINE_TEXTS", "0-10000").split("-"))
PARAMS = (ROOT / "params.yaml").read_text("utf-8")
SWEEP = (ROOT / "sweeps/learning_rate.yaml").read_text("utf-8")
LABELS = "path,label,split,group\n" + "".join(
    f"{split}/{index}.png,{'cat' if index % 2 else 'dog'},{split},{index // 4}\n"
    for split in ("train", "valid")
    for index in range(8)
)
IMAGES = {line.split(",")[0]: b"" for line in LABELS.splitlines()[1:]}
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
TOKENS = [
    *("[" * 60, "{a: " * 60, "- " * 60, "? ", "&a ", "*a", "&a [*a]", "<<: *a", "<<: [*a, *a]", f"\n{LAUGHS}\n"),
    *("!!binary aGk=", "!!python/name:os.system", "!x 5", "\n---\n", "%YAML 1.1\n---\n", "'", '"', "|", ">", "#", ":"),
    *("0x" + "f" * 8000, "9" * 5000, "0o17", "1e400", "-.inf", ".nan", "1e-320", "٣", "²", "1_000", "12:30:45", "~"),
    *("\0", "\x1b[31m", "\u202e", "\ufeff", "\x85", "\u2028", "\ud800", "é", "\t", "\r", "\n", " ", ",", ";", "\\"),
    *("2001-99-99", "2001-01-01", "x" * 150_000, "constructor", "__proto__", "{low: 0, high: 1, step: 1e-300}"),
    *("transforms: [{name: Lambda, image: x}]", "classes: [" + "a, " * 300 + "b]", "grid", "null", "true", "yes"),
]


def mutated(text, draw):
    """The text with one to four changes: a token put in or in place of a word, or a part removed or repeated."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice([0, 0, 1, 5, 40, 400]))
        change = draw.choice(["token"] * 6 + ["remove", "repeat", "byte"])
        new = {
            "token": draw.choice(TOKENS),
            "remove": "",
            "repeat": text[start:end] * draw.choice([2, 50]),
            "byte": chr(draw.randrange(0x3000)),
        }[change]
        text = text[:start] + new + text[end:]
    return text


def outcome(number, base):
    """Read the mutation as what it is; return whether it is valid. Anything but a short PipelineError raises."""
    draw = random.Random(number)
    kind, path = draw.choice(["params", "params", "sweep", "labels"]), Path("params.yaml")
    text = mutated({"params": PARAMS, "sweep": SWEEP, "labels": LABELS}[kind], draw)
    content = text.encode(draw.choice(["utf-8"] * 9 + ["utf-16"]), "surrogatepass")
    path.write_bytes(content)
    started = time.process_time()
    try:
        if kind == "params":
            load_params(path)
        elif kind == "sweep":
            read_sweep(path, base, [])
        else:
            read_labels("set", tree_of(IMAGES | {"labels.csv": content}), "labels.csv", None)
    except PipelineError as error:
        lines = str(error).splitlines()
        assert 0 < len(lines) <= MAX_LINES + 1
        assert max(map(len, lines)) < 1000, lines[0][:2000]
        return f"{kind} refused"
    finally:
        assert time.process_time() - started < 10
    return f"{kind} valid"


@pytest.mark.parametrize(
    "numbers", [pytest.param(range(200), id="some"), pytest.param(range(FIRST, END), id="all", marks=pytest.mark.slow)]
)
def test_every_text_is_valid_or_refused_in_short_lines_with_little_time_and_memory(workspace, numbers):
    base, outcomes = read_yaml(ROOT / "params.yaml"), Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        try:
            outcomes[outcome(number, base)] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    print(dict(outcomes))
    assert min(outcomes[f"{kind} refused"] for kind in ("params", "sweep", "labels")) >= len(numbers) / 20
    assert outcomes["params valid"] >= len(numbers) / 100
