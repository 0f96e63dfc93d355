"""A sweep from its file to its picture."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from pipeline.common.files import replacing, write_json
from pipeline.common.paths import PARAMS, SWEEP_FILES, SWEEPS
from pipeline.errors import PipelineError
from pipeline.experiments.sandbox import SANDBOXES, Snapshot, open_sandbox, take_snapshot
from pipeline.experiments.study import STATES, Study
from pipeline.experiments.sweep_file import Range, Sweep, Value, overridden_params, read_sweep
from pipeline.experiments.trial import TrialRunner, repeated
from pipeline.progress import say


def run_sweep(path: Path, trials: int, overrides: Sequence[str]) -> None:
    """Search the parameters until there are so many trials; each is an experiment of DVC, up to ``evaluate``.

    They run in a clone that shares DVC's cache: the workspace is left alone, and what is changed there meanwhile
    changes nothing here.

    Args:
        path: the sweep's file.
        trials: how many there are to be in all; those of an earlier run of the same sweep count.
        overrides: further parameters, ``key=value``, as ``dvc exp run -S`` takes them.

    Raises:
        PipelineError: the file, an override or the repository is not as it has to be, or every trial failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same command goes on.
    """
    base = overridden_params(overrides)
    sweep = read_sweep(path, base, overrides)
    snapshot = take_snapshot()
    identity = _identity(snapshot, path)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "sweep"
    name = f"{stem}-{_digest(identity, base, sweep)}"
    folder = SWEEPS / name
    with open_sandbox(SANDBOXES / "sweeps" / name, snapshot, f"the sweep {name}") as sandbox:
        study = Study(folder / "journal.log", name, sweep, _most_epochs(sweep, base))
        trials = _announce(study, stem, trials)
        _write_inputs(folder / "sweep.json", path, snapshot, sweep, overrides)
        runner = TrialRunner(
            sandbox, sweep.measured, base, list(overrides), identity, stem, checkpoints=folder / "checkpoints"
        )
        try:
            while len(study.trials) < trials:
                _run_next(study, runner, trials)
                write_table(folder / "trials.csv", study)
        except KeyboardInterrupt:
            say(f"sweep {name}: stopped with {len(study.trials)} of {trials} trials; the same command goes on")
            raise
    write_table(folder / "trials.csv", study)
    _tell(study, folder)


def _run_next(study: Study, runner: TrialRunner, trials: int) -> None:
    trial, start = study.ask(), time.monotonic()
    say(f"trial {trial.number} of {trials}: {parameters_text(trial.parameters)}")
    twin = study.twin(trial)
    outcome = runner.run(trial) if twin is None else repeated(trial, twin)
    study.tell(trial, outcome.state, outcome.value, {**outcome.facts, "seconds": round(time.monotonic() - start, 1)})
    say(f"trial {trial.number} of {trials}: {ending(study.trials[-1], study.best())}")


def _identity(snapshot: Snapshot, path: Path) -> list[Any]:
    """The commit and the files that can change a result, beside the parameters.

    What stages write and what sweeps are there is left out, so that a sweep goes on after ``dvc exp apply``.
    """
    folders, names = ("results/", f"{SWEEP_FILES}/"), ("dvc.lock", PARAMS.name, path.as_posix())
    files = {
        name: object_id
        for name, object_id in snapshot.files().items()
        if not name.startswith(folders) and name not in names
    }
    return [snapshot.head, files]


def _digest(identity: list[Any], base: dict[str, Any], sweep: Sweep) -> str:
    """Seven digits for all that decides the trials of a sweep; values of ``params.yaml`` that it searches do not."""
    fixed = {key: value for key, value in _flat(base, "").items() if key not in sweep.space}
    parts = {name: getattr(sweep, name).model_dump() for name in ("sampler", "pruner")}
    space = {
        name: dimension.model_dump() if isinstance(dimension, Range) else dimension
        for name, dimension in sweep.space.items()
    }
    facts = [identity, fixed, sweep.metric, sweep.seed, parts, list(space.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:7]


def _flat(content: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _most_epochs(sweep: Sweep, base: dict[str, Any]) -> int:
    dimension = sweep.space.get("train.epochs", (base["train"]["epochs"],))
    return int(dimension.high if isinstance(dimension, Range) else max(dimension))


def _announce(study: Study, stem: str, trials: int) -> int:
    """Say which sweep this is, and return how many trials there are to be."""
    done = len(study.trials)
    others = sorted(path.parent.name for path in SWEEPS.glob(f"{stem}-???????/journal.log"))
    if done:
        say(f"sweep {study.name}: goes on after {done} {'trial' if done == 1 else 'trials'}")
    elif others[1:]:
        rest = ", ".join(name for name in others if name != study.name)
        say(f"sweep {study.name}: new; {rest} had another commit, code, parameters or file, and is left as it is")
    else:
        say(f"sweep {study.name}: new")
    if study.size is not None and study.size < trials:
        say(f"sweep {study.name}: its grid has {study.size:,} points, each of which is tried once")
        return study.size
    return trials


def _write_inputs(path: Path, file: Path, snapshot: Snapshot, sweep: Sweep, overrides: Sequence[str]) -> None:
    """Write what the sweep was asked for: its name says only that it is the same."""
    space = {
        name: dimension.model_dump(exclude_defaults=True) if isinstance(dimension, Range) else list(dimension)
        for name, dimension in sweep.space.items()
    }
    named = {name: getattr(sweep, name).model_dump() for name in ("sampler", "pruner")}
    facts = {"file": str(file), "commit": snapshot.head, "metric": sweep.metric, "seed": sweep.seed}
    write_json(path, {**facts, **named, "overrides": list(overrides), "space": space})


def _tell(study: Study, folder: Path) -> None:
    """Draw the picture and name the best trials; an error where there is none."""
    best = study.best()
    if best is None:
        reasons = [trial.user_attrs["reason"] for trial in study.trials if "reason" in trial.user_attrs]
        raise PipelineError(
            f"sweep {study.name}: no trial is complete; the last that failed: {reasons[-1] if reasons else 'none'}; to "
            f"try them again, remove {folder}"
        )
    draw(folder / "sweep.png", study)
    for line in summary(study):
        say(line)
    say(f"sweep {study.name}: {folder}/sweep.png shows what mattered, {folder}/trials.csv has all trials")
    say(f"the best one: dvc exp apply {best.user_attrs['experiment']}, then dvc repro; all of them: dvc exp show")


BEST = 5


def trial_table(study: Study) -> pd.DataFrame:
    """A row a trial: trial, state, value, epochs, seconds, experiment, a column for each parameter, and reason."""
    names = {state: name for name, state in STATES.items()}
    return pd.DataFrame(
        {
            "trial": trial.number + 1,
            "state": names[trial.state],
            "value": trial.value,
            "epochs": len(trial.intermediate_values),
            "seconds": trial.user_attrs.get("seconds"),
            "experiment": trial.user_attrs.get("experiment", ""),
            **trial.params,
            "reason": trial.user_attrs.get("reason", ""),
        }
        for trial in study.trials
    )


def write_table(path: Path, study: Study) -> None:
    """Write the table of all trials as CSV."""
    with replacing(path) as beside:
        trial_table(study).to_csv(beside, index=False)


def draw(path: Path, study: Study) -> None:
    """Draw what mattered."""
    from pipeline.experiments.sweep_plots import SweepAxis, plot_sweep

    table = trial_table(study)
    axes = []
    for name, dimension in study.sweep.space.items():
        if isinstance(dimension, Range):
            axes.append(SweepAxis(name, ends=(dimension.low, dimension.high), log=dimension.log))
        else:
            axes.append(SweepAxis(name, [written(value) for value in dimension]))
            table[name] = [written(trial.params[name]) for trial in study.trials]
    maximize = study.sweep.measured.direction == "maximize"
    plot_sweep(path, table, axes, study.importances(), study.name, study.sweep.metric, maximize)


def parameters_text(trial_parameters: dict[str, Value]) -> str:
    """``train.lr=0.01 train.optimizer=adam``."""
    return " ".join(f"{name}={written(value)}" for name, value in trial_parameters.items())


def written(value: Value) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def ending(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    """How a trial ended, in a line, beside the best one so far."""
    if trial.state == TrialState.FAIL:
        how = f"failed: {trial.user_attrs['reason']}"
    elif trial.state == TrialState.PRUNED:
        how = f"pruned after epoch {trial.last_step} at {trial.value:.4f}"
    else:
        how = f"{trial.value:.4f}"
    so_far = "" if best is None else f"; best {best.value:.4f} of trial {best.number + 1}"
    return f"{how}{so_far}, {trial.user_attrs['seconds']:,.0f} s"


def summary(study: Study) -> list[str]:
    """The best trials and how many there are of each state."""
    table = trial_table(study)
    counts = ", ".join(f"{count:,} {state}" for state, count in table["state"].value_counts().items())
    complete = table[table["state"] == "complete"].sort_values(
        ["value", "trial"], ascending=[study.sweep.measured.direction == "minimize", True]
    )
    columns = ["trial", "value", *study.sweep.space, "experiment"]
    shown = complete.drop_duplicates("experiment").head(BEST)[columns].rename(columns={"value": study.sweep.metric})
    for name in study.sweep.space:
        shown[name] = shown[name].map(written)
    return [
        f"{len(table):,} trials: {counts}",
        *shown.to_string(index=False, formatters={study.sweep.metric: "{:.4f}".format}).splitlines(),
    ]
