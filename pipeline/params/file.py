"""Reads and validates ``params.yaml``; each error is one line that names the key and what is allowed."""

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.common.text import listed, shortened, without_secrets
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.params.names import parameter_names, suggestion
from pipeline.params.schema import SHA256, ContradictionError, Params

MAX_LINES = 100
# The layers of network.models.Classifier by name: importing torch to look them up would take seconds.
_BLOCKS = [name for b in range(5) for name in (f"blocks.{b}", *(f"blocks.{b}.{layer}" for layer in range(4)))]
_HIDDEN = [name for h in ("hidden1", "hidden2") for name in (h, *(f"{h}.{layer}" for layer in range(3)))]
CLASSIFIER_LAYERS = ("blocks", *_BLOCKS, "flatten", *_HIDDEN, "output")


def load_params(path: Path) -> Params:
    """Read and validate the whole file.

    Raises:
        PipelineError: the file is missing, is not YAML, or a value is not allowed.
    """
    return check_params(read_yaml(path), path)


def check_params(content: Any, path: Path) -> Params:
    """Validate the content of ``path``.

    Raises:
        PipelineError: with one line for each value that is not allowed.
    """
    require_keys(content, path)
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        problems = list(error_lines(error, content).values())
    else:
        problems = list(contradictions(params))
    if problems:
        raise PipelineError("\n".join(f"{path}: {shortened(problem, 900)}" for problem in problems))
    return params


def require_keys(content: Any, path: Path) -> dict[str, Any]:
    """The content of ``path`` if it is a mapping, as that of an empty file is not.

    Raises:
        PipelineError: it is none.
    """
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: contains no keys; restore it with git checkout {path}")
    return content


