"""Stage ``train``: train the network and keep its best epoch."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.common.dataset import PackedDataset, PackedSplit, evenly_spaced
from pipeline.common.files import write_table
from pipeline.common.paths import BATCH, DATASET, LIVE, MODEL, PLOTS, PRETRAINED
from pipeline.common.reading import file_checksum
from pipeline.common.results import write_results
from pipeline.errors import PipelineError
from pipeline.machine import crowded
from pipeline.network.batches import Batches
from pipeline.network.calibrating import fit_calibration
from pipeline.network.calibration import Calibration
from pipeline.network.device import choose_device, describe_device, describe_precision, facts_of, set_up_torch
from pipeline.network.inference import predict_logits
from pipeline.network.models import ModelSpec, build_model, unused_parameters
from pipeline.network.pretrained import input_notes, read_pretrained
from pipeline.network.weights import save_model
from pipeline.params.schema import ModelParams, TrainParams
from pipeline.processes import stop_signals
from pipeline.train import fine_tuning
from pipeline.train.batch_picture import save_batch
from pipeline.train.checkpoint import Checkpointer, checkpoint_path, exclusive, fingerprint, resume
from pipeline.train.distributed import ProcessGroup, process_group
from pipeline.train.live import best_metrics, live_results
from pipeline.train.optimization import notes, outputs_for
from pipeline.train.trainer import STEP_COLUMNS, Row, Trainer

# Enough to tell an accuracy of 0.95 from 0.90.
TRAINING_IMAGES = 500


def train(model_params: ModelParams, params: TrainParams, seed: int) -> None:
    """Write ``results/model.safetensors``, ``results/metrics/train.json``, ``results/details/train.json``, the curves,
    ``results/live/`` by epoch and ``results/plots/steps.csv`` by step, and ``results/plots/train_batch.png``.

    A run that was stopped resumes from its last checkpoint, to the same bits.

    Raises:
        PipelineError: there is no dataset, the loss is no longer finite, or the device is out of memory.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP arrived; a checkpoint was written.
    """
    device = choose_device()
    with process_group(device) as group:
        dataset = PackedDataset(DATASET)
        trainer, spec = open_trainer(dataset, model_params, params, seed, device, group)
        facts: dict[str, Any] = {"model": asdict(spec), "train": params.model_dump()}
        facts |= {
            "seed": seed,
            "data": dataset.manifest.digest,
            "pretrained": file_checksum(PRETRAINED) if model_params.pretrained else None,
            "world": group.world,
            **facts_of(device, trainer.dtype),
        }
        path = checkpoint_path(fingerprint(**facts))
        trainer.progress.announce(
            model=spec.name,
            parameters=_parameter_count(trainer),
            processes=group.world,
            device=describe_device(device),
            precision=describe_precision(trainer.dtype, device),
            images=len(trainer.train),
            copies=trainer.train.shape[1],
            resident=trainer.train.resident,
            valid_images=len(trainer.valid),
        )
        trainer.progress.note(
            *notes(params),
            *fine_tuning.notes(params, trainer.model, bool(model_params.pretrained)),
            *unused_parameters(trainer.model, spec),
        )
        if trainer.progress.images < params.batch_size:
            trainer.progress.note(f"train.batch_size is {trainer.progress.images}, the number of training images")
        if device.type == "cpu" and (line := crowded(torch.get_num_threads())):
            trainer.progress.note(line)
        with exclusive(path, group, trainer.progress):
            resume(trainer, path)
            settings = {"seed": seed, **_named("model", model_params), **_named("train", params)}
            with live_results(trainer, f"train-{path.stem[:7]}", settings) as publish:
                _fit(trainer, path, publish)
                if group.is_main:
                    trainer.model.load_state_dict(trainer.history.best_state)
                    spec = replace(spec, calibration=_calibration(trainer, spec, dataset.split("valid")))
                    save_model(MODEL, trainer.history.best_state, spec)
                    _write_tables(trainer, spec.classes, _plain_accuracy(trainer, spec, dataset.split("train")))
        trainer.progress.finished(MODEL, trainer.history.best)


def open_trainer(
    dataset: PackedDataset,
    model_params: ModelParams,
    params: TrainParams,
    seed: int,
    device: torch.device,
    group: ProcessGroup,
) -> tuple[Trainer, ModelSpec]:
    """Seed torch, build the network for the parameters and the dataset, and open the training and validation splits.

    A network with pretrained weights gets the mean and the standard deviation that these were trained with.
    """
    set_up_torch(seed, params.deterministic)
    manifest = dataset.manifest
    weights = read_pretrained() if model_params.pretrained else None
    spec = ModelSpec(
        name=model_params.name,
        width=model_params.width,
        dropout=model_params.dropout,
        stem=model_params.stem,
        outputs=outputs_for(params.loss, len(manifest.classes)),
        image_size=manifest.image_size,
        resize=manifest.resize,
        interpolation=manifest.interpolation,
        classes=manifest.classes,
        mean=(weights and weights.origin.mean) or manifest.mean,
        std=(weights and weights.origin.std) or manifest.std,
        drop_path_rate=model_params.drop_path_rate,
        activation=model_params.activation,
        kwargs=model_params.kwargs,
    )
    model = build_model(spec)
    lines = weights.load_into(model, spec.classes) + input_notes(weights.origin, spec) if weights else []
    model.to(device)
    train, valid = (
        Batches(dataset.split(name), spec.mean, spec.std, device, size=spec.image_size) for name in ("train", "valid")
    )
    trainer = Trainer(model, train, valid, len(spec.classes), params, seed, group)
    trainer.progress.note(*lines)
    return trainer, spec


def _named(section: str, params: ModelParams | TrainParams) -> dict[str, Any]:
    return {f"{section}.{name}": value for name, value in params.model_dump().items()}


def _parameter_count(trainer: Trainer) -> int:
    return sum(weights.numel() for weights in trainer.model.parameters())


def _fit(trainer: Trainer, path: Path, publish: Callable[[], None]) -> None:
    """Train with checkpoints, and publish each epoch."""
    try:
        trainer.compute_features()  # of which nothing needs to be saved if a signal arrives
        with stop_signals(deferred=True) as interrupted:
            checkpointer = Checkpointer(trainer, path, interrupted)

            def on_epoch(row: Row) -> None:
                publish()
                checkpointer.save_if_due(at_epoch_end=True)

            trainer.fit(checkpointer.save_if_due, on_epoch)
    except torch.OutOfMemoryError as error:
        raise PipelineError(
            f"train: {trainer.device} is out of memory ({str(error).splitlines()[0]}); lower train.batch_size "
            f"({trainer.params.batch_size} now), augment.image_size or model.width"
        ) from None


def _calibration(trainer: Trainer, spec: ModelSpec, valid: PackedSplit) -> Calibration:
    """The calibration of the network as it is."""
    logits = predict_logits(trainer.model, spec, valid, "train, calibration")
    return fit_calibration(logits.astype(np.float64), valid.labels)


def _plain_accuracy(trainer: Trainer, spec: ModelSpec, train: PackedSplit) -> float:
    """The accuracy of the network as it is on training images without augmentation, to compare with that on others."""
    rows = evenly_spaced(len(train), TRAINING_IMAGES)
    logits = predict_logits(trainer.model, spec, train, "train, training images", rows=rows)
    return float((logits.argmax(1) == train.labels[rows]).mean())


def _write_tables(trainer: Trainer, classes: tuple[str, ...], plain_accuracy: float) -> None:
    history = trainer.history
    steps = pd.DataFrame(history.step_rows().numpy(), columns=list(STEP_COLUMNS))
    steps.insert(0, "step", range(1, len(steps) + 1))
    write_table(PLOTS / "steps.csv", steps, float_format="%.6g")
    details = {
        "epochs": len(history.epochs),
        "steps": len(steps),
        "parameters": _parameter_count(trainer),
        "train_accuracy": history.best["train_accuracy"],
        "plain_train_accuracy": plain_accuracy,
        "train_gradient_norm": history.best["train_gradient_norm"],
        "valid_cross_entropy": history.best["valid_cross_entropy"],
        **facts_of(trainer.device, trainer.dtype),
        "batch": save_batch(BATCH, trainer, classes),
    }
    write_results("train", best_metrics(history), details, PLOTS / "steps.csv", BATCH, *LIVE.rglob("*.tsv"))
