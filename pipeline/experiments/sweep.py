"""A search over parameters: each trial is a DVC experiment, which is pruned if its epochs are not promising."""

import math
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.common.files import write_json, write_table
from pipeline.common.paths import PARAMS, SWEEPS
from pipeline.common.text import one_line, without_secrets
from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import DvcError, overridden_params
from pipeline.experiments.revisions import Experiment
from pipeline.experiments.sandbox import SANDBOXES, Sandbox, digest, open_sandbox, take_snapshot
from pipeline.experiments.study import OpenTrial, Outcome, Study
from pipeline.experiments.sweep_file import Range, Sweep, Value, read_sweep, with_parameters
from pipeline.experiments.sweep_report import parameters_text, plot_sweep, summary_lines, trial_line
from pipeline.params.file import check_params, in_yaml
from pipeline.progress import say

# A failure in these stages is not the fault of a trial's parameters.
STAGES_BEFORE_TRIAL = (None, "source", "download")
STAGES_WITH_CURVES = ("train", "evaluate")


def run_sweep(path: Path, trials: int, overrides: Sequence[str], hours: float = math.inf) -> None:
    """Search the parameters in the file of a sweep until it has ``trials`` trials, those of earlier runs included, or
    until ``hours`` have passed: then the running trial is the last one.

    Each is a DVC experiment with the ``overrides``, up to ``evaluate``. They run in a clone: the workspace does not
    change, and later changes to it have no effect. A sweep with the same file, code, data and parameters resumes,
    whatever commit it was started on.

    Raises:
        PipelineError: the file, an override or the repository is not valid, or no trial is complete.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same command resumes.
    """
    deadline = time.monotonic() + hours * 3600
    base = overridden_params(overrides)
    sweep = read_sweep(path, base, overrides)
    snapshot = take_snapshot()
    inputs = snapshot.inputs(base)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "sweep"
    # Values of params.yaml that the sweep searches do not decide its trials.
    fixed = with_parameters(base, dict.fromkeys(sweep.space))
    name = f"{stem}-{digest(inputs, fixed, sweep.model_dump())}"
    folder = SWEEPS / name
    with open_sandbox(SANDBOXES / "sweeps" / name, snapshot, f"the sweep {name}") as sandbox:
        study = Study(folder / "journal.log", name, sweep, _most_epochs(sweep, base))
        trials = _announce(study, stem, trials)
        facts = {"file": str(path), "commit": snapshot.head, "overrides": list(map(without_secrets, overrides))}
        write_json(folder / "sweep.json", facts | sweep.model_dump())
        runner = TrialRunner(sandbox, study, base, overrides, inputs, stem, folder / "checkpoints")
        try:
            while len(study.trials) < trials:
                runner.run_next(trials)
                write_table(folder / "trials.csv", study.table())
                if time.monotonic() >= deadline and len(study.trials) < trials:
                    say(f"sweep {name}: ends after {hours:g} hours with {len(study.trials)} of {trials} trials")
                    break
        except KeyboardInterrupt:
            say(f"sweep {name}: stopped with {len(study.trials)} of {trials} trials; the same command resumes")
            raise
        write_table(folder / "trials.csv", study.table())
        _report_best(study, folder, sandbox)


def _most_epochs(sweep: Sweep, base: dict[str, Any]) -> int:
    dimension = sweep.space.get("train.epochs", (base["train"]["epochs"],))
    return int(dimension.high if isinstance(dimension, Range) else max(dimension))


def _announce(study: Study, stem: str, trials: int) -> int:
    """Print which sweep this is, and return the total number of trials, at most the points of a grid."""
    done, others = len(study.trials), {path.parent.name for path in SWEEPS.glob(f"{stem}-???????/journal.log")}
    others.discard(study.name)
    if done:
        state = f"resumes after {done} {'trial' if done == 1 else 'trials'}"
    elif others:
        state = f"new; {', '.join(sorted(others))} had other code, data, parameters or settings, and is kept"
    else:
        state = "new"
    say(f"sweep {study.name}: {state}")
    if study.size is not None and study.size < trials:
        say(f"sweep {study.name}: its grid has {study.size:,} points; each is tried once")
        return study.size
    return trials


