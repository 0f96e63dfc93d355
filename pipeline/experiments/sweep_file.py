"""Reads and checks the file of a sweep; each error is one line that names the file and the key."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import Field, SkipValidation, ValidationError

from pipeline.common.paths import DETAILS, LIVE, PARAMS
from pipeline.common.paths import METRICS as METRICS_FOLDER
from pipeline.common.text import shortened
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import override_key
from pipeline.params.file import error_lines, find_field, refusal
from pipeline.params.names import parameter_names, suggestion
from pipeline.params.schema import Params, Section

Value = bool | int | float | str | None
# Parameters of data decide what is measured, and those of later stages cannot change it.
SECTIONS = ("seed", "augment", "model", "train")
# Most trials of a sweep, as in ``cli``, and so most points of a grid; most values of a list.
MAX_TRIALS, MAX_VALUES = 100_000, 1_000
MAX_KEYS = 8  # in the dotted name of a parameter
# The files of DVCLive with the value of each epoch.
CURVES = LIVE / "plots/metrics"


@dataclass(frozen=True)
class Metric:
    """A number in ``{folder}/{stage}.json``, its direction, and the file of its curve, if it has one."""

    stage: str
    key: str
    direction: Literal["maximize", "minimize"]
    curve: Path | None = None
    folder: Path = METRICS_FOLDER


METRICS = {
    "train.valid_accuracy": Metric("train", "valid_accuracy", "maximize", CURVES / "valid/accuracy.tsv"),
    "train.valid_loss": Metric("train", "valid_loss", "minimize", CURVES / "valid/loss.tsv"),
    "train.valid_cross_entropy": Metric(
        "train", "valid_cross_entropy", "minimize", CURVES / "valid/cross_entropy.tsv", folder=DETAILS
    ),
    "evaluate.accuracy": Metric("evaluate", "accuracy", "maximize"),
    "evaluate.balanced_accuracy": Metric("evaluate", "balanced_accuracy", "maximize", folder=DETAILS),
    "evaluate.macro_f1": Metric("evaluate", "macro_f1", "maximize"),
    "evaluate.log_loss": Metric("evaluate", "log_loss", "minimize"),
}


class Tpe(Section):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), after some random trials."""

    name: Literal["tpe"]
    startup_trials: int = Field(10, ge=1, le=MAX_TRIALS)


class Plain(Section):
    """Random search (Bergstra & Bengio 2012), or every combination once in random order, or no pruner."""

    name: Literal["random", "grid", "none"]


class Median(Section):
    """Stops a trial whose best epoch so far is worse than the median of the complete trials at this epoch
    (Golovin et al. 2017); never in the first epochs, nor before enough trials are complete."""

    name: Literal["median"]
    startup_trials: int = Field(5, ge=1, le=MAX_TRIALS)
    warmup_epochs: int = Field(0, ge=0, le=MAX_TRIALS)


class Halving(Section):
    """Asynchronous successive halving (Li et al. 2020): the best 1 / reduction_factor continue at each rung, the first
    after min_epochs. Hyperband (Li et al. 2018): several brackets of it, some of which stop later."""

    name: Literal["successive_halving", "hyperband"]
    min_epochs: int = Field(1, ge=1, le=MAX_TRIALS)
    reduction_factor: int = Field(3, ge=2, le=MAX_TRIALS)


SAMPLERS: dict[str, type[Section]] = {"tpe": Tpe, "random": Plain, "grid": Plain}
PRUNERS: dict[str, type[Section]] = {
    "none": Plain,
    "median": Median,
    "successive_halving": Halving,
    "hyperband": Halving,
}


