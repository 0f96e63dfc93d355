"""Stage ``learning_rates``: what the learning rate does on an error surface, by the real torch optimizers."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.common.files import replacing
from pipeline.common.paths import PLOTS
from pipeline.learning_rates.descent import Factor, Method, descend, methods, schedules, surface_error
from pipeline.learning_rates.plots import plot_error_surface
from pipeline.params.schema import LearningRatesParams
from pipeline.progress import say


def learning_rates(params: LearningRatesParams) -> None:
    """Write every path, ``results/plots/learning_rates.csv``, and their picture, ``learning_rates.png`` beside it."""
    table = pd.concat(
        [
            walk(method, name, factor, params)
            for method in methods(params.lr, params.gd_lr_large, params.gd_lr_small)
            for name, factor in schedules(params.decay_steps, params.warmup_steps).items()
        ],
        ignore_index=True,
    )
    with replacing(PLOTS / "learning_rates.csv") as beside:
        table.to_csv(beside, index=False, float_format="%.6g")
    plot_error_surface(PLOTS / "learning_rates.png", table, params.condition_number)
    nearest = table.iloc[table["error"].argmin()]
    say(
        f"learning_rates: {params.steps:,} steps of each path; the least error is {nearest['error']:.2g}, "
        f"by {nearest['optimizer']}, {nearest['schedule']}"
    )


def walk(method: Method, schedule: str, factor: Factor, params: LearningRatesParams) -> pd.DataFrame:
    """Walk one path.

    Returns:
        A row a point, with the columns optimizer, schedule, step, w1, w2, error and lr, the rate of the step that
        follows. A path that diverges ends where its error is no longer a finite number.
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