def _report_best(study: Study, folder: Path, sandbox: Sandbox) -> None:
    """Plot the sweep and print its best trials; an error if no trial is complete."""
    best = study.best()
    if best is None:
        reasons = [trial.user_attrs["reason"] for trial in study.trials if "reason" in trial.user_attrs]
        raise PipelineError(
            f"sweep {study.name}: no trial is complete; the last that failed: {reasons[-1] if reasons else 'none'}; to "
            f"try them again, remove {folder}"
        )
    table = study.table()
    plot_sweep(folder / "sweep.png", study.sweep, table, study.importances(), study.name)
    for line in summary_lines(study.sweep, table):
        say(line)
    say(f"sweep {study.name}: {folder}/sweep.png shows the importances, {folder}/trials.csv all trials")
    name = best.user_attrs["experiment"]
    say(f"the best trial: dvc exp apply {name}, then dvc repro; all of them: dvc exp show")
    experiment = sandbox.find(name)
    if experiment and experiment.baseline != sandbox.snapshot.head:
        say(f"{name} is based on {experiment.baseline[:7]}: dvc exp apply restores all files of that commit")


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a study in a sandbox.

    Attributes:
        base: content of ``params.yaml`` with the overrides.
        overrides: ``key=value``, for all trials.
        inputs: what else decides the result of a trial, :meth:`Snapshot.inputs`.
        stem: the beginning of the experiments' names.
        checkpoints: folder for the checkpoints of the running trial.
    """

    sandbox: Sandbox
    study: Study
    base: dict[str, Any]
    overrides: Sequence[str]
    inputs: dict[str, str]
    stem: str
    checkpoints: Path

    def run_next(self, trials: int) -> None:
        """Run the next of ``trials`` trials, or read it from an experiment or trial with the same parameters.

        Raises:
            PipelineError: it failed for a reason that has nothing to do with its parameters.
            KeyboardInterrupt: nothing is lost; the next run of the same trial resumes from its checkpoint.
        """
        trial, start = self.study.ask(), time.monotonic()
        say(f"trial {trial.number} of {trials}: {parameters_text(trial.parameters)}")
        same = self.study.find_same(trial)
        outcome = self._run(trial) if same is None else _repeated(trial, same)
        outcome.facts["seconds"] = round(time.monotonic() - start, 1)
        self.study.tell(trial, outcome)
        say(f"trial {trial.number} of {trials}: {trial_line(self.study.trials[-1], self.study.best())}")

    def _run(self, trial: OpenTrial) -> Outcome:
        content = with_parameters(self.base, trial.parameters)
        try:
            check_params(content, PARAMS)
        except PipelineError as error:
            return _failed(error)
        epochs, identity = content["train"]["epochs"], digest(self.inputs, content)
        experiment = self.sandbox.find(f"*-{identity}")
        if experiment:
            say(f"  exists already: experiment {experiment.name}")
            return self._read(trial, experiment, epochs)
        try:
            outcome = self._run_experiment(trial, f"{self.stem}-{trial.number:03}-{identity}", epochs)
        except DvcError as error:
            if error.stage in STAGES_BEFORE_TRIAL:
                raise
            outcome = _failed(error)
        # The checkpoints of a hundred pruned trials would fill the disk.
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return outcome

    def _run_experiment(self, trial: OpenTrial, name: str, epochs: int) -> Outcome:
        curve = self.study.sweep.measured.curve

        def is_pruned() -> bool:
            if curve:
                with suppress(FileNotFoundError):
                    _report_epochs(trial, (self.sandbox.folder / curve).read_text("utf-8"), epochs)
            return trial.pruned

        overrides = [*self.overrides, *(f"{key}={_in_hydra(value)}" for key, value in trial.parameters.items())]
        variables = {"PIPELINE_CHECKPOINTS": str(self.checkpoints.absolute())}
        # Before these stages, the curves may be those of the commit.
        complete = self.sandbox.run(
            name, overrides, lambda stage: stage in STAGES_WITH_CURVES and is_pruned(), variables
        )
        # Whether a trial is pruned must not depend on when the curve was read.
        if not complete or is_pruned():
            return Outcome(TrialState.PRUNED, trial.value)
        return self._complete(self.sandbox.fetch(name))

    def _read(self, trial: OpenTrial, experiment: Experiment, epochs: int) -> Outcome:
        """The outcome of an experiment that exists, pruned if a run of it would have been pruned now."""
        curve = self.study.sweep.measured.curve
        if curve:
            _report_epochs(trial, experiment.read(curve), epochs)
        if trial.pruned:
            return Outcome(TrialState.PRUNED, trial.value, {"experiment": experiment.name})
        return self._complete(experiment)

    def _complete(self, experiment: Experiment) -> Outcome:
        metric = self.study.sweep.measured
        value = experiment.results(metric.stage, metric.folder).get(metric.key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return _failed(f"{metric.stage}.{metric.key} of experiment {experiment.name} is {value}")
        return Outcome(TrialState.COMPLETE, float(value), {"experiment": experiment.name})


def _repeated(trial: OpenTrial, same: FrozenTrial) -> Outcome:
    """The outcome of an earlier trial with the same parameters, which was pruned or failed."""
    say(f"  same parameters as trial {same.number + 1}")
    for value in same.intermediate_values.values():
        trial.report(value, last=True)
    facts = {name: fact for name, fact in same.user_attrs.items() if name != "seconds"}
    return Outcome(same.state, same.value, facts)


def _failed(reason: object) -> Outcome:
    return Outcome(TrialState.FAIL, None, {"reason": one_line(str(reason))})


def _report_epochs(trial: OpenTrial, curve: str, epochs: int) -> None:
    """Report the new epochs in the table of a curve of DVCLive until one of them decides to prune the trial."""
    # The last line may still be being written.
    rows = curve[: curve.rfind("\n") + 1].splitlines()[1:]
    for row in rows[trial.epochs :]:
        if not trial.pruned:
            trial.report(float(row.split("\t")[1]), last=trial.epochs + 1 == epochs)


def _in_hydra(value: Value) -> str:
    """A value as ``dvc exp run -S`` reads it; a string is quoted, whatever it looks like."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return in_yaml(value)
