"""Recipes: YAML files in ``recipes/`` with the parameters of one task."""

import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from pipeline.common.files import write_text
from pipeline.common.paths import RECIPES
from pipeline.common.yaml_file import parse_yaml, read_yaml
from pipeline.errors import PipelineError
from pipeline.params.file import check_params, require_keys
from pipeline.params.names import unknown_keys

Keys = tuple[str, ...]  # a section and a parameter, or one of them


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
    """Write a recipe's values into ``params.yaml``; everything else in that file stays as it is.

    A recipe for any folder of images does not replace the section ``data`` of a user's own images.

    Returns:
        One line for each value that changed.

    Raises:
        PipelineError: no such recipe, or the result is not valid; the file is then left unchanged.
    """
    path = recipe_path(name)
    content, recipe = (require_keys(read_yaml(file), file) for file in (params_path, path))
    sections = [key for key, values in recipe.items() if isinstance(values, dict)]
    unknown = unknown_keys([*recipe, *(f"{section}.{key}" for section in sections for key in recipe[section])])
    if unknown:
        raise PipelineError("\n".join(f"{path}: {line}" for line in unknown))
    own = _keep_own_images(content, recipe)
    changes = list(_changes(content, recipe))
    kept = {key: content[key] for key in sections if isinstance(content.get(key), dict)}
    expected = content | {key: kept[key] | value if key in kept else value for key, value in recipe.items()}
    check_params(expected, params_path)
    keys = [keys for keys, *_ in changes]
    text = _with_values(params_path.read_text("utf-8-sig"), path.read_text("utf-8-sig"), keys)
    if parse_yaml(text, str(params_path)) != expected:
        raise PipelineError(f"{params_path}: its layout cannot be kept; write each parameter on a line of its own")
    write_text(params_path, text)
    lines = [f"{'.'.join(keys)}: {old} -> {new}" for keys, old, new in changes]
    return own + (lines or [f"{params_path} already has these values"])


def _keep_own_images(content: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """Remove the recipe's values of ``data`` if its images are any folder and those of ``params.yaml`` the user's own,
    which are those of no recipe; return what to say about it."""
    data, values = content.get("data"), recipe.get("data")
    if (
        not isinstance(values, dict)
        or values.get("source") != "folder"
        or not isinstance(data, dict)
        or data.get("source") not in ("folder", "archive")
    ):
        return []
    for path in RECIPES.glob("*.yaml"):
        other = None
        with suppress(PipelineError):  # it may be a draft
            other = require_keys(read_yaml(path), path).get("data")
        if not isinstance(other, dict) or not other:
            continue
        # The archive of a recipe is not the user's, whatever else has changed; the folder of one may be.
        compared = ("source", "location") if data["source"] == "archive" else tuple(other)
        if all(data.get(key) == other.get(key) for key in compared):
            return []
    recipe["data"] = {key: value for key, value in values.items() if key not in data}
    return [f"data: kept, as it has your own images ({data['source']} {data.get('location')})"]


def _changes(content: dict[str, Any], recipe: dict[str, Any]) -> Iterator[tuple[Keys, Any, Any]]:
    """The keys of each parameter that differs, or of a section that is missing, with the old and the new value."""
    for section, values in recipe.items():
        if isinstance(values, dict) and isinstance(content.get(section), dict):
            yield from (((section, key), old, new) for key, old, new in _different(content[section], values))
        else:
            yield from (((key,), old, new) for key, old, new in _different(content, {section: values}))


def _different(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The keys whose values differ, which may be mappings, with both values."""
    for key, value in after.items():
        if key not in before or before[key] != value:
            yield key, before.get(key), value


def _with_values(text: str, recipe: str, changed: list[Keys]) -> str:
    """The text of ``params.yaml`` with the values of some keys as the recipe writes them; comments stay."""
    target, source = _nodes(text), _nodes(recipe)
    places = {keys: _place(text, target, keys) for keys in changed}
    for keys, place in sorted(places.items(), key=lambda item: item[1], reverse=True):
        text = text[: place.start] + _entry(keys, place, recipe, *source[keys]) + text[place.end :]
    return text


def _nodes(text: str) -> dict[Keys, tuple[Node, Node]]:
    """The nodes of the key and the value of each section and parameter; their marks are places in the text."""
    nodes: dict[Keys, tuple[Node, Node]] = {}
    for key, value in YAML(typ="safe", pure=True).compose(text).value:
        nodes[key.value,] = key, value
        if isinstance(value, MappingNode):
            nodes |= {(key.value, inner.value): (inner, node) for inner, node in value.value}
    return nodes


class _Place(NamedTuple):
    """What a parameter's new lines replace: from the start of its key to the end of its last line."""

    start: int
    end: int
    column: int
    comments: list[str]


def _place(text: str, nodes: dict[Keys, tuple[Node, Node]], keys: Keys) -> _Place:
    """The place of a parameter, or, if it is missing, that after the last one of its section or of the file."""
    if keys in nodes:
        key, value = nodes[keys]
        colon, end = text.index(":", key.end_mark.index) + 1, _end(text, value)
        last = (text + "\n").index("\n", max(colon, end))
        notes = [*text[colon : value.start_mark.index].splitlines(), text[max(colon, end) : last]]
        comments = [note.strip() for note in notes if note.strip()]
        return _Place(key.start_mark.index, last, key.start_mark.column, comments)
    siblings = [node for other, node in nodes.items() if other[:-1] == keys[:-1]]
    last = (text + "\n").index("\n", _end(text, siblings[-1][1]))
    return _Place(last, last, siblings[-1][0].start_mark.column, [])


def _entry(keys: Keys, place: _Place, recipe: str, key: Node, value: Node) -> str:
    """The lines of a parameter: the value as in the recipe, the comments as they were."""
    margin, first = " " * place.column, place.comments[:1]
    start, end = value.start_mark.index, _end(recipe, value)
    if block := isinstance(value, CollectionNode) and not value.flow_style:
        start = recipe.rindex("\n", 0, start) + 1
        indent = " " * (place.column + value.start_mark.column - key.start_mark.column)
        lines = textwrap.indent(textwrap.dedent(recipe[start:end]), indent).splitlines()
    head = f"{keys[-1]}:" if block else f"{keys[-1]}: {recipe[start:end]}"
    entry = [
        "  ".join([head, *first]),
        *(margin + comment for comment in place.comments[1:]),
        *(lines if block else []),
    ]
    return ("" if place.end > place.start else "\n" + margin) + "\n".join(entry)


def _end(text: str, node: Node) -> int:
    """Where a value ends; the mark of a block collection is that of what follows it."""
    while isinstance(node, CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    return len(text[: node.end_mark.index].rstrip())
