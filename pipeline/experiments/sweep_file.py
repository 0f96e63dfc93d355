"""Reading and checking a sweep's file; every complaint is one line that names the file and the key."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from pipeline.common.paths import PARAMS
from pipeline.errors import PipelineError, listed
from pipeline.experiments.sandbox import override_key
from pipeline.params.file import check_params, complaints, find_field, read_yaml, refusal
from pipeline.params.schema import Params, Section

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Metric:
    """A figure of ``results/metrics/{stage}.json``, whether more of it is better, and its curve while training runs,
    relative to DVCLive's folder, None where there is none."""

    stage: str
    key: str
    direction: Literal["maximize", "minimize"]
    curve: str | None = None


METRICS = {
    "train.valid_accuracy": Metric("train", "valid_accuracy", "maximize", "valid/accuracy"),
    "train.valid_loss": Metric("train", "valid_loss", "minimize", "valid/loss"),
    "evaluate.accuracy": Metric("evaluate", "accuracy", "maximize"),
    "evaluate.balanced_accuracy": Metric("evaluate", "balanced_accuracy", "maximize"),
    "evaluate.macro_f1": Metric("evaluate", "macro_f1", "maximize"),
    "evaluate.log_loss": Metric("evaluate", "log_loss", "minimize"),
}


class SweepFile(Section):
    """The file's own keys; a default here changes no run, and so may stand in the code."""

    metric: str = Field("train.valid_accuracy", description="what is optimised")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of the search")
    sampler: Any = "tpe"
    pruner: Any = None
    space: Any


class Tpe(Section):
    """Tree-structured Parzen estimator (Bergstra et al. 2011)."""

    name: Literal["tpe"]
    startup_trials: int = Field(10, ge=1, description="trials drawn at random first")


class Random(Section):
    """Every trial drawn at random (Bergstra & Bengio 2012)."""

    name: Literal["random"]


class Grid(Section):
    """Every combination once, in random order."""

    name: Literal["grid"]


class NoPruner(Section):
    """Every trial runs to its end."""

    name: Literal["none"]


class Median(Section):
    """Stops a trial whose best epoch so far is worse than the median of the complete trials at this epoch
    (Golovin et al. 2017)."""

    name: Literal["median"]
    startup_trials: int = Field(5, ge=1, description="complete trials before any is stopped")
    warmup_epochs: int = Field(0, ge=0, description="epochs in which no trial is stopped")


class SuccessiveHalving(Section):
    """Lets the best 1 / reduction_factor go on at each rung, asynchronously (Li et al. 2020)."""

    name: Literal["successive_halving"]
    min_epochs: int = Field(1, ge=1, description="epochs of the first rung")
    reduction_factor: int = Field(3, ge=2, description="epochs of a rung in those of the one before")


class Hyperband(Section):
    """Successive halving in several brackets, some of which stop later (Li et al. 2018)."""

    name: Literal["hyperband"]
    min_epochs: int = Field(1, ge=1, description="epochs of the first rung")
    reduction_factor: int = Field(3, ge=2, description="epochs of a rung in those of the one before")


SAMPLERS: dict[str, type[Section]] = {"tpe": Tpe, "random": Random, "grid": Grid}
PRUNERS: dict[str, type[Section]] = {
    "none": NoPruner,
    "median": Median,
    "successive_halving": SuccessiveHalving,
    "hyperband": Hyperband,
}


class Range(Section):
    """Numbers from ``low`` to ``high``, both ends included."""

    low: int | float = Field(description="least value")
    high: int | float = Field(description="greatest value")
    log: bool = Field(False, description="as likely between 0.01 and 0.1 as between 0.1 and 1")
    step: int | float | None = Field(None, gt=0, description="distance of the values; null has none between numbers")

    @property
    def values(self) -> list[int | float] | None:
        """All values of a range with steps."""
        if self.step is None:
            return None
        steps = round((self.high - self.low) / self.step)
        values = [self.low + step * self.step for step in range(steps + 1)]
        return [tidy(value) for value in values]


def tidy(number: int | float, digits: int = 12) -> int | float:
    """The number without the noise of binary fractions: 0.3 for 0.1 + 0.2."""
    return number if isinstance(number, int) else float(f"{number:.{digits}g}")


Dimension = Range | tuple[Value, ...]


