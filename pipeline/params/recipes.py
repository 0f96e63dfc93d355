"""Recipes: YAML files in ``recipes/`` with the parameters of one task."""

import io
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from pipeline.common.files import write_text
from pipeline.common.paths import RECIPES
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.params.file import check_params
from pipeline.params.names import unknown_keys


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        PipelineError: there is no recipe of that name.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise PipelineError(f"recipe: got {name!r}, allowed are {known or 'none: no folder recipes/ here'}")
    return path


class Recipe(NamedTuple):
    """The head of a recipe: the first comment line is its title, the second what was measured."""

    name: str
    title: str
    measured: str


def list_recipes() -> list[Recipe]:
    """All recipes, with what was measured: score, seeds, device and minutes, or "not measured"."""
    return sorted(_describe(path) for path in RECIPES.glob("*.yaml"))


def _describe(path: Path) -> Recipe:
    title, measured = [*path.read_text("utf-8").splitlines(), "", ""][:2]
    said = measured.partition("Measured: ")[2]
    return Recipe(path.stem, title.removeprefix("# "), said or "not measured")


def apply_recipe(name: str, params_path: Path) -> list[str]:
    """Write a recipe's values into ``params.yaml``, keeping comments, order and other values.

    Returns:
        One line for each value that changed.

    Raises:
        PipelineError: no such recipe, or the result is not valid; the file is then left unchanged.
    """
    yaml = _round_trip_yaml()
    content, recipe = read_yaml(params_path, yaml), read_yaml(recipe_path(name), yaml)
    sections = [key for key, values in recipe.items() if isinstance(values, dict)]
    unknown = unknown_keys([*recipe, *(f"{section}.{key}" for section in sections for key in recipe[section])])
    if unknown:
        raise PipelineError("\n".join(f"{recipe_path(name)}: {line}" for line in unknown))
    changes = _merge(content, recipe, "")
    check_params(_plain(content), params_path)
    text = io.StringIO()
    yaml.dump(content, text)
    write_text(params_path, _tidy(text.getvalue()))
    return changes or [f"{params_path} already has these values"]


def _round_trip_yaml() -> YAML:
    """A YAML reader and writer that keeps comments, order and the style of each list."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    # By default ruamel writes nothing for None.
    null = "tag:yaml.org,2002:null"
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(null, "null"))
    return yaml


def _tidy(text: str) -> str:
    """Put comments two spaces after changed values, and blank lines only before sections."""
    text = re.sub(r"^( *[^\s#][^#\n'\"]*?) *(# .*)$", r"\1  \2", text, flags=re.MULTILINE)
    text = re.sub(r"\n+(?= +- )", "\n", text)
    return re.sub(r"\n+(?=\w+:\n)", "\n\n", text)


def _merge(target: MutableMapping[str, Any], values: MutableMapping[str, Any], prefix: str) -> list[str]:
    changes = []
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            changes += _merge(target[key], value, f"{prefix}{key}.")
        elif key not in target or _plain(target[key]) != _plain(value):
            changes.append(f"{prefix}{key}: {_plain(target.get(key))} -> {_plain(value)}")
            target[key] = value
    return changes


def _plain(value: Any) -> Any:
    """Convert ruamel's types, which carry comments, to plain ones."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, float) else value
