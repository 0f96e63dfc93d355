"""What a sweep found: a line for each trial, tables and a picture."""

from pathlib import Path

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from pipeline.files import replacing
from pipeline.sweep.schema import Range, Value
from pipeline.sweep.study import STATES, Study

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
    from pipeline.plots.sweep import SweepAxis, plot_sweep

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
