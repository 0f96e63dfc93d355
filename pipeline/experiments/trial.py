"""One trial of a sweep: run it as an experiment of DVC, watch its epochs, and end it where it is hopeless."""

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from optuna.trial import FrozenTrial, TrialState

from pipeline.common.paths import LIVE, PARAMS
from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import DvcError
from pipeline.experiments.revisions import open_result, read_metrics
from pipeline.experiments.sandbox import Sandbox
from pipeline.experiments.study import OpenTrial, State
from pipeline.experiments.sweep_file import Metric, Value, with_parameters
from pipeline.params.file import check_params
from pipeline.progress import say

# Where these fail no parameters of a trial are to blame.
STAGES_BEFORE_TRIAL = (None, "download")
STAGES_WITH_CURVES = ("train", "evaluate")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; ``value`` is that of the metric, of the last epoch where it was pruned."""

    state: State
    value: float | None = None
    facts: dict[str, Value] = field(default_factory=dict)


class TrialRunner:
    """Runs trials in a sandbox.

    Args:
        sandbox: where they run.
        metric: what is optimised.
        base: content of ``params.yaml`` with the overrides of the sweep.
        overrides: ``key=value``, for all trials.
        identity: all else that decides a trial's result.
        stem: how the names of the experiments begin.
        checkpoints: folder for those of the trial that runs.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        metric: Metric,
        base: dict[str, Any],
        overrides: list[str],
        identity: Any,
        stem: str,
        checkpoints: Path,
    ) -> None:
        self.sandbox, self.metric, self.base, self.overrides = sandbox, metric, base, overrides
        self.identity, self.stem, self.checkpoints = identity, stem, checkpoints

    def run(self, trial: OpenTrial) -> Outcome:
        """Run a trial, or take it from an experiment with the same parameters.

        Raises:
            PipelineError: it failed for a reason that is none of its parameters'.
            KeyboardInterrupt: nothing is lost; the next run of the same trial goes on from its checkpoint.
        """
        content = with_parameters(self.base, trial.parameters)
        try:
            check_params(content, PARAMS)
        except PipelineError as error:
            return _failed(error)
        digest = hashlib.sha256(json.dumps([self.identity, content]).encode()).hexdigest()[:7]
        known = self.sandbox.snapshot.experiments(f"*-{digest}")
        if known:
            say(f"  is there already: experiment {known[0]}")
            return self._known(trial, known[0], content)
        try:
            outcome = self._run(trial, f"{self.stem}-{trial.number:03}-{digest}", content)
        except DvcError as error:
            if error.stage in STAGES_BEFORE_TRIAL:
                raise
            outcome = _failed(error)
        # A hundred trials that were pruned would fill the disk.
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return outcome

    def _run(self, trial: OpenTrial, name: str, content: Mapping[str, Any]) -> Outcome:
        curve, most = self._curve(), content["train"]["epochs"]

        def hopeless() -> bool:
            return curve is not None and _watch(trial, self.sandbox.folder / curve, most)

        overrides = [*self.overrides, *(f"{key}={_hydra(value)}" for key, value in trial.parameters.items())]
        variables = {"PIPELINE_CHECKPOINTS": str(self.checkpoints.absolute())}
        # Before these stages, DVC may have checked out the curves of the commit.
        complete = self.sandbox.run(
            name, overrides, lambda stage: stage in STAGES_WITH_CURVES and hopeless(), variables
        )
        # Whether a trial is pruned must not depend on how often one has looked.
        if not complete or hopeless():
            return Outcome("pruned", trial.value)
        self.sandbox.fetch(name)
        return self._complete(name)

    def _known(self, trial: OpenTrial, name: str, content: Mapping[str, Any]) -> Outcome:
        """What an experiment gave, pruned where it would have been."""
        curve = self._curve()
        if curve:
            with open_result(name, curve) as file:
                if _report(trial, _values(file), content["train"]["epochs"]):
                    return Outcome("pruned", trial.value, {"experiment": name})
        return self._complete(name)

    def _complete(self, name: str) -> Outcome:
        value = read_metrics(name, self.metric.stage).get(self.metric.key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return _failed(f"{self.metric.stage}.{self.metric.key} of experiment {name} is {value}")
        return Outcome("complete", float(value), {"experiment": name})

    def _curve(self) -> Path | None:
        return LIVE / "plots/metrics" / f"{self.metric.curve}.tsv" if self.metric.curve else None


def repeated(trial: OpenTrial, twin: FrozenTrial) -> Outcome:
    """The outcome of an earlier trial with the same parameters, which need not run again to be pruned or to fail."""
    say(f"  as trial {twin.number + 1}, which had the same parameters")
    for value in twin.intermediate_values.values():
        trial.report(value, last=True)
    facts = {name: fact for name, fact in twin.user_attrs.items() if name != "seconds"}
    return Outcome("pruned" if twin.state == TrialState.PRUNED else "failed", twin.value, facts)


def _failed(reason: object) -> Outcome:
    return Outcome("failed", None, {"reason": " ".join(str(reason).split())})


def _watch(trial: OpenTrial, curve: Path, most: int) -> bool:
    """Report the epochs that are new in a curve; return whether the trial is to be pruned."""
    try:
        with curve.open(encoding="utf-8") as file:
            return _report(trial, _values(file), most)
    except FileNotFoundError:
        return trial.pruned


def _report(trial: OpenTrial, values: list[float], most: int) -> bool:
    # One epoch after the other: what comes after the one that decides does not count.
    while not trial.pruned and trial.epochs < len(values):
        trial.report(values[trial.epochs], last=trial.epochs + 1 == most)
    return trial.pruned


def _values(file: TextIO) -> list[float]:
    """The second column of a curve of DVCLive's, without a last line that is still being written."""
    text = file.read()
    rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()[1:], delimiter="\t")
    return [float(row[1]) for row in rows]


def _hydra(value: Value) -> str:
    """A value as ``dvc exp run -S`` reads it, whatever a text looks like."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return json.dumps(value)
