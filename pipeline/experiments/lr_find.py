"""The learning rate range test (Smith 2017, Cyclical Learning Rates for Training Neural Networks)."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.dataset import PackedDataset
from pipeline.common.files import write_table
from pipeline.common.paths import DATASET, PLOTS
from pipeline.errors import PipelineError
from pipeline.network.batches import shuffled_plan
from pipeline.network.device import choose_device
from pipeline.params.schema import ModelParams, TrainParams
from pipeline.plots.style import saved_figure
from pipeline.progress import progress, say
from pipeline.train.distributed import ProcessGroup
from pipeline.train.stage import open_trainer
from pipeline.train.trainer import Trainer

SMOOTHING = 0.9
DIVERGED = 4.0


def lr_find(model_params: ModelParams, params: TrainParams, seed: int, steps: int, low: float, high: float) -> None:
    """Write ``results/plots/lr_find.csv`` and its plot, and print a suggestion for ``train.lr``.

    Raises:
        PipelineError: there is no dataset, ``low`` is not below ``high``, or the loss diverges in the first steps.
    """
    if not 0 < low < high < math.inf:
        raise PipelineError(f"lr-find: got --low {low:g} and --high {high:g}, allowed is a low below a finite high")
    if params.freeze_epochs < params.epochs:
        # The phase of the whole network decides: the last layer alone bears a higher rate.
        params = params.model_copy(update={"freeze_epochs": 0})
    trainer, _ = open_trainer(PackedDataset(DATASET), model_params, params, seed, choose_device(), ProcessGroup())
    table = range_test(trainer, steps, low, high)
    if len(table) < 2:
        raise PipelineError(f"lr-find: the loss diverges in the first steps with --low {low:g}; use a lower value")
    suggestion = suggest(table)
    write_table(PLOTS / "lr_find.csv", table, "%.6g")
    plot_lr_range(PLOTS / "lr_find.png", table, suggestion, params.optimizer)
    say(f"lr-find: {PLOTS / 'lr_find.png'} suggests train.lr {suggestion:.1e} for {params.optimizer}")


def range_test(trainer: Trainer, steps: int, low: float, high: float) -> pd.DataFrame:
    """Train with a learning rate that grows by the same factor at each step, until the loss diverges.

    Returns:
        Columns lr, loss, and smoothed, the bias-corrected moving average of the loss.
    """
    trainer.train_mode()
    images, copies = trainer.train.shape[:2]
    size, least = trainer.params.batch_size, trainer.params.min_steps_per_epoch
    plans = (shuffled_plan(images, copies, size, trainer.seed, epoch, min_steps=least) for epoch in range(1, steps + 1))
    batches = (batch for plan in plans for batch in trainer.train.load(plan))
    rows: list[tuple[float, float, float]] = []
    average, best = 0.0, math.inf
    for step, batch in enumerate(progress(batches, steps, "lr-find", "steps")):
        lr = low * (high / low) ** (step / (steps - 1))
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # With train.layer_decay the other layers keep their ratio to the last one.
                group["lr"] = lr * (group["initial_lr"] / trainer.params.lr)
        loss = trainer.train_step(*batch)[0].item()
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        best = min(best, smoothed)
        if not math.isfinite(loss) or smoothed > DIVERGED * best:
            break
        rows.append((lr, loss, smoothed))
        if step + 1 == steps:
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed"])


def suggest(table: pd.DataFrame) -> float:
    """The learning rate at which the smoothed loss falls most steeply over the logarithm of the rate."""
    slope = np.gradient(table["smoothed"].to_numpy(), np.log(table["lr"].to_numpy()))
    # In the first steps the average is over too few losses.
    first = min(len(slope) - 1, 5)
    return float(table["lr"].iloc[first + int(np.argmin(slope[first:]))])


def plot_lr_range(path: Path, table: pd.DataFrame, suggestion: float, optimizer: str) -> None:
    """Draw the loss over the learning rate; ``table`` has the columns lr, loss and smoothed."""
    with saved_figure(path, 8, 5) as figure:
        axis = figure.subplots()
        axis.plot(table["lr"], table["loss"], color="C0", alpha=0.3, linewidth=0.8, label="loss of each step")
        axis.plot(table["lr"], table["smoothed"], color="C0", label="smoothed")
        axis.axvline(suggestion, color="C3", linestyle="--", label=f"steepest: {suggestion:.1e}")
        axis.set(xscale="log", xlabel="learning rate", ylabel="loss", title=f"Learning rate range test, {optimizer}")
        axis.legend(frameon=False)
