"""Stage ``learning_rates``: the effect of the learning rate on an error surface, with the torch optimizers."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.common.files import write_table
from pipeline.common.paths import PLOTS
from pipeline.learning_rates.descent import Factor, Method, descend, methods, schedules, surface_error
from pipeline.learning_rates.plots import plot_error_surface
from pipeline.params.schema import LearningRatesParams
from pipeline.progress import say


def learning_rates(params: LearningRatesParams) -> None:
    """Write all paths to ``results/plots/learning_rates.csv``, and plot them to ``learning_rates.png``."""
    table = pd.concat(
        [
            walk(method, name, factor, params)
            for method in methods(params.lr, params.gd_lr_large, params.gd_lr_small)
            for name, factor in schedules(params.decay_steps, params.warmup_steps).items()
        ],
        ignore_index=True,
    )
    write_table(PLOTS / "learning_rates.csv", table, "%.6g")
    plot_error_surface(PLOTS / "learning_rates.png", table, params.condition_number)
    nearest = table.iloc[table["error"].argmin()]
    say(
        f"learning_rates: {params.steps:,} steps of each path; the smallest error is {nearest['error']:.2g}, "
        f"with {nearest['optimizer']}, {nearest['schedule']}"
    )


def walk(method: Method, schedule: str, factor: Factor, params: LearningRatesParams) -> pd.DataFrame:
    """Compute one path.

    Returns:
        One row per point, with the columns optimizer, schedule, step, w1, w2, error and lr, the learning rate of the
        next step. A path that diverges ends where its error is no longer finite.
    """
    path = descend(method.make, method.adapt(factor), params.steps, params.condition_number)
    steps = np.arange(len(path))
    table = pd.DataFrame(
        {
            "optimizer": method.name,
            "schedule": schedule,
            "step": steps,
            "w1": path[:, 0],
            "w2": path[:, 1],
            "error": surface_error(torch.from_numpy(path), params.condition_number).numpy(),
            "lr": [method.lr * factor(int(step)) for step in steps],
        }
    )
    finite: NDArray[np.bool_] = np.isfinite(table["error"].to_numpy())
    return table[finite]
