"""Recipes: small YAML files of parameters that belong together, in ``recipes/``."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.params.file import check_params, read_yaml
from pipeline.paths import RECIPES


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        PipelineError: there is none of that name.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise PipelineError(f"recipe: got {name!r}, allowed are {known or 'none: no folder recipes/ here'}")
    return path


def list_recipes() -> list[tuple[str, str]]:
    """Every recipe's name and the first line of its comment."""
    return [
        (path.stem, path.read_text("utf-8").splitlines()[0].removeprefix("# "))
        for path in sorted(RECIPES.glob("*.yaml"))
    ]


def apply_recipe(name: str, params_path: Path) -> list[str]:
    """Write a recipe's values into the parameters' file; comments, order and other values stay.

    Returns:
        A line for each value that changed.

    Raises:
        PipelineError: no such recipe, or the result is not allowed; then the file is left as it was.
    """
    recipe = read_yaml(recipe_path(name))
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    # A key set to nothing is shown as null, as the comments call it.
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL_TAG, "null"))
    content = read_yaml(params_path, yaml)
    changes = _merge(content, recipe, "")
    check_params(_plain(content), params_path)
    with replacing(params_path) as beside:
        yaml.dump(content, beside)
    return changes or [f"{params_path} has these values already"]


_NULL_TAG = "tag:yaml.org,2002:null"


def _merge(target: MutableMapping[str, Any], values: MutableMapping[str, Any], prefix: str) -> list[str]:
    changes = []
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            changes += _merge(target[key], value, f"{prefix}{key}.")
        elif key not in target or _plain(target[key]) != value:
            changes.append(f"{prefix}{key}: {_plain(target.get(key))} -> {value}")
            target[key] = value
    return changes


def _plain(value: Any) -> Any:
    """Strip ruamel's types, which carry comments."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, float) else value
