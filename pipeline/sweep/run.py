"""A sweep from its file to its picture."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.experiments.sandbox import SANDBOXES, Snapshot, open_sandbox, take_snapshot
from pipeline.files import write_json
from pipeline.paths import PARAMS, SWEEP_FILES, SWEEPS
from pipeline.progress import say
from pipeline.sweep.file import overridden_params, read_sweep
from pipeline.sweep.results import draw, ending, parameters_text, summary, write_table
from pipeline.sweep.schema import Range, Sweep
from pipeline.sweep.study import Study
from pipeline.sweep.trial import TrialRunner, repeated


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
