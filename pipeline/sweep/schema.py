"""The schema of a sweep's file: what it may say, each part by itself."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from pipeline.params.base import Section

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
