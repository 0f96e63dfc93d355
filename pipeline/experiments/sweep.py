"""A search over parameters: each trial is a DVC experiment, which is pruned if its epochs are not promising."""

import math
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.common.files import write_json, write_table
from pipeline.common.paths import PARAMS, SWEEPS
from pipeline.common.text import one_line, without_secrets
from pipeline.errors import MachineError, PipelineError
from pipeline.experiments.dvc_command import DvcError, overridden_params
from pipeline.experiments.ray_cluster import Cluster, open_runner
from pipeline.experiments.revisions import Experiment
from pipeline.experiments.sandbox import SANDBOXES, Runner, Sandbox, Snapshot, digest, open_sandbox, take_snapshot
from pipeline.experiments.study import OpenTrial, Outcome, Study
from pipeline.experiments.sweep_file import Metric, Sweep, Value, most_epochs, read_sweep, with_parameters
from pipeline.experiments.sweep_report import parameters_text, plot_sweep, summary_lines, trial_line
from pipeline.machine import folder_variable
from pipeline.params.file import check_params, in_yaml
from pipeline.progress import say
from pipeline.source.weights import weights_identity

# A failure in these stages is not the fault of a trial's parameters.
STAGES_BEFORE_TRIAL = (None, "source", "download")
STAGES_WITH_CURVES = ("train", "evaluate")


