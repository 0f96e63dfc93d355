"""One configuration several times, each time with another value of one parameter, as DVC experiments."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.experiments.comparison import table_lines
from pipeline.experiments.revisions import Experiment
from pipeline.experiments.sandbox import SANDBOXES, Snapshot, digest, open_sandbox
from pipeline.progress import say

METRICS = {"evaluate": ("accuracy", "log_loss", "macro_f1"), "train": ("valid_accuracy",)}


@dataclass(frozen=True)
class Series:
    """What experiments with different values of one parameter have in common.

    Attributes:
        kind: what messages call one of them, and the beginning of its name: ``seed``.
        key: of the parameter.
        overrides: ``key=value`` as for ``dvc exp run -S``, of all experiments.
        snapshot: the files that they run on.
        facts: JSON values that decide the results; experiments with the same facts and values are not run again.
    """

    kind: str
    key: str
    overrides: Sequence[str]
    snapshot: Snapshot
    facts: Sequence[Any]

    @property
    def identity(self) -> str:
        """The end of the names of the experiments."""
        return digest(*self.facts)

    def run(self, values: Sequence[int]) -> tuple[pd.DataFrame, dict[int, Experiment], list[str]]:
        """Run the experiments up to ``evaluate``, except those that exist, whatever commit these are based on.

        Returns:
            The column experiment, its name, and columns of metrics, indexed by the value; the experiments by their
            values; and one line per experiment that failed.
        """
        rows, experiments, failures = {}, {}, []
        folder, subject = SANDBOXES / f"{self.kind}s" / self.identity, f"the {self.kind}s of this configuration"
        with open_sandbox(folder, self.snapshot, subject) as sandbox:
            for count, value in enumerate(values, start=1):
                label, name, start = f"{self.kind} {value}", f"{self.kind}-{value}-{self.identity}", time.monotonic()
                say(f"{label} ({count} of {len(values)}): experiment {name}")
                try:
                    experiment = sandbox.find(name)
                    if experiment:
                        say("  exists already")
                    else:
                        sandbox.run(name, [f"{self.key}={value}", *self.overrides])
                        experiment = sandbox.fetch(name)
                    rows[value], experiments[value] = {"experiment": name, **_metrics(experiment)}, experiment
                except PipelineError as error:
                    failures.append(f"{label}: {error}")
                    say(f"{label}: failed: {error}")
                else:
                    say(f"{label}: accuracy {rows[value]['accuracy']:.4f}, {time.monotonic() - start:,.0f} s")
        return pd.DataFrame.from_dict(rows, orient="index"), experiments, failures


def _metrics(experiment: Experiment) -> dict[str, Any]:
    metrics = {stage: experiment.results(stage) for stage in METRICS}
    return {key: metrics[stage][key] for stage, keys in METRICS.items() for key in keys if key in metrics[stage]}


def statistics(results: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation (n − 1), minimum and maximum of each column; one row has no deviation."""
    return results.agg(["mean", "std", "min", "max"])


def series_lines(kind: str, results: pd.DataFrame) -> list[str]:
    """The results of :meth:`Series.run` and their statistics as a table."""
    metrics = results.drop(columns="experiment")
    rows = pd.concat([results, statistics(metrics).assign(experiment="")]).rename_axis(kind).reset_index()
    return table_lines(rows, dict.fromkeys(metrics.columns, "{:.4f}"))