class Range(Section):
    """Numbers from ``low`` to ``high``, including both; ``log`` makes 0.01 to 0.1 as likely as 0.1 to 1."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @property
    def count(self) -> int:
        """The number of values of a range with a step."""
        assert self.step is not None
        return round((self.high - self.low) / self.step) + 1

    @property
    def values(self) -> list[int | float]:
        """All values of a range with a step."""
        assert self.step is not None
        return [tidy(self.low + step * self.step) for step in range(self.count)]


def tidy(number: int | float, digits: int = 12) -> int | float:
    """The number without rounding errors: 0.3 for 0.1 + 0.2."""
    return number if isinstance(number, int) else float(f"{number:.{digits}g}")


Dimension = Range | tuple[Value, ...]
Part = TypeVar("Part", bound=Section)


class Sweep(Section):
    """The keys of the file. In what :func:`read_sweep` returns, sampler and pruner are sections, and each parameter of
    the space has a range or the values to choose from."""

    metric: str = "train.valid_accuracy"
    seed: int = Field(0, ge=0, lt=2**32)
    sampler: Any = "tpe"
    pruner: Any = None
    space: SkipValidation[dict[str, Dimension]]

    @property
    def measured(self) -> Metric:
        """What ``metric`` names."""
        return METRICS[self.metric]

    @property
    def maximize(self) -> bool:
        """Whether a larger value of the metric is better."""
        return self.measured.direction == "maximize"


def with_parameters(content: Mapping[str, Any], parameters: Mapping[str, Value]) -> dict[str, Any]:
    """A copy of the content of ``params.yaml`` with values at dotted names."""
    changed = copy.deepcopy(dict(content))
    for name, value in parameters.items():
        *sections, key = name.split(".")
        section = changed
        for part in sections:
            if not isinstance(section.get(part), dict):  # in a parameter that is a mapping, such as model.kwargs
                section[part] = {}
            section = section[part]
        section[key] = value
    return changed


def read_sweep(path: Path, base: dict[str, Any], overrides: Sequence[str]) -> Sweep:
    """Read and check the file of a sweep.

    Args:
        path: of the YAML file.
        base: content of ``params.yaml`` with the overrides; both ends of each range and every value of a list are
            checked as values of their parameter in it.
        overrides: none of them may set a parameter of the space.

    Raises:
        PipelineError: a key or value is not allowed.
    """
    content = read_yaml(path)
    try:
        sweep = _checked(content, base)
    except PipelineError as error:
        lines = str(error).splitlines()
        raise PipelineError("\n".join(f"{path}: {shortened(line, 900)}" for line in lines)) from None
    for override in overrides:
        if override_key(override) in sweep.space:
            raise PipelineError(f"-S: got {override!r}, which {path} searches; remove one of them")
    return sweep


def _checked(content: Any, base: dict[str, Any]) -> Sweep:
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict) or not content["space"]:
        example = "train.lr: {low: 1e-4, high: 1e-1, log: true}"
        raise PipelineError(f"space: needs a mapping from parameters to ranges or lists, such as {example}")
    file = _validated(Sweep, content, "")
    if file.metric not in METRICS:
        raise PipelineError(f"metric: got {file.metric!r}, allowed is {', '.join(METRICS)}")
    metric, split = file.measured, base["evaluate"]["split"]
    if metric.stage == "evaluate" and split != "valid":
        raise PipelineError(
            f"metric: {file.metric} is measured on the {split} split, which must not choose parameters: the result "
            "would be too good for new images; add -S evaluate.split=valid"
        )
    default = "median" if metric.curve else "none"
    sampler = _named(SAMPLERS, file.sampler, "sampler")
    pruner = _named(PRUNERS, default if file.pruner is None else file.pruner, "pruner")
    space = {name: _dimension(name, value, base) for name, value in file.space.items()}
    if pruner.name != "none" and not metric.curve:
        curves = ", ".join(name for name, metric in METRICS.items() if metric.curve)
        raise PipelineError(
            f"pruner: {file.metric} has no value at each epoch, allowed is none; or choose a metric that has ({curves})"
        )
    _require_room(pruner, most_epochs(space, base))
    for name, dimension in space.items():
        if sampler.name == "grid" and isinstance(dimension, Range) and dimension.step is None:
            raise PipelineError(f"space.{name}: the sampler grid needs a list of values, or a range with step")
    if sampler.name == "grid":
        points = math.prod(part.count if isinstance(part, Range) else len(part) for part in space.values())
        if points > MAX_TRIALS:
            raise PipelineError(
                f"space: the grid has {points:,} points, allowed are {MAX_TRIALS:,}; remove some, or use random"
            )
    return file.model_copy(update={"sampler": sampler, "pruner": pruner, "space": space})


def most_epochs(space: Mapping[str, Dimension], base: Mapping[str, Any]) -> int:
    """The epochs of the longest trial."""
    dimension = space.get("train.epochs", (base["train"]["epochs"],))
    return int(dimension.high if isinstance(dimension, Range) else max(dimension))


def _require_room(pruner: Section, epochs: int) -> None:
    """Refuse settings with which no trial would ever be pruned."""
    key = "min_epochs" if isinstance(pruner, Halving) else "warmup_epochs"
    first = getattr(pruner, key, 0)
    if first and first >= epochs:
        raise PipelineError(
            f"pruner.{key}: got {first}, with which no trial of {epochs} epochs is pruned; allowed is less than that; "
            "lower it, train longer, or use none"
        )


def _validated(schema: type[Part], content: dict[str, Any], prefix: str) -> Part:
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = error_lines(error, content, schema).values()
        raise PipelineError("\n".join(f"{prefix}{line}" for line in lines)) from None


def _named(schemas: Mapping[str, type[Section]], content: Any, key: str) -> Any:
    """A sampler or pruner, given by its name or by a mapping with its name and settings."""
    content = {"name": content} if isinstance(content, str) else content
    name = content.get("name") if isinstance(content, dict) else None
    if not isinstance(name, str) or name not in schemas:
        got, allowed = content if name is None else name, ", ".join(schemas)
        raise PipelineError(f"{key}: got {got!r}, allowed is {allowed}; with settings, a mapping with the key name")
    return _validated(schemas[name], content, f"{key}.")


def _dimension(name: Any, content: Any, base: dict[str, Any]) -> Dimension:
    keys, key = tuple(str(name).split(".")), f"space.{name}"
    field = find_field(keys) if len(keys) <= MAX_KEYS else None
    if name in Params.model_fields and field is None:
        raise PipelineError(f"{key}: {name} is a section; name one of its parameters")
    if field is None:
        searched = [full for full in parameter_names() if full.partition(".")[0] in SECTIONS]
        hint = suggestion(str(name), searched)
        raise PipelineError(f"{key}: no parameter of {PARAMS}{f'; {hint}' if hint else ''}")
    if keys[0] not in SECTIONS:
        raise PipelineError(
            f"{key}: a sweep cannot search it: parameters of {keys[0]} decide what is measured, or come after it; "
            f"allowed are {', '.join(SECTIONS)}"
        )
    if isinstance(content, dict):
        numbers = (content.get(key, 0) for key in ("low", "high", "step"))
        types = set(_types(field.annotation))
        whole = int in types and float not in types
        if get_origin(field.annotation) is dict:
            whole = all(isinstance(number, int) for number in numbers)
        return _range(keys, content, base, whole)
    if not isinstance(content, list) or len(content) < 2:
        raise PipelineError(f"{key}: got {content!r}, allowed is {{low: ..., high: ...}} or a list of values")
    if len(content) > MAX_VALUES:
        raise PipelineError(
            f"{key}: got {len(content):,} values, allowed are {MAX_VALUES:,}; remove some, or use a range"
        )
    for position, value in enumerate(content):
        if isinstance(value, dict | list):
            raise PipelineError(f"{key}.{position}: got {value!r}, allowed is a number, a text, true or null")
        if value in content[:position]:
            raise PipelineError(f"{key}.{position}: got {value!r} twice; remove one")
        _check_value(keys, value, f"{key}.{position}", base)
    return tuple(content)


def _types(annotation: Any) -> Iterator[Any]:
    """A type, and those that it is made of, such as int and None."""
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _range(keys: tuple[str, ...], content: dict[str, Any], base: dict[str, Any], whole: bool) -> Range:
    key = f"space.{'.'.join(keys)}"
    found = _validated(Range, content, f"{key}.")
    low, high, step = found.low, found.high, found.step
    for end in ("low", "high"):
        _check_value(keys, getattr(found, end), f"{key}.{end}", base)
    if low >= high:
        raise PipelineError(f"{key}.low: got {low:g}, allowed is less than high, {high:g}")
    if found.log and step is not None:
        raise PipelineError(f"{key}: log and step exclude each other")
    if found.log and low <= 0:
        raise PipelineError(f"{key}: log needs low above 0")
    if step is not None:
        if whole and not isinstance(step, int):
            raise PipelineError(f"{key}.step: got {step!r}, allowed is an integer")
        steps = (high - low) / step
        if not 0.5 < steps < MAX_TRIALS:
            raise PipelineError(
                f"{key}.step: got {step:g}, which makes {steps:,.0f} steps, allowed are 1 to {MAX_TRIALS:,}; change it"
            )
        if abs(steps - round(steps)) > 1e-9:
            last = low + int(steps) * step
            raise PipelineError(f"{key}.high: no step of {step:g} ends at {high:g}; allowed is {last:g}")
    elif whole and not found.log:
        step = 1
    if step is not None:
        # The ends do not show every rule, such as that a value must be a multiple of 32.
        _check_value(keys, tidy(low + step), f"{key}.step", base)
    number = int if whole else float
    return found.model_copy(update={"low": number(low), "high": number(high), "step": step and number(step)})


def _check_value(keys: tuple[str, ...], value: Value, key: str, base: dict[str, Any]) -> None:
    line = refusal(with_parameters(base, {".".join(keys): value}), keys)
    if line:
        # It begins with the name of the parameter, which the key contains already.
        raise PipelineError(f"{key}: {line.partition(': ')[2]}")