def run_sweep(
    path: Path, trials: int, overrides: Sequence[str], hours: float = math.inf, cluster: Cluster | None = None
) -> None:
    """Search the parameters in the file of a sweep until it has ``trials`` trials, those of earlier runs included, or
    until ``hours`` have passed: then the running trials are the last ones. On a cluster, as many run at the same time
    as it has room for.

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
    inputs = _inputs(snapshot, base, sweep)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "sweep"
    # Values of params.yaml that the sweep searches do not decide its trials.
    fixed = with_parameters(base, dict.fromkeys(sweep.space))
    name = f"{stem}-{digest(inputs, fixed, sweep.model_dump())}"
    folder = SWEEPS / name
    with (
        open_sandbox(SANDBOXES / "sweeps" / name, snapshot, f"the sweep {name}") as sandbox,
        open_runner(sandbox, cluster) as runner,
    ):
        study = Study(folder / "journal.log", name, sweep, most_epochs(sweep.space, base))
        trials = _announce(study, stem, trials)
        facts = {"file": str(path), "commit": snapshot.head, "overrides": list(map(without_secrets, overrides))}
        write_json(folder / "sweep.json", facts | sweep.model_dump())
        # If the next trial does not wait for the first to end, a slow one keeps no worker idle; but after a deadline,
        # those that wait in a queue would still start.
        ahead = 4 if study.independent and runner.room > 1 and hours == math.inf else 1
        search = Search(study, runner, trials, base, overrides, inputs, stem, runner.room * ahead)
        try:
            while len(study.trials) < trials:
                while search.has_room and (time.monotonic() < deadline or not search.started):
                    search.start_next()
                if not search.waiting:
                    say(f"sweep {name}: ends after {hours:g} hours with {len(study.trials)} of {trials} trials")
                    break
                search.finish_next()
                write_table(folder / "trials.csv", study.table())
        except KeyboardInterrupt:
            say(f"sweep {name}: stopped with {len(study.trials)} of {trials} trials; the same command resumes")
            raise
        write_table(folder / "trials.csv", study.table())
        _report_best(study, folder, sandbox)


def _inputs(snapshot: Snapshot, base: dict[str, Any], sweep: Sweep) -> dict[str, str]:
    """What decides the results apart from the parameters; an error if weights that are searched are not here."""
    searched = sweep.space.get("model.pretrained")
    if searched is None:
        return snapshot.inputs(base)
    inputs = snapshot.inputs(with_parameters(base, {"model.pretrained": False}))
    weights = [weights_identity(value) for value in searched if isinstance(value, bool | str)]
    return inputs | {"model.pretrained": digest(*weights)}


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


class Search:
    """Starts the trials of a study, and records them in their order.

    Args:
        trials: how many there are in the end.
        base: content of ``params.yaml`` with the overrides.
        overrides: ``key=value``, for all trials.
        inputs: what else decides the result of a trial, :meth:`Snapshot.inputs`.
        stem: the beginning of the experiments' names.
        room: how many trials are running or queued at the same time.
    """

    def __init__(
        self,
        study: Study,
        runner: Runner,
        trials: int,
        base: dict[str, Any],
        overrides: Sequence[str],
        inputs: dict[str, str],
        stem: str,
        room: int,
    ) -> None:
        self.study, self.runner, self.trials = study, runner, trials
        self.base, self.overrides, self.inputs, self.stem, self.room = base, overrides, inputs, stem, room
        self.waiting: deque[tuple[OpenTrial, Callable[[], tuple[OpenTrial, Outcome]]]] = deque()
        self.started = 0

    @property
    def has_room(self) -> bool:
        """Whether another trial can be started now."""
        return len(self.waiting) < min(self.room, self.trials - len(self.study.trials))

    def start_next(self) -> None:
        """Start the next trial, which may have ended then."""
        others = [trial for trial, _ in self.waiting]
        trial = self.study.ask(others, self.room)
        say(f"trial {trial.number} of {self.trials}: {parameters_text(trial.parameters)}")
        self.started += 1
        if any(other.parameters == trial.parameters for other in others):
            # When its turn comes, the other one has ended.
            self.waiting.append((trial, lambda: self._start(trial)()))
        else:
            self.waiting.append((trial, self._start(trial)))

    def finish_next(self) -> None:
        """Wait for the first of the running trials, and record it.

        Raises:
            PipelineError: it failed for a reason that has nothing to do with its parameters.
            KeyboardInterrupt: nothing is lost; the next run of the same trial resumes from its checkpoint.
        """
        trial, outcome = self.waiting.popleft()[1]()
        self.study.tell(trial, outcome)
        say(f"trial {trial.number} of {self.trials}: {trial_line(self.study.trials[-1], self.study.best())}")

    def _start(self, trial: OpenTrial) -> Callable[[], tuple[OpenTrial, Outcome]]:
        same = self.study.find_same(trial)
        if same is not None:
            outcome = _repeated(trial, same)
            return lambda: (trial, outcome)
        content = with_parameters(self.base, trial.parameters)
        name = f"{self.stem}-{trial.number:03}-{digest(self.inputs, content)}"
        return self.runner.submit(
            TrialJob(name, trial, content, self.overrides, self.study.sweep.measured, SWEEPS / self.study.name)
        )


@dataclass(frozen=True)
class TrialJob:
    """Runs a trial, or reads it from an experiment with the same parameters; its result is the trial with its epochs,
    which may have been in another process, and its outcome.

    Attributes:
        name: of the experiment.
        content: of ``params.yaml``, with the parameters of the trial.
        overrides: ``key=value``, for all trials.
        metric: what is measured.
        folder: of the sweep.
    """

    name: str
    trial: OpenTrial
    content: dict[str, Any]
    overrides: Sequence[str]
    metric: Metric
    folder: Path

    @property
    def pattern(self) -> str:
        return f"*-{self.name.rpartition('-')[2]}"

    def __call__(self, sandbox: Sandbox) -> tuple[OpenTrial, Outcome]:
        start = time.monotonic()
        outcome = self._outcome(sandbox)
        outcome.facts["seconds"] = round(time.monotonic() - start, 1)
        return self.trial, outcome

    def _outcome(self, sandbox: Sandbox) -> Outcome:
        try:
            check_params(self.content, PARAMS)
        except PipelineError as error:
            return _failed(error)
        experiment = sandbox.find(self.pattern)
        if experiment:
            say(f"  exists already: experiment {experiment.name}")
            return self._read(experiment)
        # Each trial has its own: several may run at the same time, perhaps on machines that share a disk.
        folder = self.folder / "checkpoints"
        checkpoints = (folder_variable("PIPELINE_CHECKPOINTS") or folder).absolute() / self.name
        try:
            outcome = self._run(sandbox, checkpoints)
        except DvcError as error:
            if error.stage in STAGES_BEFORE_TRIAL or error.exit_code == MachineError.exit_code:
                raise
            outcome = _failed(error)
        # The checkpoints of a hundred pruned trials would fill the disk.
        shutil.rmtree(checkpoints, ignore_errors=True)
        with suppress(OSError):  # that of another trial is in it
            folder.rmdir()
        return outcome

    def _run(self, sandbox: Sandbox, checkpoints: Path) -> Outcome:
        curve, trial = self.metric.curve, self.trial

        def is_pruned() -> bool:
            if curve:
                with suppress(FileNotFoundError):
                    self._report_epochs((sandbox.folder / curve).read_text("utf-8"))
            return trial.pruned

        # "++" also adds a key, to a parameter that is a mapping.
        overrides = [*self.overrides, *(f"++{key}={_in_hydra(value)}" for key, value in trial.parameters.items())]
        variables = {"PIPELINE_CHECKPOINTS": str(checkpoints)}
        # Before these stages, the curves may be those of the commit.
        complete = sandbox.run(
            self.name, overrides, lambda stage: stage in STAGES_WITH_CURVES and is_pruned(), variables
        )
        # Whether a trial is pruned must not depend on when the curve was read.
        if not complete or is_pruned():
            return Outcome(TrialState.PRUNED, trial.value)
        return self._complete(sandbox.fetch(self.name))

    def _read(self, experiment: Experiment) -> Outcome:
        """The outcome of an experiment that exists, pruned if a run of it would have been pruned now."""
        if self.metric.curve:
            self._report_epochs(experiment.read(self.metric.curve))
        if self.trial.pruned:
            return Outcome(TrialState.PRUNED, self.trial.value, {"experiment": experiment.name})
        return self._complete(experiment)

    def _complete(self, experiment: Experiment) -> Outcome:
        metric = self.metric
        value = experiment.results(metric.stage, metric.folder).get(metric.key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return _failed(f"{metric.stage}.{metric.key} of experiment {experiment.name} is {value}")
        return Outcome(TrialState.COMPLETE, float(value), {"experiment": experiment.name})

    def _report_epochs(self, curve: str) -> None:
        """Report the new epochs in the table of a curve of DVCLive until one of them decides to prune the trial."""
        # The last line may still be being written.
        rows, epochs = curve[: curve.rfind("\n") + 1].splitlines()[1:], self.content["train"]["epochs"]
        for row in rows[self.trial.epochs :]:
            if not self.trial.pruned:
                self.trial.report(float(row.split("\t")[1]), last=self.trial.epochs + 1 == epochs)


def _repeated(trial: OpenTrial, same: FrozenTrial) -> Outcome:
    """The outcome of an earlier trial with the same parameters, which was pruned or failed."""
    say(f"  same parameters as trial {same.number + 1}")
    for value in same.intermediate_values.values():
        trial.report(value, last=True)
    facts = {name: fact for name, fact in same.user_attrs.items() if name != "seconds"}
    return Outcome(same.state, same.value, {**facts, "seconds": 0.0})


def _failed(reason: object) -> Outcome:
    return Outcome(TrialState.FAIL, None, {"reason": one_line(str(reason))})


def _in_hydra(value: Value) -> str:
    """A value as ``dvc exp run -S`` reads it; a string is quoted, whatever it looks like."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return in_yaml(value)