@dataclass(frozen=True)
class Sweep:
    """A whole file, checked: the dimension of each parameter is a range, or the values to choose from."""

    metric: str
    seed: int
    sampler: Any
    pruner: Any
    space: dict[str, Dimension]

    @property
    def measured(self) -> Metric:
        """What ``metric`` names."""
        return METRICS[self.metric]


# Those of data decide what is measured, and those of later stages come too late to change it.
SECTIONS = ("seed", "augment", "model", "train")
Part = TypeVar("Part", bound=Section)


def overridden_params(overrides: Sequence[str]) -> dict[str, Any]:
    """The content of ``params.yaml`` with overrides, as ``dvc exp run -S`` applies them.

    Raises:
        PipelineError: an override is none, is not allowed, or names no parameter.
    """
    content: dict[str, Any] = read_yaml(PARAMS)
    check_params(content, PARAMS)
    if not overrides:
        return content
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    for override in overrides:
        override_key(override)
    with TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_text(PARAMS.read_text("utf-8"), "utf-8")
        try:
            apply_overrides(path, [override.removeprefix(f"{PARAMS.name}:") for override in overrides])
        except DvcException as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise PipelineError(f"-S: DVC refuses {listed(overrides)} ({reason}); mend it") from error
        content = read_yaml(path)
    check_params(content, Path("-S"))
    return content


def with_parameters(content: Mapping[str, Any], parameters: Mapping[str, Value]) -> dict[str, Any]:
    """A copy of the content of ``params.yaml`` with values at dotted names."""
    changed = copy.deepcopy(dict(content))
    for name, value in parameters.items():
        *sections, key = name.split(".")
        section = changed
        for part in sections:
            section = section[part]
        section[key] = value
    return changed


