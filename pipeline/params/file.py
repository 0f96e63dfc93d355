"""Reading and checking ``params.yaml``; every complaint is one line that names the key and what is allowed."""

import difflib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import PipelineError
from pipeline.params.schema import ContradictionError, Params

# The layers of models.Classifier by name, so that no command has to import torch in order to know them.
_BLOCKS = [name for b in range(5) for name in (f"blocks.{b}", *(f"blocks.{b}.{layer}" for layer in range(4)))]
_HIDDEN = [name for h in ("hidden1", "hidden2") for name in (h, *(f"{h}.{layer}" for layer in range(3)))]
CLASSIFIER_LAYERS = ("blocks", *_BLOCKS, "flatten", *_HIDDEN, "output")


def contradictions(params: Params) -> Iterator[str]:
    """Give a line for each parameter that does not go with one of another section: key, what was found, what is
    allowed.

    What only the images can tell is left to the stages, and what only a library can to ``preflight``.
    """
    yield from _of_classes(params)
    yield from _of_splits(params)
    yield from _of_views(params)
    yield from _of_layers(params)


def _of_classes(params: Params) -> Iterator[str]:
    count = params.data.class_count
    if count is None:
        return
    if params.train.loss == "bce" and count != 2:
        yield f"train.loss: got bce, which needs 2 classes, not {count}; use cross_entropy"
    most = max(count - 1, 2)
    if params.evaluate.top_k > most:
        allowed = "2" if most == 2 else f"2 to {most}"
        yield f"evaluate.top_k: got {params.evaluate.top_k}, allowed with {count} classes is {allowed}; lower it"


def _of_splits(params: Params) -> Iterator[str]:
    if params.data.source != "digits" or params.data.test_fraction:
        return
    for name, section in (("evaluate", params.evaluate), ("tsne", params.tsne), ("predict", params.predict)):
        if section.split == "test":
            yield f"{name}.split: got test, but data.test_fraction is 0; raise that, or choose auto or valid"


def _of_views(params: Params) -> Iterator[str]:
    for name, section in (("evaluate", params.evaluate), ("predict", params.predict)):
        key = "views" if section.split == "train" else "test_views"
        if section.tta and not getattr(params.augment, key):
            yield f"{name}.tta: got true, but augment.{key} is 0; set that to 1 or more, or {name}.tta to false"


def _of_layers(params: Params) -> Iterator[str]:
    if params.model.name != "classifier":
        return
    for layer in params.tsne.layers:
        if layer not in CLASSIFIER_LAYERS:
            yield f"tsne.layers: got {layer!r}, allowed with classifier are {', '.join(CLASSIFIER_LAYERS)}; change it"


def load_params(path: Path) -> Params:
    """Read and validate the whole file.

    Raises:
        PipelineError: the file is missing, is no YAML, or a value is not allowed.
    """
    return check_params(read_yaml(path), path)


def read_yaml(path: Path, yaml: YAML | None = None) -> Any:
    """Read a YAML 1.2 file: DVC writes ``3e-05``, which YAML 1.1 takes for a string."""
    try:
        return (yaml or YAML(typ="safe", pure=True)).load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run the command in the repository's root folder") from None
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise PipelineError(f"{path}: {where}{problem}; mend the YAML there") from None
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        # The constructors of dates, numbers and keys let their own errors through.
        problem = " ".join(str(error).split())
        raise PipelineError(f"{path}: a value cannot be read ({problem}); mend the YAML") from None


def check_params(content: Any, path: Path) -> Params:
    """Validate what was read from ``path``."""
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: holds no keys; restore it with git checkout {path}")
    unnamed = [f"{path}: {key}: unknown key, allowed are plain names; remove it" for key in _unnamed_keys(content)]
    if unnamed:
        raise PipelineError("\n".join(unnamed))
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise PipelineError("\n".join(f"{path}: {line}" for line in complaints(error, content).values())) from None
    problems = [f"{path}: {line}" for line in contradictions(params)]
    if problems:
        raise PipelineError("\n".join(problems))
    return params


