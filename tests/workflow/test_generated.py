"""Texts that are derived from the schema are up to date; make generate writes them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params.file import load_params
from pipeline.params.schema import Params
from tools.generate import generated

ROOT = Path(__file__).parents[2]
BROKEN = {
    "params.yaml": ("# learning rate; the peak", "# learning rate: the peak"),
    "recipes/digits.yaml": ("  epochs: 15\n", "  epochs: 14\n"),
    "docs/parameters.md": ("| `train.lr` |", "| `train.rate` |"),
}


@pytest.fixture
def copy(tmp_path):
    """A copy of the derived texts and of their sources."""
    for folder in ("pipeline", "tools", "recipes", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def generate(root, *arguments):
    return subprocess.run([sys.executable, "tools/generate.py", *arguments], cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize("name", BROKEN)
def test_text_is_up_to_date(name):
    assert (ROOT / name).read_text("utf-8") == generated()[ROOT / name], f"{name} is out of date: run make generate"


@pytest.mark.parametrize("name", BROKEN)
def test_an_outdated_text_is_reported_and_written_again(copy, name):
    path = copy / name
    before = path.read_text("utf-8")
    assert before.count(BROKEN[name][0]) == 1
    path.write_text(before.replace(*BROKEN[name]), "utf-8")
    check = generate(copy, "--check")
    assert (check.returncode, check.stdout) == (1, f"{name}: out of date; run make generate\n")
    assert generate(copy).stdout == f"{name}: written\n"
    assert path.read_text("utf-8") == before
    assert generate(copy, "--check").returncode == 0


def test_a_changed_default_changes_the_recipe_and_the_page_and_nothing_else(copy):
    path = copy / "params.yaml"
    path.write_text(path.read_text("utf-8").replace("  epochs: 15  #", "  epochs: 16  #"), "utf-8")
    assert generate(copy).stdout == "recipes/digits.yaml: written\ndocs/parameters.md: written\n"
    assert "| `16` |" in (copy / "docs/parameters.md").read_text("utf-8")


def test_parameters_of_other_data_are_not_taken_for_the_defaults(copy):
    path = copy / "params.yaml"
    before = (copy / "recipes/digits.yaml").read_text("utf-8")
    text = path.read_text("utf-8").replace("source: digits", "source: folder").replace("location: null", "location: x")
    path.write_text(text, "utf-8")
    result = generate(copy)
    assert result.returncode == 1
    assert result.stderr.startswith("error: params.yaml: data.source is not digits; run python -m pipeline recipe")
    assert (copy / "recipes/digits.yaml").read_text("utf-8") == before


def test_page_lists_every_parameter_with_its_default_and_its_allowed_values():
    text = (ROOT / "docs/parameters.md").read_text("utf-8")
    values = load_params(ROOT / "params.yaml").model_dump(mode="json")
    flat = {"seed": values.pop("seed")} | {f"{s}.{k}": v for s, keys in values.items() for k, v in keys.items()}
    rows = {row[0].strip("` "): row[1:] for line in text.splitlines() if len(row := line.split(" | ")) == 5}
    rows = {key.removeprefix("| `"): row for key, row in rows.items() if "." in key or "seed" in key}
    assert rows.keys() == flat.keys()
    for key, (allowed, default, meaning, stages) in rows.items():
        assert YAML(typ="safe", pure=True).load(default.strip("`")) == flat[key]
        assert allowed and meaning and re.fullmatch(r"[a-z_, ]+ \|", stages), key


def test_descriptions_are_comments_that_ruamel_reads():
    params = YAML().load(ROOT / "params.yaml")
    section = params["train"]
    for name, field in Params.model_fields["train"].annotation.model_fields.items():
        assert section.ca.items[name][2].value.splitlines()[0] == f"# {field.description}"
