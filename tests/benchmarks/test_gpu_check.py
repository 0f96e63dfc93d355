"""``benchmarks/gpu_check.py`` on the CPU, with nothing but what its docstring says that it needs."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
# Runs a script as if only some packages, and those that they require, were installed.
ISOLATED = """
import importlib.metadata, re, runpy, sys
from importlib.machinery import PathFinder

def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")

allowed, rest = set(), ["torch", "torchvision"]
while rest:
    name = rest.pop()
    if name in allowed:
        continue
    allowed.add(name)
    try:
        required = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    rest += [name_of(line) for line in required if "extra ==" not in line]
allowed |= set(map(name_of, sys.argv[1].split()))
owners = importlib.metadata.packages_distributions()
missing = {module for module, names in owners.items() if not allowed & set(map(name_of, names))} - {"pipeline"}

class Installed:
    def find_spec(self, name, path=None, target=None):
        return None if name in missing else PathFinder.find_spec(name, path, target)

sys.meta_path = [Installed() if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def sections(monkeypatch):
    """The module that runs sections; scripts in ``benchmarks`` import it like this."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("sections")


def carried() -> list[str]:
    """The packages that the docstring downloads."""
    download = SCRIPT.read_text().split("-d wheels")[1].split("\n\n")[0]
    return re.findall(r"([\w.-]+)==", download)


def test_everything_runs_on_the_cpu_without_packages_that_are_not_listed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPT.parent}:{ROOT}"}
    out = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-c", ISOLATED, " ".join(carried()), str(SCRIPT)]
    options = ["--quick", "--device", "cpu", "--out", str(out)]
    result = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line for line in lines if "error" in line] == [], out.with_suffix(".log").read_text()
    skipped = {line["section"].removesuffix(", deterministic") for line in lines if "skipped" in line}
    assert skipped == {"synchronisations", "modes: graph", "modes: compile", "modes: compile + graph"}
    same = {line["name"]: line["value"] for line in lines if line["unit"] == "same bits"}
    assert len(same) == 2 and set(same.values()) == {1.0}
    assert all(line["value"] > 0 for line in lines if line["unit"] not in ("", "same bits"))
    assert all(line["device"] and line["versions"]["torch"] for line in lines)
    table = subprocess.run(
        [sys.executable, str(SCRIPT), "--table", str(out)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert table.count("\n| ") == len(lines) + 2  # the heading, the line below it
    listed = (SCRIPT.parent / "RESULTS.md").read_text()
    assert all(f"| {line['section']} |" in listed for line in lines)


def test_a_section_that_fails_leaves_a_line_and_the_next_ones_run(sections, tmp_path):
    def raises(settings):
        yield sections.Figure("before", 1.0, "s")
        raise ValueError("no such thing\nand more")

    def skips(settings):
        raise sections.SkippedError("no GPU")
        yield

    def dies(settings):
        os.kill(os.getpid(), 9)
        yield

    def hangs(settings):
        yield sections.Figure("before", 2.0, "s")
        time.sleep(60)

    class Settings:
        start = "fork"

    works = [raises, skips, dies, hangs, raises]
    chosen = [sections.Section(work.__name__, 2, work) for work in works]
    facts = {"device": "some GPU", "versions": {"torch": "2.11"}}
    sections.run_sections(chosen, Settings(), tmp_path / "out.jsonl", facts, minutes=1)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["section"], line["value"], line.get("error"), line.get("skipped")) for line in lines] == [
        ("raises", 1.0, None, None),
        ("raises", None, "ValueError: no such thing", None),
        ("skips", None, None, "no GPU"),
        ("dies", None, "the process ended with the code -9", None),
        ("hangs", 2.0, None, None),
        ("hangs", None, "stopped after 2 s", None),
        ("raises", 1.0, None, None),
        ("raises", None, "ValueError: no such thing", None),
    ]
    sections.run_sections(chosen[:1], Settings(), tmp_path / "late.jsonl", facts, minutes=0)
    assert json.loads((tmp_path / "late.jsonl").read_text())["skipped"] == "the time was over"


def test_the_table_says_what_was_not_measured(sections):
    chosen = [sections.Section(name, 1, lambda settings: iter(())) for name in ("one", "two", "three")]
    facts = {"device": "some GPU", "versions": {"torch": "2.11"}}
    lines = [
        {"section": "one", "name": "speed", "value": 12345.6, "unit": "images/s", **facts},
        {"section": "one", "name": "twice", "value": 0.0, "unit": "same bits", **facts},
        {"section": "two", "name": "", "value": None, "unit": "", "error": "stopped after 60 s", **facts},
    ]
    assert sections.table(chosen, lines).splitlines() == [
        "some GPU; torch 2.11",
        "",
        "| section | what | measured |",
        "| --- | --- | --- |",
        "| one | speed | 12,346 images/s |",
        "| one | twice | **other bits** |",
        "| two |  | not measured: stopped after 60 s |",
        "| three | | not measured |",
    ]