def refusal(content: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    """Why the value of the parameter at ``keys``, or of a mapping that contains it, is not allowed; None if it is."""
    try:
        Params.model_validate(content)
    except ValidationError as error:
        lines = error_lines(error, content)
        parameters = (keys[:end] for end in range(len(keys), 0, -1) if find_field(keys[:end]))
        return next((lines[parameter] for parameter in parameters if parameter in lines), None)
    return None


def error_lines(
    error: ValidationError, content: dict[str, Any], schema: type[BaseModel] = Params
) -> dict[tuple[int | str, ...], str]:
    """One line for each invalid key of ``content``, which was validated by ``schema``; at the end the number of those
    beyond ``MAX_LINES``."""
    # Pydantic reports each member of a union, and a list as well as its items; one line per key is enough.
    problems = {_key(problem["loc"], schema): problem for problem in error.errors()}
    of_items = {keys[:-1] for keys in problems if isinstance(keys[-1], int)}
    found = [keys for keys in problems if keys not in of_items]
    lines = {keys: _error_line(problems[keys], content, schema) for keys in found[:MAX_LINES]}
    return lines | ({(): f"and {len(found) - MAX_LINES:,} more problems"} if len(found) > MAX_LINES else {})


def _key(loc: tuple[int | str, ...], schema: type[BaseModel]) -> tuple[int | str, ...]:
    """The keys of an error's location: section and parameter, then the index in a list, without members of a union."""
    depth = 2 if _section(loc[:1], schema) else 1
    return loc[: depth + 1] if len(loc) > depth and isinstance(loc[depth], int) else loc[:depth]


def _error_line(problem: Any, content: dict[str, Any], schema: type[BaseModel]) -> str:
    keys = _key(problem["loc"], schema)
    # A typing error can produce a key of any length.
    names = (without_secrets(str(key)) for key in keys)
    name = ".".join(key if len(key) <= 80 else f"{key[:80]}…" for key in names)
    if problem["type"] == "extra_forbidden":
        hint = suggestion(name, tuple(parameter_names(schema)))
        if hint:
            return f"{name}: unknown key; {hint}"
        allowed = (_section(keys[:-1], schema) or schema).model_fields
        return f"{name}: unknown key, allowed are {', '.join(allowed)}; remove it"
    if problem["type"] == "missing" and len(problem["loc"]) <= 2:
        return f"{name}: missing; add it, allowed is {allowed_values(keys, schema)}"
    if problem["type"] == "value_error":
        error = problem["ctx"]["error"]
        return f"{name}.{error.key}: {error}" if isinstance(error, ContradictionError) else f"{name}: {error}"
    if problem["type"] == "literal_error" and problem["loc"][-1] == "[key]":
        wrong = shortened(repr(problem["loc"][-2]), 80)
        return f"{name}: has the key {wrong}, allowed are {problem['ctx']['expected']}; correct it"
    found: Any = content
    for key in keys:
        found = found[key]
    hint = (not isinstance(found, dict) and _section(keys, schema) and suggestion(name)) or ""
    # Of -S model=resnet18, say where the value belongs.
    hint = f"; {hint}" if f" {name}." in hint else ""
    return f"{name}: got {_short.repr(found)}, allowed is {allowed_values(keys, schema)}{hint}"


class _Short(reprlib.Repr):
    """A value can be of any size; with YAML aliases, even in a small file."""

    def repr_str(self, text: str, level: int) -> str:
        # Of a URL without its end, the password would not be recognised.
        return super().repr_str(without_secrets(text), level)


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlevel = 3


def find_field(keys: tuple[str, ...]) -> FieldInfo | None:
    """The schema's field for a parameter such as ``("train", "lr")``, or for a key in one that is a mapping, such as
    ``("model", "kwargs", "output_stride")``; None if there is no such parameter."""
    section: type[BaseModel] = Params
    for position, key in enumerate(keys, 1):
        field = section.model_fields.get(key)
        if field is None:
            return None
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return field if position == len(keys) or get_origin(kind) is dict else None
        section = kind
    return None


def _section(keys: tuple[int | str, ...], schema: type[BaseModel]) -> type[BaseModel] | None:
    """The class of the section at ``keys``; None if there is no such section."""
    section = schema
    for key in keys:
        field = section.model_fields.get(str(key))
        kind = field.annotation if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return section


def allowed_values(keys: tuple[int | str, ...], schema: type[BaseModel] = Params) -> str:
    """Describe the values that the parameter at ``keys``, such as ``("train", "lr")``, may have."""
    if isinstance(keys[-1], int):
        keys = keys[:-1]
    section = _section(keys[:-1], schema)
    if section is None or _section(keys, schema) is not None:
        return "a section with its own keys"
    return _in_words(section.model_json_schema()["properties"][keys[-1]])


def _in_words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_in_words(member) for member in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = {
        "integer": "an integer",
        "number": "a number",
        "string": "a string",
        "array": "a list",
        "object": "a mapping",
        "null": "null",
        "boolean": "true or false",
    }[schema["type"]]
    if schema.get("pattern") == SHA256:
        return "64 hexadecimal digits"
    bounds = [
        f"{sign} {_number(schema[bound])}"
        for bound, sign in [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
        if bound in schema
    ]
    multiple = f"a multiple of {schema['multipleOf']}, " if "multipleOf" in schema else ""
    if schema.get("type") == "array":
        items = schema.get("items", {}).get("type")
        limit = f"at least {schema['minItems']} " if "minItems" in schema else ""
        limit += f"at most {schema['maxItems']} " if "maxItems" in schema else ""
        return f"a list of {limit}{'strings' if items == 'string' else 'mappings, each with a name'}"
    return kind + (f" ({multiple}{' and '.join(bounds)})" if bounds or multiple else "")


def _number(value: float) -> str:
    """A bound, without a fraction if it is a whole number."""
    return f"{int(value) if value == int(value) else value:,}"


def contradictions(params: Params) -> Iterator[str]:
    """Yield a line for each parameter that contradicts one of another section: key, what was found, what is allowed.

    What only the images can tell is checked by the stages, and what only a library can by ``preflight``.
    """
    count = params.data.class_count
    if params.train.loss == "bce" and count not in (2, None):
        yield f"train.loss: got bce, which needs 2 classes, not {count}; use cross_entropy"
    if params.data.source == "digits" and not params.data.test_fraction:
        for name in ("evaluate", "tsne", "predict"):
            if getattr(params, name).split == "test":
                yield f"{name}.split: got test, but data.test_fraction is 0; raise it, or choose auto or valid"
    for name in ("evaluate", "predict"):
        section = getattr(params, name)
        # The method is calibrated on valid.
        keys = ["test_views", *["views"] * (section.split == "train")]
        missing = [f"augment.{key}" for key in keys if not getattr(params.augment, key)]
        if section.tta == "views" and missing:
            yield f"{name}.tta: got views, but {missing[0]} is 0; raise that, or set {name}.tta to auto or none"
    start, size = params.train.start_size, params.augment.image_size
    if start is not None and params.model.name == "classifier":
        yield f"train.start_size: got {start}, allowed with classifier, which takes images of one size, is null"
    elif start is not None and start >= size:
        yield f"train.start_size: got {start}, allowed is less than augment.image_size ({size}); lower it, or use null"
    if params.model.name == "classifier":
        layers = () if params.tsne.layers == "auto" else params.tsne.layers
        unknown = [_short.repr(layer) for layer in layers if layer not in CLASSIFIER_LAYERS]
        if unknown:
            allowed = f"auto, {', '.join(CLASSIFIER_LAYERS)}"
            yield f"tsne.layers: got {listed(unknown)}, allowed with classifier are {allowed}"


def in_yaml(value: Any) -> str:
    """A value as YAML text on one line: ``null``, ``true``, ``[a, b]``, ``{name: Affine}``."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {in_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(in_yaml, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
