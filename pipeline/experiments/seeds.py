"""One configuration with several seeds, each a DVC experiment, and what their spread says about differences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from pipeline.common.shares import LEVEL
from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import overridden_params, override_key
from pipeline.experiments.ray_cluster import Cluster
from pipeline.experiments.sandbox import take_snapshot
from pipeline.experiments.series import Series, series_lines, statistics
from pipeline.progress import wrapped


def run_seeds(
    seeds: Sequence[int], overrides: Sequence[str], cluster: Cluster | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Run the configuration of the workspace with each seed as a DVC experiment, up to ``evaluate``.

    The experiments run in a clone: the workspace does not change, and later changes to it have no effect. An
    experiment with the same code, data and parameters is not run again, whatever commit it is based on. On a cluster,
    they run all at once.

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
    facts = [snapshot.inputs(params), {**params, "seed": None}]
    series = Series("seed", "seed", overrides, snapshot, facts, cluster)
    results, _, failures = series.run(seeds)
    return results, failures


def least_between_means(deviation: float, seeds: int) -> float:
    """The smallest difference of two means over ``seeds`` seeds each that a t test (5 %, two-sided) finds significant;
    both have the same standard deviation."""
    return float(t.isf((1 - LEVEL) / 2, 2 * seeds - 2) * deviation * np.sqrt(2 / seeds))


def seed_lines(results: pd.DataFrame) -> list[str]:
    """The results of :func:`run_seeds` as a table, their statistics, and how large a difference is significant."""
    lines = series_lines("seed", results)
    if len(results) < 2:
        return lines
    mean, deviation, least, greatest = statistics(results[["accuracy"]])["accuracy"]
    if not deviation:
        return [
            *lines,
            f"All {len(results)} seeds have the accuracy {mean:.2%}: more seeds may show how much it varies.",
        ]
    needed = 100 * least_between_means(deviation, len(results))
    return lines + wrapped(
        f"Accuracy {mean:.2%} ± {100 * deviation:.2f} points (mean and standard deviation of {len(results)} seeds), "
        f"{least:.2%} to {greatest:.2%}. Other settings are significantly better or worse if their mean over as many "
        f"seeds differs by {needed:.2f} points or more (t test, 5 %)."
    )
