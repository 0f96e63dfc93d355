"""One configuration under several seeds, each an experiment that DVC runs."""

import hashlib
import json
import time
from collections.abc import Sequence

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.experiments.revisions import read_metrics
from pipeline.experiments.sandbox import SANDBOXES, open_sandbox, override_key, take_snapshot
from pipeline.progress import say

SEED_METRICS = {"evaluate": ("accuracy", "log_loss", "macro_f1"), "train": ("valid_accuracy",)}


def run_seeds(seeds: Sequence[int], overrides: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Run this configuration, as the workspace has it, under each seed as an experiment of DVC, up to ``evaluate``.

    It runs in a clone that shares DVC's cache: the workspace is left alone, and what is changed there meanwhile
    changes nothing here.

    Args:
        seeds: values of the parameter ``seed``.
        overrides: further parameters, ``key=value``, as ``dvc exp run -S`` takes them.

    Returns:
        The column experiment, its name, and the columns of metrics, indexed by the seed; and a line for each seed
        that failed.

    Raises:
        PipelineError: this is no repository of DVC with a commit, or an override is none or is that of the seed.
    """
    for override in overrides:
        if override_key(override) == "seed":
            raise PipelineError(f"-S: got {override!r}; the seeds are those of --first and --n")
    snapshot = take_snapshot()
    # All that can change a result, and so an experiment of this name is the one wanted.
    digest = hashlib.sha256(json.dumps([snapshot.head, snapshot.tree, *overrides]).encode()).hexdigest()[:7]
    rows, failures = {}, []
    with open_sandbox(SANDBOXES / "seeds" / digest, snapshot, "the seeds of this configuration") as sandbox:
        for count, seed in enumerate(seeds, start=1):
            name, start = f"seed-{seed}-{digest}", time.monotonic()
            say(f"seed {seed} ({count} of {len(seeds)}): experiment {name}")
            try:
                if snapshot.experiments(name):
                    say("  is there already")
                else:
                    sandbox.run(name, [f"seed={seed}", *overrides])
                    sandbox.fetch(name)
                rows[seed] = {"experiment": name, **_seed_metrics(name)}
            except PipelineError as error:
                failures.append(f"seed {seed}: {error}")
                say(f"seed {seed}: failed: {error}")
            else:
                say(f"seed {seed}: accuracy {rows[seed]['accuracy']:.4f}, {time.monotonic() - start:,.0f} s")
    return pd.DataFrame.from_dict(rows, orient="index"), failures


def _seed_metrics(name: str) -> dict[str, float]:
    metrics = {stage: read_metrics(name, stage) for stage in SEED_METRICS}
    return {key: metrics[stage][key] for stage, keys in SEED_METRICS.items() for key in keys if key in metrics[stage]}
