"""What a sweep tried, in Optuna's journal, and what it tries next.

Nothing but the finished trials, the sweep's seed and a trial's number decides the parameters of a trial and when it is
pruned. So a sweep that was stopped and goes on tries what it would have tried anyway; what was stopped is not recorded.
"""

import copy
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import PipelineError
from pipeline.experiments.sweep_file import (
    Dimension,
    Grid,
    Hyperband,
    Median,
    Range,
    SuccessiveHalving,
    Sweep,
    Tpe,
    Value,
    tidy,
)

# Enough for any search, and few enough to read in a table and in params.yaml.
SIGNIFICANT_DIGITS = 4
State = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class OpenTrial:
    """A trial that is being run."""

    def __init__(self, trial: optuna.Trial, parameters: dict[str, Value]) -> None:
        self._trial = trial
        self.number, self.parameters = trial.number + 1, parameters
        self.epochs = 0
        self.value: float | None = None
        self.pruned = False

    def report(self, value: float, last: bool) -> bool:
        """Say what an epoch gave.

        Args:
            value: of the metric after the next epoch.
            last: whether the trial ends with it anyway.

        Returns:
            Whether it is to be pruned, which ends it.
        """
        self.epochs, self.value = self.epochs + 1, value
        self._trial.report(value, self.epochs)
        self.pruned = not last and self._trial.should_prune()
        return self.pruned

    def closed(self, state: State, value: float | None, facts: dict[str, Value]) -> FrozenTrial:
        """What is to be remembered of it: the parameters as they were run, and further facts."""
        frozen = self._trial.study.trials[-1]
        frozen.params = self.parameters
        frozen.state, frozen.value = STATES[state], value
        frozen.datetime_complete = datetime.datetime.now()
        for name, fact in facts.items():
            frozen.set_user_attr(name, fact)
        return frozen


class Study:
    """The trials of a sweep.

    Args:
        path: of the journal.
        name: of the study in it.
        sweep: what to search, and how.
        epochs: most epochs that a trial can have.

    Raises:
        PipelineError: the journal cannot be read.
    """

    def __init__(self, path: Path, name: str, sweep: Sweep, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name, self.sweep, self.epochs = name, sweep, epochs
        self.distributions = {name: _distribution(dimension) for name, dimension in sweep.space.items()}
        _mend(path)
        try:
            self._journal = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=name,
                direction=sweep.measured.direction,
                load_if_exists=True,
            )
            self.trials = self._journal.trials
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise PipelineError(
                f"{path}: is no journal of Optuna's ({' '.join(str(error).split())}); remove the folder {path.parent}: "
                "complete trials are taken from their experiments"
            ) from error

    @property
    def size(self) -> int | None:
        """How many trials there are to try, None where there is no end."""
        return int(np.prod([len(values) for values in self._grid().values()])) if self._is_grid else None

    @property
    def _is_grid(self) -> bool:
        return isinstance(self.sweep.sampler, Grid)

    def _grid(self) -> dict[str, list[Value]]:
        return {
            name: list(dimension.values or []) if isinstance(dimension, Range) else list(dimension)
            for name, dimension in self.sweep.space.items()
        }

    def ask(self) -> OpenTrial:
        """Open the next trial."""
        study = optuna.create_study(
            study_name=self.name,
            direction=self.sweep.measured.direction,
            sampler=self._sampler(len(self.trials)),
            pruner=self._pruner(),
        )
        study.add_trials(_as_bad(trial) if trial.state == TrialState.FAIL else trial for trial in self.trials)
        trial = study.ask(self.distributions)
        return OpenTrial(
            trial, {name: _readable(trial.params[name], dimension) for name, dimension in self.sweep.space.items()}
        )

    def tell(self, trial: OpenTrial, state: State, value: float | None, facts: dict[str, Value]) -> None:
        """Remember how a trial ended: one record, so that a journal never holds half of a trial."""
        self._journal.add_trial(trial.closed(state, value, facts))
        self.trials = self._journal.trials

    def twin(self, trial: OpenTrial) -> FrozenTrial | None:
        """An earlier trial with the same parameters that left no experiment: it was pruned or failed."""
        ended = (TrialState.PRUNED, TrialState.FAIL)
        same = (other for other in self.trials if other.state in ended and other.params == trial.parameters)
        return next(same, None)

    def best(self) -> FrozenTrial | None:
        """The best complete trial, None where none is complete."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        choose: Callable[..., FrozenTrial] = max if self.sweep.measured.direction == "maximize" else min
        return choose(complete, key=lambda trial: trial.value) if complete else None

    def importances(self) -> dict[str, float]:
        """The share of the metric's variance over the space that each parameter explains alone or with others
        (fANOVA, Hutter et al. 2014), the greatest first; empty where fewer than two values differ."""
        values = {trial.value for trial in self.trials if trial.state == TrialState.COMPLETE}
        if len(values) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.sweep.seed)
        return optuna.importance.get_param_importances(self._journal, evaluator=evaluator)

    def _sampler(self, number: int) -> BaseSampler:
        if self._is_grid:
            # It takes the points in the order of the trials' numbers, shuffled by the seed.
            return GridSampler(self._grid(), seed=self.sweep.seed)
        seed = int(np.random.SeedSequence([self.sweep.seed, number]).generate_state(1)[0])
        if isinstance(self.sweep.sampler, Tpe):
            return TPESampler(n_startup_trials=self.sweep.sampler.startup_trials, seed=seed)
        return RandomSampler(seed)

    def _pruner(self) -> BasePruner:
        match self.sweep.pruner:
            case Median(startup_trials=trials, warmup_epochs=epochs):
                # Optuna's warm-up ends at its last step, ours after its last epoch.
                return MedianPruner(n_startup_trials=trials, n_warmup_steps=epochs + 1)
            case SuccessiveHalving(min_epochs=least, reduction_factor=factor):
                return SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
            case Hyperband(min_epochs=least, reduction_factor=factor):
                return HyperbandPruner(min_resource=least, max_resource=self.epochs, reduction_factor=factor)
        return NopPruner()


def _as_bad(trial: FrozenTrial) -> FrozenTrial:
    """A trial that failed as one that was pruned before its first epoch: Optuna's samplers would not see it at all,
    and come back to what diverges again and again."""
    bad = copy.copy(trial)
    bad.state, bad.intermediate_values = TrialState.PRUNED, {}
    return bad


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension)
    low, high, step = dimension.low, dimension.high, dimension.step
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=step)


def _readable(value: Value, dimension: Dimension) -> Value:
    """The value in so few digits that it can be read; within the range."""
    if not isinstance(value, float) or not isinstance(dimension, Range):
        return value
    rounded = tidy(value) if dimension.step else tidy(value, SIGNIFICANT_DIGITS)
    return min(max(rounded, float(dimension.low)), float(dimension.high))


def _mend(path: Path) -> None:
    """Remove what a process that was killed while it wrote left: half a line, and a lock. Nobody else writes here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
