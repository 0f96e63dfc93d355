"""One configuration with several seeds, each a DVC experiment, and what their spread says about differences."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from pipeline.errors import PipelineError
from pipeline.experiments.comparison import LEVEL, table_lines, wrapped
from pipeline.experiments.dvc_command import overridden_params, override_key
from pipeline.experiments.revisions import Experiment
from pipeline.experiments.sandbox import SANDBOXES, digest, open_sandbox, take_snapshot
from pipeline.progress import say

SEED_METRICS = {"evaluate": ("accuracy", "log_loss", "macro_f1"), "train": ("valid_accuracy",)}


def run_seeds(seeds: Sequence[int], overrides: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Run the configuration of the workspace with each seed as a DVC experiment, up to ``evaluate``.

    The experiments run in a clone: the workspace does not change, and later changes to it have no effect. An
    experiment with the same code, data and parameters is not run again, whatever commit it is based on.

    Returns:
        The column experiment, its name, and columns of metrics, indexed by the seed; and one line per seed that failed.

    Raises:
        PipelineError: this is not a DVC repository with a commit, or an override is not allowed.
    """
    for override in overrides:
        if override_key(override) == "seed":
            raise PipelineError(f"-S: got {override!r}; --first and --n set the seeds")
    params = overridden_params(overrides)
    snapshot = take_snapshot()
    identity = digest(snapshot.inputs(params["data"]), {**params, "seed": None})
    rows, failures = {}, []
    with open_sandbox(SANDBOXES / "seeds" / identity, snapshot, "the seeds of this configuration") as sandbox:
        for count, seed in enumerate(seeds, start=1):
            name, start = f"seed-{seed}-{identity}", time.monotonic()
            say(f"seed {seed} ({count} of {len(seeds)}): experiment {name}")
            try:
                experiment = sandbox.find(name)
                if experiment:
                    say("  exists already")
                else:
                    sandbox.run(name, [f"seed={seed}", *overrides])
                    experiment = sandbox.fetch(name)
                rows[seed] = {"experiment": name, **_metrics(experiment)}
            except PipelineError as error:
                failures.append(f"seed {seed}: {error}")
                say(f"seed {seed}: failed: {error}")
            else:
                say(f"seed {seed}: accuracy {rows[seed]['accuracy']:.4f}, {time.monotonic() - start:,.0f} s")
    return pd.DataFrame.from_dict(rows, orient="index"), failures


def _metrics(experiment: Experiment) -> dict[str, float]:
    metrics = {stage: experiment.results(stage) for stage in SEED_METRICS}
    return {key: metrics[stage][key] for stage, keys in SEED_METRICS.items() for key in keys if key in metrics[stage]}


def seed_statistics(results: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation (n − 1), minimum and maximum of each column; one seed has no deviation."""
    return results.agg(["mean", "std", "min", "max"])


def least_between_means(deviation: float, seeds: int) -> float:
    """The smallest difference of two means over ``seeds`` seeds each that a t test (5 %, two-sided) finds significant;
    both have the same standard deviation."""
    return float(t.isf((1 - LEVEL) / 2, 2 * seeds - 2) * deviation * np.sqrt(2 / seeds))


def seed_lines(results: pd.DataFrame) -> list[str]:
    """The results of :func:`run_seeds` as a table, their statistics, and how large a difference is significant."""
    metrics = results.drop(columns="experiment")
    statistics = seed_statistics(metrics)
    rows = pd.concat([results, statistics.assign(experiment="")]).rename_axis("seed").reset_index()
    lines = table_lines(rows, dict.fromkeys(metrics.columns, "{:.4f}"))
    if len(results) < 2:
        return lines
    mean, deviation, least, greatest = statistics["accuracy"]
    needed = 100 * least_between_means(deviation, len(results))
    return lines + wrapped(
        f"Accuracy {mean:.2%} ± {100 * deviation:.2f} points (mean and standard deviation of {len(results)} seeds), "
        f"{least:.2%} to {greatest:.2%}. Other settings are significantly better or worse if their mean over as many "
        f"seeds differs by {needed:.2f} points or more (t test, 5 %)."
    )
