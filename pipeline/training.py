"""The training loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.batches import Batches, steps_per_epoch
from pipeline.errors import PipelineError
from pipeline.params.train import TrainParams
from pipeline.progress import progress

Row = dict[str, float]


@dataclass
class Fit:
    """What training gives: a row an epoch, a row a step, and the state of the best epoch."""

    epochs: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    best: Row = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)


def fit(
    model: nn.Module,
    train: Batches,
    valid: Batches,
    params: TrainParams,
    seed: int,
    on_epoch: Callable[[Row], None],
) -> Fit:
    """Train until the last epoch, or until ``patience`` epochs brought no better validation accuracy.

    Raises:
        PipelineError: the loss is no longer finite.
    """
    result = Fit()
    optimizer = torch.optim.Adam(model.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    for epoch in range(1, params.epochs + 1):
        steps = _train_epoch(model, train, optimizer, params, seed, epoch)
        row = {"epoch": epoch, **_means(steps), **_validate(model, valid, params.batch_size)}
        result.epochs.append(row)
        result.steps += [{"step": len(result.steps) + index, **step} for index, step in enumerate(steps)]
        if not result.best or _score(row) > _score(result.best):
            result.best = row
            result.best_state = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        on_epoch(row)
        if params.patience and epoch - result.best["epoch"] >= params.patience:
            break
    return result


def _score(row: Row) -> tuple[float, float]:
    """Of two epochs with one accuracy, the one with the lower loss is better."""
    return row["valid_accuracy"], -row["valid_loss"]


def _train_epoch(
    model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, params: TrainParams, seed: int, epoch: int
) -> list[Row]:
    model.train()
    steps = steps_per_epoch(len(batches), params.batch_size)
    # Read once, at the end: reading a value in a step would make the host wait for the device.
    log = torch.zeros(steps, 3, device=batches.device)
    shuffled = batches.shuffled(params.batch_size, seed, epoch)
    label = f"epoch {epoch} of {params.epochs}"
    for step, (images, labels) in enumerate(progress(shuffled, steps, label, unit="steps")):
        optimizer.zero_grad()
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm or math.inf)
        optimizer.step()
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        log[step] = torch.stack([loss.detach(), accuracy, norm.detach()])
    rows = [
        {"loss": loss, "accuracy": accuracy, "gradient_norm": norm, "lr": params.lr}
        for loss, accuracy, norm in log.tolist()
    ]
    _refuse_divergence(rows, epoch)
    return rows


def _refuse_divergence(rows: list[Row], epoch: int) -> None:
    for step, row in enumerate(rows):
        if not math.isfinite(row["loss"]):
            raise PipelineError(
                f"train: the loss is {row['loss']} in step {step} of epoch {epoch}; try a lower train.lr "
                f"({row['lr']:g} now) or train.clip_norm"
            )


def _means(steps: list[Row]) -> Row:
    return {
        f"train_{name}": sum(step[name] for step in steps) / len(steps)
        for name in ("loss", "accuracy", "gradient_norm")
    } | {"lr": steps[-1]["lr"]}


@torch.inference_mode()
def _validate(model: nn.Module, batches: Batches, batch_size: int) -> Row:
    model.eval()
    totals: Any = torch.zeros(2, device=batches.device, dtype=torch.float64)
    for images, labels in batches.in_order(batch_size):
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        totals += torch.stack([loss, (logits.argmax(1) == labels).sum()])
    loss, correct = (totals / len(batches)).tolist()
    return {"valid_loss": loss, "valid_accuracy": correct}