def read_sweep(path: Path, base: dict[str, Any], overrides: Sequence[str]) -> Sweep:
    """Read and check a sweep's file.

    Args:
        path: of the YAML file.
        base: content of ``params.yaml`` with the overrides; both ends of a range and every value to choose are
            checked against its schema, in its place.
        overrides: of which none may set a parameter of the space.

    Raises:
        PipelineError: a key or value is not allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict) or not content["space"]:
        raise PipelineError(
            f"{path}: space: needs a mapping from parameters to ranges or lists, such as "
            "train.lr: {low: 1e-4, high: 1e-1, log: true}"
        )
    file = _validated(SweepFile, content, path, "")
    if file.metric not in METRICS:
        raise PipelineError(f"{path}: metric: got {file.metric!r}, allowed is {', '.join(METRICS)}")
    metric = METRICS[file.metric]
    if metric.stage == "evaluate" and base["evaluate"]["split"] != "valid":
        raise PipelineError(
            f"{path}: metric: {file.metric} is of the {base['evaluate']['split']} split, which must not choose "
            "parameters: an accuracy that was searched for says nothing about new images; add -S evaluate.split=valid"
        )
    pruner = file.pruner if file.pruner is not None else "median" if metric.curve else "none"
    sweep = Sweep(
        metric=file.metric,
        seed=file.seed,
        sampler=_named(SAMPLERS, file.sampler, path, "sampler"),
        pruner=_named(PRUNERS, pruner, path, "pruner"),
        space={name: _dimension(name, value, path, base) for name, value in file.space.items()},
    )
    _refuse_contradictions(sweep, path, overrides)
    return sweep


def _refuse_contradictions(sweep: Sweep, path: Path, overrides: Sequence[str]) -> None:
    if sweep.pruner.name != "none" and not sweep.measured.curve:
        curves = ", ".join(name for name, metric in METRICS.items() if metric.curve)
        raise PipelineError(
            f"{path}: pruner: {sweep.metric} has no value at each epoch, allowed is none; or take a metric that has "
            f"({curves})"
        )
    if sweep.sampler.name == "grid":
        for name, dimension in sweep.space.items():
            if isinstance(dimension, Range) and dimension.values is None:
                raise PipelineError(f"{path}: space.{name}: the sampler grid needs a list of values, or a range's step")
    for override in overrides:
        if override_key(override) in sweep.space:
            raise PipelineError(f"-S: got {override!r}, which {path} searches; leave one of them out")


def _validated(schema: type[Part], content: dict[str, Any], path: Path, prefix: str) -> Part:
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = complaints(error, content, schema).values()
        raise PipelineError("\n".join(f"{path}: {prefix}{line}" for line in lines)) from None


def _named(schemas: Mapping[str, type[Section]], content: Any, path: Path, key: str) -> Section:
    """A sampler or pruner, which is its name or a mapping with its name and settings."""
    content = {"name": content} if isinstance(content, str) else content
    name = content.get("name") if isinstance(content, dict) else None
    if not isinstance(name, str) or name not in schemas:
        raise PipelineError(
            f"{path}: {key}: got {content if name is None else name!r}, allowed is {', '.join(schemas)}; with "
            "settings, a mapping with the key name"
        )
    return _validated(schemas[name], content, path, f"{key}.")


def _dimension(name: Any, content: Any, path: Path, base: dict[str, Any]) -> Dimension:
    keys = tuple(str(name).split("."))
    key = f"space.{name}"
    field = find_field(keys)
    if field is None:
        known = list(_parameters())
        close = difflib.get_close_matches(str(name), known, n=1)
        raise PipelineError(f"{path}: {key}: no parameter of {PARAMS}{f'; did you mean {close[0]}?' * len(close)}")
    if keys[0] not in SECTIONS:
        raise PipelineError(
            f"{path}: {key}: a sweep cannot judge it: parameters of {keys[0]} decide what is measured or come after "
            f"it; allowed are {', '.join(SECTIONS)}"
        )
    if isinstance(content, dict):
        return _range(keys, content, path, base, whole=field.annotation is int)
    if not isinstance(content, list) or len(content) < 2:
        raise PipelineError(f"{path}: {key}: got {content!r}, allowed is {{low: ..., high: ...}} or a list of values")
    for position, value in enumerate(content):
        if isinstance(value, dict | list):
            raise PipelineError(f"{path}: {key}.{position}: got {value!r}, allowed is a number, a text, true or null")
        if value in content[:position]:
            raise PipelineError(f"{path}: {key}.{position}: got {value!r} twice; remove one")
        _refuse_value(keys, value, path, f"{key}.{position}", base)
    return tuple(content)


def _range(keys: tuple[str, ...], content: dict[str, Any], path: Path, base: dict[str, Any], whole: bool) -> Range:
    key = f"space.{'.'.join(keys)}"
    found = _validated(Range, content, path, f"{key}.")
    for end in ("low", "high"):
        _refuse_value(keys, getattr(found, end), path, f"{key}.{end}", base)
    if found.low >= found.high:
        raise PipelineError(f"{path}: {key}.low: got {found.low:g}, allowed is less than high, {found.high:g}")
    if found.log and (found.step is not None or found.low <= 0):
        what = "log and step exclude each other" if found.step is not None else "log needs low above 0"
        raise PipelineError(f"{path}: {key}: {what}")
    if found.step is not None:
        if whole and not isinstance(found.step, int):
            raise PipelineError(f"{path}: {key}.step: got {found.step!r}, allowed is a whole number")
        steps = (found.high - found.low) / found.step
        if abs(steps - round(steps)) > 1e-9:
            last = found.low + int(steps) * found.step
            raise PipelineError(
                f"{path}: {key}.high: no step of {found.step:g} ends at {found.high:g}; allowed is {last:g}"
            )
    step = found.step or (1 if whole and not found.log else None)
    if step is not None:
        # A parameter can have more to it than its ends, such as being a multiple of 32.
        _refuse_value(keys, tidy(found.low + step), path, f"{key}.step", base)
    number = int if whole else float
    numbers = {"low": number(found.low), "high": number(found.high), "step": step and number(step)}
    return found.model_copy(update=numbers)


def _refuse_value(keys: tuple[str, ...], value: Value, path: Path, key: str, base: dict[str, Any]) -> None:
    complaint = refusal(with_parameters(base, {".".join(keys): value}), keys)
    if complaint:
        # It begins with the parameter's name, which the key has already.
        raise PipelineError(f"{path}: {key}: {complaint.partition(': ')[2]}")


def _parameters() -> list[str]:
    """The dotted names of all parameters that a sweep may search."""
    names = []
    for section in SECTIONS:
        annotation = Params.model_fields[section].annotation
        nested = annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, Section) else None
        names += [f"{section}.{name}" for name in nested] if nested else [section]
    return names
