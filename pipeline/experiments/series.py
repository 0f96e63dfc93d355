"""One configuration several times, each time with another value of one parameter, as DVC experiments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.experiments.ray_cluster import Cluster, open_runner
from pipeline.experiments.revisions import Experiment
from pipeline.experiments.sandbox import SANDBOXES, Sandbox, Snapshot, digest, open_sandbox
from pipeline.progress import say, table_lines

METRICS = {"evaluate": ("accuracy", "log_loss", "macro_f1"), "train": ("valid_accuracy",)}


@dataclass(frozen=True)
class SeriesJob:
    """Runs one of them, with parameters ``key=value``; its result is the seconds that it took."""

    name: str
    parameters: Sequence[str]

    @property
    def pattern(self) -> str:
        return self.name

    def __call__(self, sandbox: Sandbox) -> float:
        start = time.monotonic()
        if sandbox.find(self.name):
            say("  exists already")
        else:
            sandbox.run(self.name, self.parameters)
            sandbox.fetch(self.name)
        return time.monotonic() - start


@dataclass(frozen=True)
class Series:
    """What experiments with different values of one parameter have in common.

    Attributes:
        kind: what messages call one of them, and the beginning of its name: ``seed``.
        key: of the parameter.
        overrides: ``key=value`` as for ``dvc exp run -S``, of all experiments.
        snapshot: the files that they run on.
        facts: JSON values that decide the results; experiments with the same facts and values are not run again.
        cluster: where they run, all at once; None runs them here, one after the other.
    """

    kind: str
    key: str
    overrides: Sequence[str]
    snapshot: Snapshot
    facts: Sequence[Any]
    cluster: Cluster | None = None

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
        with open_sandbox(folder, self.snapshot, subject) as sandbox, open_runner(sandbox, self.cluster) as runner:
            waiting: dict[int, tuple[str, Callable[[], float]]] = {}
            for value in values:
                name = f"{self.kind}-{value}-{self.identity}"
                waiting[value] = name, runner.submit(SeriesJob(name, [*self.overrides, f"{self.key}={value}"]))
            for count, (value, (name, result)) in enumerate(waiting.items(), start=1):
                label = f"{self.kind} {value}"
                say(f"{label} ({count} of {len(values)}): experiment {name}")
                try:
                    seconds, experiment = result(), sandbox.find(name)
                    assert experiment is not None
                    rows[value], experiments[value] = {"experiment": name, **_metrics(experiment)}, experiment
                except PipelineError as error:
                    failures.append(f"{label}: {error}")
                    say(f"{label}: failed: {error}")
                else:
                    say(f"{label}: accuracy {rows[value]['accuracy']:.4f}, {seconds:,.0f} s")
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
