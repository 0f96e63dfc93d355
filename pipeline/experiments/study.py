"""The finished trials of a sweep, in Optuna's journal, and what it tries next.

The parameters of a trial, and when it is pruned, depend only on the seed of the sweep, the number of the trial and the
trials before it: if several run at the same time, on those that ended before the first of these was started. A sweep
that was stopped therefore continues with the trials that it would have tried anyway; a trial that was stopped is not
recorded. Trials are recorded in their order, whichever ended first.
"""

import copy
import datetime
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipeline.common.text import one_line
from pipeline.errors import PipelineError
from pipeline.experiments.sweep_file import Dimension, Halving, Median, Range, Sweep, Tpe, Value, tidy

# Enough for any search, and short enough to read in a table and in params.yaml.
SIGNIFICANT_DIGITS = 4
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; ``value`` is that of the metric, after the last epoch if it was pruned."""

    state: TrialState
    value: float | None = None
    facts: dict[str, Value] = field(default_factory=dict)


class OpenTrial:
    """A trial that is running."""

    def __init__(self, trial: optuna.Trial, parameters: dict[str, Value]) -> None:
        self._trial = trial
        self.number, self.parameters = trial.number + 1, parameters
        self.epochs = 0
        self.value: float | None = None
        self.pruned = False

    def report(self, value: float, last: bool) -> bool:
        """Report the metric after the next epoch; return whether to prune the trial, never in its ``last`` epoch."""
        self.epochs, self.value = self.epochs + 1, value
        self._trial.report(value, self.epochs)
        self.pruned = not last and self._trial.should_prune()
        return self.pruned

    def finished(self, outcome: Outcome) -> FrozenTrial:
        """The record of the trial, with its parameters as they were run."""
        frozen = self._trial.study.trials[-1]
        frozen.params = self.parameters
        frozen.state, frozen.value = outcome.state, outcome.value
        frozen.datetime_complete = datetime.datetime.now()
        for name, fact in outcome.facts.items():
            frozen.set_user_attr(name, fact)
        return frozen


class Study:
    """The trials of a sweep, each with at most ``epochs`` epochs, in the study ``name`` of the journal at ``path``.

    Raises:
        PipelineError: the journal cannot be read.
    """

    def __init__(self, path: Path, name: str, sweep: Sweep, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name, self.sweep, self.epochs = name, sweep, epochs
        self.distributions = {name: _distribution(dimension) for name, dimension in sweep.space.items()}
        self._grid = _points(sweep.space) if sweep.sampler.name == "grid" else None
        _repair(path)
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
                f"{path}: is not a journal of Optuna ({one_line(str(error))}); remove the folder {path.parent}: "
                "complete trials are read from their experiments"
            ) from error

    @property
    def size(self) -> int | None:
        """The number of points of a grid; None for other samplers, which never run out of trials."""
        return math.prod(map(len, self._grid.values())) if self._grid else None

    @property
    def independent(self) -> bool:
        """Whether no trial depends on another one."""
        return bool(self.sweep.sampler.name != "tpe" and self.sweep.pruner.name == "none")

    def ask(self, others: Sequence[OpenTrial] = (), room: int = 1) -> OpenTrial:
        """Open the next trial.

        Args:
            others: the trials that are open, in their order.
            room: how many are open at the same time. Of the last ``room - 1`` trials before this one only the
                parameters are known to it, whether they have ended or not, so that it does not depend on their speed.
        """
        number = len(self.trials) + len(others)
        known = self.trials[: max(0, number - room + 1)]
        parameters = [trial.params for trial in self.trials[len(known) :]] + [other.parameters for other in others]
        study = optuna.create_study(
            study_name=self.name,
            direction=self.sweep.measured.direction,
            sampler=self._sampler(number),
            pruner=self._pruner(),
        )
        study.add_trials(_as_pruned(trial) if trial.state == TrialState.FAIL else trial for trial in known)
        study.add_trials(
            optuna.create_trial(state=TrialState.RUNNING, params=values, distributions=self.distributions)
            for values in parameters
        )
        trial = study.ask(self.distributions)
        return OpenTrial(
            trial, {name: _readable(trial.params[name], dimension) for name, dimension in self.sweep.space.items()}
        )

    def tell(self, trial: OpenTrial, outcome: Outcome) -> None:
        """Record how a trial ended, in a single write, so that a journal never contains a part of a trial."""
        self._journal.add_trial(trial.finished(outcome))
        self.trials = self._journal.trials

    def find_same(self, trial: OpenTrial) -> FrozenTrial | None:
        """An earlier trial with the same parameters that was pruned or failed, and so left no experiment."""
        ended = (TrialState.PRUNED, TrialState.FAIL)
        same = (other for other in self.trials if other.state in ended and other.params == trial.parameters)
        return next(same, None)

    def best(self) -> FrozenTrial | None:
        """The best complete trial, None if no trial is complete."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        choose: Callable[..., FrozenTrial] = max if self.sweep.maximize else min
        return choose(complete, key=lambda trial: trial.value) if complete else None

    def table(self) -> pd.DataFrame:
        """One row per trial: trial, state, value, epochs, seconds, experiment, a column per parameter, and reason."""
        trials = self.trials
        # As objects, so that 0 and null keep their type next to 0.2.
        parameters = {name: pd.Series([t.params[name] for t in trials], dtype=object) for name in self.sweep.space}
        return pd.DataFrame(
            {
                "trial": [trial.number + 1 for trial in trials],
                "state": [STATES[trial.state] for trial in trials],
                "value": [trial.value for trial in trials],
                "epochs": [len(trial.intermediate_values) for trial in trials],
                "seconds": [trial.user_attrs.get("seconds") for trial in trials],
                "experiment": [trial.user_attrs.get("experiment", "") for trial in trials],
                **parameters,
                "reason": [trial.user_attrs.get("reason", "") for trial in trials],
            }
        )

    def importances(self) -> dict[str, float]:
        """The share of the metric's variance that each parameter explains, alone or with others (fANOVA, Hutter et al.
        2014), the largest first; empty if fewer than two complete trials have different values."""
        values = {trial.value for trial in self.trials if trial.state == TrialState.COMPLETE}
        if len(values) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.sweep.seed)
        return optuna.importance.get_param_importances(self._journal, evaluator=evaluator)

    def _sampler(self, number: int) -> BaseSampler:
        if self._grid:
            # It takes the points in the order of the trials' numbers, shuffled with the seed.
            return GridSampler(self._grid, seed=self.sweep.seed)
        seed = int(np.random.SeedSequence([self.sweep.seed, number]).generate_state(1)[0])
        if isinstance(self.sweep.sampler, Tpe):
            with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
                # Trials that run at the same time do not all try the same.
                return TPESampler(n_startup_trials=self.sweep.sampler.startup_trials, seed=seed, constant_liar=True)
        return RandomSampler(seed)

    def _pruner(self) -> BasePruner:
        match self.sweep.pruner:
            case Median(startup_trials=trials, warmup_epochs=epochs):
                # Optuna prunes in the last step of its warm-up already.
                return MedianPruner(n_startup_trials=trials, n_warmup_steps=epochs + 1)
            case Halving(name="successive_halving", min_epochs=least, reduction_factor=factor):
                return SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
            case Halving(min_epochs=least, reduction_factor=factor):
                return HyperbandPruner(min_resource=least, max_resource=self.epochs, reduction_factor=factor)
        return NopPruner()


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    """A failed trial as one that was pruned before its first epoch: Optuna's samplers ignore failed trials, and would
    try parameters that diverge again and again."""
    pruned = copy.copy(trial)
    pruned.state, pruned.intermediate_values = TrialState.PRUNED, {}
    return pruned


def _points(space: dict[str, Dimension]) -> dict[str, list[Value]]:
    return {name: list(part.values if isinstance(part, Range) else part) for name, part in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension)
    low, high, step = dimension.low, dimension.high, dimension.step
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=step)


def _readable(value: Value, dimension: Dimension) -> Value:
    """The value rounded to a few digits, within the range."""
    if not isinstance(value, float) or not isinstance(dimension, Range):
        return value
    rounded = tidy(value) if dimension.step else tidy(value, SIGNIFICANT_DIGITS)
    return min(max(rounded, float(dimension.low)), float(dimension.high))


def _repair(path: Path) -> None:
    """Remove what a process that was killed while it wrote left: a part of a line, and a lock. Only one process writes
    to a journal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