def refusal(content: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    """Why the parameter at ``keys`` may not have the value that it has, None where it may; what it has to do with
    other parameters does not count."""
    try:
        Params.model_validate(content)
    except ValidationError as error:
        return complaints(error, content).get(keys)
    return None


def complaints(
    error: ValidationError, content: dict[str, Any], schema: type[BaseModel] = Params
) -> dict[tuple[int | str, ...], str]:
    """A line for each wrong key of what was validated by ``schema``."""
    # Each member of a union complains of a wrong value, and a list beside its items; one line a key is enough.
    lines = {_key(problem["loc"], schema): _complaint(problem, content, schema) for problem in error.errors()}
    of_items = {keys[:-1] for keys in lines if isinstance(keys[-1], int)}
    return {keys: line for keys, line in lines.items() if keys not in of_items}


def _unnamed_keys(content: dict[Any, Any]) -> Iterator[str]:
    """The keys that are no text, or none that could be printed in a line."""
    sections = [(f"{name}.", section) for name, section in content.items() if isinstance(section, dict)]
    for prefix, section in [("", content), *((prefix, keys) for prefix, keys in sections if prefix[:-1] in _SECTIONS)]:
        yield from (f"{prefix}{key!r}" for key in section if not (isinstance(key, str) and key and key.isprintable()))


_SECTIONS = set(Params.model_fields)


def _key(loc: tuple[int | str, ...], schema: type[BaseModel]) -> tuple[int | str, ...]:
    """The keys of an error's place: section and parameter, then the position in a list; no member of a union."""
    depth = 2 if _section(loc[:1], schema) else 1
    return loc[: depth + 1] if len(loc) > depth and isinstance(loc[depth], int) else loc[:depth]


def _complaint(problem: Any, content: dict[str, Any], schema: type[BaseModel]) -> str:
    keys = _key(problem["loc"], schema)
    # A slip in the text can make a key of any length.
    name = ".".join(str(key) if len(str(key)) <= 80 else f"{str(key)[:80]}…" for key in keys)
    if problem["type"] == "extra_forbidden":
        allowed = list((_section(keys[:-1], schema) or schema).model_fields)
        close = difflib.get_close_matches(str(keys[-1]), allowed, n=1)
        hint = f"did you mean {close[0]}?" if close else "remove it"
        return f"{name}: unknown key, allowed are {', '.join(allowed)}; {hint}"
    if problem["type"] == "missing" and len(problem["loc"]) <= 2:
        return f"{name}: missing; add it, allowed is {allowed_values(keys, schema)}"
    if problem["type"] == "value_error":
        error = problem["ctx"]["error"]
        return f"{name}.{error.key}: {error}" if isinstance(error, ContradictionError) else f"{name}: {error}"
    found: Any = content
    for key in keys:
        found = found[key]
    return f"{name}: got {_short.repr(found)}, allowed is {allowed_values(keys, schema)}"


# A value may be of any size, and by aliases of YAML a small file may hold a huge one.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlevel = 3


def find_field(keys: tuple[str, ...]) -> FieldInfo | None:
    """The schema's field of a parameter, ``("train", "lr")`` for one; None where there is no such parameter."""
    section = _section(keys[:-1], Params)
    return section.model_fields.get(keys[-1]) if section and not _section(keys, Params) else None


def _section(keys: tuple[int | str, ...], schema: type[BaseModel]) -> type[BaseModel] | None:
    """The class of the section at ``keys``, None where there is no section."""
    section = schema
    for key in keys:
        field = section.model_fields.get(str(key))
        kind = field.annotation if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return section


def allowed_values(keys: tuple[int | str, ...], schema: type[BaseModel] = Params) -> str:
    """Say in words which values the parameter at ``keys`` may have, ``("train", "lr")`` for one."""
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
        "string": "a text",
        "array": "a list",
        "null": "null",
        "boolean": "true or false",
    }[schema["type"]]
    if schema.get("pattern") == r"^[0-9a-f]{64}$":
        return "64 hexadecimal digits"
    bounds = [
        f"{sign} {_number(schema[bound])}"
        for bound, sign in [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
        if bound in schema
    ]
    multiple = f"a multiple of {schema['multipleOf']}, " if "multipleOf" in schema else ""
    if schema.get("type") == "array":
        items = schema.get("items", {}).get("type")
        least = f"at least {schema['minItems']} " if "minItems" in schema else ""
        return f"a list of {least}{'texts' if items == 'string' else 'mappings, each with a name'}"
    return kind + (f" ({multiple}{' and '.join(bounds)})" if bounds or multiple else "")


def _number(value: float) -> str:
    """A bound as people write it: a whole number without a fraction."""
    return f"{int(value) if value == int(value) else value:,}"
