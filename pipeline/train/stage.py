"""Stage ``train``: fit the network and keep its best epoch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.common.dataset import PackedDataset
from pipeline.common.files import replacing
from pipeline.common.paths import DATASET, METRICS, MODEL, PLOTS
from pipeline.errors import PipelineError
from pipeline.machine import checkpoint_minutes, tensorboard_folder
from pipeline.network.batches import Batches
from pipeline.network.device import choose_device, describe_device, set_up_torch
from pipeline.network.models import ModelSpec, build_model
from pipeline.network.weights import save_model
from pipeline.params.schema import ModelParams, TrainParams
from pipeline.progress import say
from pipeline.tensorboard import event_log
from pipeline.train.checkpoint import (
    checkpoint_path,
    fingerprint,
    interruptible,
    load_checkpoint,
    reserved,
    save_checkpoint,
)
from pipeline.train.distributed import Group, process_group
from pipeline.train.live import curves_of, live_curves, live_metrics
from pipeline.train.losses import outputs_for
from pipeline.train.precision import choose_precision, describe_precision
from pipeline.train.trainer import STEP_COLUMNS, History, Row, Trainer


def train(model_params: ModelParams, params: TrainParams, seed: int) -> None:
    """Write ``results/model.safetensors``, ``results/metrics/train.json`` and the curves.

    A run that was stopped goes on from its last checkpoint, to the same bits.

    Raises:
        PipelineError: there is no dataset, or the loss is no longer finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint is written first.
    """
    device = choose_device()
    with process_group(device) as group:
        dataset = PackedDataset(DATASET)
        trainer, spec = open_trainer(dataset, model_params, params, seed, device, group)
        facts = {"model": asdict(spec), "pretrained": model_params.pretrained, "train": params.model_dump()}
        path = checkpoint_path(
            fingerprint(**facts, seed=seed, data=dataset.manifest.digest, device=device.type, world=group.world)
        )
        if group.is_main:
            _announce(trainer, spec, device)
        sections = {"model": model_params.model_dump(), "train": params.model_dump()}
        settings = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
        with (
            reserved(path, group),
            _watching(trainer, f"train-{path.stem[:7]}", {"seed": seed, **settings}) as watch,
        ):
            history = _run(trainer, path, watch)
            if group.is_main:
                save_model(MODEL, history.best_state, spec)
                _write_curves(history)
        if group.is_main:
            best = history.best
            say(f"train: {MODEL} is of epoch {best['epoch']:.0f}, valid accuracy {best['valid_accuracy']:.4f}")


def open_trainer(
    dataset: PackedDataset,
    model_params: ModelParams,
    params: TrainParams,
    seed: int,
    device: torch.device,
    group: Group,
) -> tuple[Trainer, ModelSpec]:
    """Seed torch, build the network that the parameters and the dataset ask for, and open both splits."""
    set_up_torch(seed, params.deterministic)
    manifest = dataset.manifest
    spec = ModelSpec(
        name=model_params.name,
        width=model_params.width,
        dropout=model_params.dropout,
        stem=model_params.stem,
        outputs=outputs_for(params.loss, len(manifest.classes)),
        image_size=manifest.image_size,
        resize=manifest.resize,
        classes=manifest.classes,
        mean=manifest.mean,
        std=manifest.std,
    )
    model = build_model(spec, model_params.pretrained).to(device)
    train, valid = (Batches(dataset.split(name), spec.mean, spec.std, device) for name in ("train", "valid"))
    return Trainer(model, train, valid, len(spec.classes), params, seed, group), spec


def _announce(trainer: Trainer, spec: ModelSpec, device: torch.device) -> None:
    parameters = sum(weights.numel() for weights in trainer.bare.parameters())
    place = "held on the device" if trainer.train.resident else "streamed to the device"
    say(
        f"train: {spec.name} with {parameters:,} parameters on {trainer.group.world} × {describe_device(device)}, "
        f"{describe_precision(choose_precision(trainer.params, device), device)}"
    )
    say(
        f"train: {len(trainer.train):,} images with {trainer.train.shape[1]} copies each, {place}, "
        f"{len(trainer.valid):,} to validate"
    )


Watch = Callable[[Row, Tensor], None]


@contextmanager
def _watching(trainer: Trainer, run: str, settings: dict[str, Any]) -> Iterator[Watch]:
    """Yield a function that shows an epoch, its row and its steps, to all who watch: DVC, DVCLive and TensorBoard.

    Args:
        run: a name for TensorBoard's files, where no experiment has one.
        settings: the hyper-parameters.
    """
    if not trainer.group.is_main:
        yield lambda row, steps: None
        return
    folder = tensorboard_folder(run)
    tensorboard = event_log(folder, settings) if folder else nullcontext(lambda epoch, curves, steps: None)
    with live_metrics(METRICS / "train.json") as metrics, tensorboard as events, live_curves() as curves:
        metrics(_metrics(trainer))

        def watch(row: Row, steps: Tensor) -> None:
            metrics(_metrics(trainer))
            named = [dict(zip(STEP_COLUMNS, values, strict=True)) for values in steps.tolist()]
            events(int(row["epoch"]), curves_of(row), named)
            curves(row)

        yield watch


def _run(trainer: Trainer, path: Path, watch: Watch) -> History:
    """Train with checkpoints, from the last one where there is one."""
    group = trainer.group
    # Read by the process that wrote it: the others may run on hosts with disks of their own.
    state = group.broadcast(load_checkpoint(path) if group.is_main else None)
    if state is not None:
        trainer.load_state_dict(state)
        if group.is_main:
            say(f"train: goes on from {path}, epoch {trainer.epoch}, step {trainer.step}")
    history = trainer.history
    for row, steps in zip(history.epochs, history.steps, strict=True):
        watch(row, steps)
    with interruptible() as interrupted:
        checkpoint = _checkpointing(trainer, path, interrupted)

        def on_epoch(row: Row) -> None:
            pace = trainer.progress.end_epoch()
            if group.is_main:
                say(
                    f"train: epoch {row['epoch']:.0f} of {trainer.params.epochs}: loss {row['train_loss']:.4f}, valid "
                    f"loss {row['valid_loss']:.4f}, valid accuracy {row['valid_accuracy']:.4f}{pace}"
                )
            watch(row, history.steps[-1])
            checkpoint(True)

        try:
            return trainer.fit(lambda: checkpoint(False), on_epoch)
        except torch.OutOfMemoryError as error:
            raise PipelineError(
                f"train: {trainer.device} is out of memory ({str(error).splitlines()[0]}); lower train.batch_size "
                f"({trainer.params.batch_size} now), augment.image_size or model.width"
            ) from None


def _checkpointing(trainer: Trainer, path: Path, interrupted: Callable[[], bool]) -> Callable[[bool], None]:
    """Make the function that saves the run when it is due: at an epoch's end, after some minutes, at Ctrl-C."""
    seconds = checkpoint_minutes() * 60
    group, last = trainer.group, time.monotonic()
    # Processes have to agree, which costs a message: they ask one another only now and then.
    interval = 1 if group.world == 1 else 20

    def checkpoint(at_epoch_end: bool) -> None:
        nonlocal last
        if not at_epoch_end and trainer.step % interval:
            return
        stop = group.any(interrupted(), trainer.device)
        if not (stop or at_epoch_end or group.any(time.monotonic() - last >= seconds, trainer.device)):
            return
        state = trainer.state_dict()
        if group.is_main:
            save_checkpoint(path, state)
        last = time.monotonic()
        if stop:
            if group.is_main:
                say(f"train: stopped in epoch {trainer.epoch}; the same command goes on from {path}")
            raise KeyboardInterrupt

    return checkpoint


def _metrics(trainer: Trainer) -> dict[str, Any]:
    """What ``results/metrics/train.json`` says: of the best epoch so far."""
    history = trainer.history
    best = {name: value for name, value in history.best.items() if name not in ("epoch", "lr")}
    return {
        **({"best_epoch": int(history.best["epoch"])} if best else {}),
        "epochs": len(history.epochs),
        "steps": sum(len(steps) for steps in history.steps),
        "parameters": sum(weights.numel() for weights in trainer.bare.parameters()),
        **best,
    }


def _write_curves(history: History) -> None:
    steps = pd.DataFrame(history.step_rows().numpy(), columns=list(STEP_COLUMNS))
    steps.insert(0, "step", range(1, len(steps) + 1))
    with replacing(PLOTS / "steps.csv") as beside:
        steps.to_csv(beside, index=False, float_format="%.6g")
