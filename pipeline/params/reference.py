"""The reference of all parameters: allowed values, current value, meaning, and the stages that read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.params.file import allowed_values, check_params, in_yaml
from pipeline.params.names import suggestion
from pipeline.params.schema import Params
from pipeline.progress import say_table


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        key: section and name, ``train.lr``.
        allowed: the allowed values in words.
        value: the current value as YAML, on one line.
        meaning: the description of the field.
        stages: the stages that read it; they and those that depend on them run again when it changes.
    """

    key: str
    allowed: str
    value: str
    meaning: str
    stages: tuple[str, ...]


def parameters(content: Mapping[str, Any], workflow: Mapping[str, Any]) -> list[Parameter]:
    """Every parameter in the order of ``params.yaml``.

    Args:
        content: of ``params.yaml``.
        workflow: the content of ``dvc.yaml``.
    """
    sections = sections_by_name()
    keys = [
        key for name in content for key in ([f"{name}.{key}" for key in content[name]] if name in sections else [name])
    ]
    return [_parameter(key, content, workflow) for key in keys]


def sections_by_name() -> dict[str, type[BaseModel]]:
    """The classes of the sections by their names."""
    kinds = {name: field.annotation for name, field in Params.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _parameter(key: str, content: Mapping[str, Any], workflow: Mapping[str, Any]) -> Parameter:
    section, _, name = key.rpartition(".")
    field = (sections_by_name()[section] if section else Params).model_fields[name]
    value = content[section][name] if section else content[name]
    stages = [stage for stage, keys in workflow["stages"].items() if {key, section} & set(keys.get("params", []))]
    return Parameter(key, allowed_values(tuple(key.split("."))), in_yaml(value), field.description or "", tuple(stages))


def print_parameters(path: Path, key: str | None) -> None:
    """Print one parameter, or a table of a section or of all parameters.

    Raises:
        PipelineError: the file is invalid, or there is no such parameter.
    """
    content = read_yaml(path)
    check_params(content, path)
    rows = parameters(content, read_yaml(path.with_name("dvc.yaml")))
    chosen = [row for row in rows if key in (None, row.key, row.key.rpartition(".")[0])]
    if not chosen:
        hint = suggestion(str(key)) or "python -m pipeline params lists all"
        raise PipelineError(f"params: got {key!r}, allowed is a parameter or a section; {hint}")
    columns = ("parameter", "is", "allowed", "meaning", "read by")
    if len(chosen) == 1:
        say_table(zip(columns, _cells(chosen[0]), strict=True), ("", ""), box=None, show_header=False, pad_edge=False)
    else:
        say_table(map(_cells, chosen), columns)


def _cells(row: Parameter) -> tuple[str, ...]:
    return row.key, row.value, row.allowed, row.meaning, ", ".join(row.stages)
