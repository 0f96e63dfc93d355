"""The training loop, the same for all devices, precisions, optimizers and numbers of processes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.network.batches import Batches, shuffled_plan, steps_per_epoch
from pipeline.network.device import check_compiler_cache, choose_precision, forward_batch_size
from pipeline.network.models import class_logits, find_head, find_heads
from pipeline.params.schema import TrainParams
from pipeline.progress import TrainingProgress
from pipeline.train.augmentation import augmented, is_random
from pipeline.train.cuda_graph import CudaGraph
from pipeline.train.distributed import ProcessGroup
from pipeline.train.fine_tuning import batch_norms, head_inputs
from pipeline.train.moving_average import MovingAverage
from pipeline.train.optimization import build_loss, build_optimizers, build_schedule, class_weights
from pipeline.train.phases import Phase, phase_of, schedule_params

Row = dict[str, float]
Gradients = Callable[[Tensor, Tensor], Tensor]
STEP_COLUMNS = ("loss", "accuracy", "gradient_norm", "lr")


@dataclass
class History:
    """The course of a run: one row per epoch, one row per step, and the best epoch with its weights."""

    epochs: list[Row] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    best: Row = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def step_rows(self) -> Tensor:
        """All steps, ``(steps, 4)`` in the order of ``STEP_COLUMNS``."""
        return torch.cat(self.steps)


class Trainer:
    """A training run that can stop after any step and resume to the same bits.

    Args:
        model: on the device of the batches.
        train, valid: the splits.
        classes: number of classes.
        params: the section ``train``.
        seed: of the order of the images and of all random numbers.
        group: the processes that train together.
        quiet: print nothing.

    Raises:
        PipelineError: the number of images in a batch is not a multiple of the number of processes.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Batches,
        valid: Batches,
        classes: int,
        params: TrainParams,
        seed: int,
        group: ProcessGroup,
        quiet: bool = False,
    ) -> None:
        images = params.batch_size if params.min_steps_per_epoch > 1 else min(len(train), params.batch_size)
        if params.batch_size % group.world or images % group.world:
            most = f", up to the {len(train):,} training images" if images < params.batch_size else ""
            raise PipelineError(
                f"params.yaml: train.batch_size: got {params.batch_size}, allowed is a multiple of the "
                f"{group.world} processes{most}"
            )
        self.splits, self.classes, self.device = (train, valid), classes, train.device
        self.params, self.seed, self.group = params, seed, group
        self.model = model
        self.trainable = [weights for weights in model.parameters() if weights.requires_grad]
        self.ema = MovingAverage(model, params.ema_decay) if params.ema_decay else None
        self.steps = steps_per_epoch(len(train), params.batch_size, params.min_steps_per_epoch)
        self.dtype = choose_precision(params.precision, self.device)
        # When it is disabled, its methods only pass through.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.loss = build_loss(params, class_weights(train.labels, classes, params, self.device))
        self.history = History()
        self.epoch, self.step = 1, 0
        self.features_tried = False
        self.progress = TrainingProgress(
            params.epochs, self.steps, images, params.patience > 0, self.device, quiet=quiet or not group.is_main
        )
        self.log, self.rates = torch.zeros(self.steps, 3, device=self.device), torch.zeros(self.steps)
        self.phase = self.phase_of(self.epoch)
        self._start_training()
        # Each process augments with its own random numbers; the order of the images is the same in all.
        torch.manual_seed(seed + group.rank)

    def _enter_phase(self) -> None:
        """Enter the phase of the epoch, if it is a new one; other weights to train are a new training."""
        before, self.phase = self.phase, self.phase_of(self.epoch)
        if self.phase == before:
            return
        if self.params.compile:
            # So that the programs of a phase do not depend on those before, which a resumed run has not compiled.
            torch.compiler.reset()
        if self.phase.head_only != before.head_only:
            self._start_training()
        else:
            self._record_gradients()

    def phase_of(self, epoch: int) -> Phase:
        """The phase of an epoch."""
        return phase_of(self.params, epoch, self.splits[0].size)

    def _start_training(self) -> None:
        """Build what depends on the weights that are trained: those of the last layer for ``freeze_epochs``, then
        all."""
        heads = {weights for _, layer in find_heads(self.model) for weights in layer.parameters()}
        for weights in self.trainable:
            weights.requires_grad_(not self.phase.head_only or weights in heads)
        self.optimizers = build_optimizers(self.model, self.params, self.device, self.progress.note)
        params = schedule_params(self.params, self.phase.head_only)
        self.schedules = [build_schedule(optimizer, params, self.steps) for optimizer in self.optimizers]
        self._connect(self.model, self.evaluated_model, *self.splits)

    def _connect(self, network: nn.Module, evaluated: nn.Module, train: Batches, valid: Batches) -> None:
        """Train and validate a network on the batches of its inputs."""
        self.train, self.valid = train, valid
        self.wrapped = self._compiled(self.group.wrap(network, self.device))
        self.evaluated = self._compiled(evaluated)
        self._record_gradients()

    def _record_gradients(self) -> None:
        """Record the steps of the phase in a CUDA graph, where there are any."""
        self.gradients: Gradients = self.compute_gradients
        if self.device.type == "cuda" and self.group.world == 1:
            buffers = list(self.model.buffers())
            self.gradients = CudaGraph(self.compute_gradients, buffers, self.progress.note, self._forget)

    def _forget(self) -> None:
        """Remove what steps create and keep: gradients, and tensors that some of timm's networks cache in evaluation
        mode."""
        self.model.zero_grad()
        self.train_mode()

    def compute_features(self) -> None:
        """Train the last layer on its inputs, if they are always the same, instead of on images.

        Computing them takes an epoch for each copy. A resumed run computes them again.
        """
        if self.features_tried or self.complete:
            return
        self.features_tried = True
        frozen_epochs, copies = min(self.params.freeze_epochs, self.params.epochs), self.train.shape[1]
        frozen = map(self.phase_of, range(1, frozen_epochs + 1))
        full_size = self.splits[0].size
        same = all(phase.size == full_size and not is_random(phase.params) for phase in frozen)
        if self.phase.head_only and copies <= frozen_epochs and same:
            self.model.eval()
            found = head_inputs(self.model, self._outputs, *self.splits, self.group, self.progress.quiet)
            if isinstance(found, str):
                self.progress.note(f"the inputs of the last layer are computed in each epoch: {found}")
            else:
                self.progress.note("the last layer is trained on its inputs, which are computed once")
                self._connect(find_head(self.model)[1], find_head(self.evaluated_model)[1], *found)

    def fit(self, on_step: Callable[[], None], on_epoch: Callable[[Row], None]) -> History:
        """Train until the last epoch, or until there was no better epoch for ``patience`` epochs.

        The run may be saved by both callbacks.

        Args:
            on_step: called after each step of an epoch except the last one.
            on_epoch: called after each epoch with its row.

        Raises:
            PipelineError: the loss is no longer finite.
        """
        self.compute_features()
        with self.progress.display:
            while not self.complete:
                self._fit_epoch(on_step, on_epoch)
        last = self.phase_of(self.params.epochs)
        if missed := self.phase_of(self.epoch - 1).changes(last):
            self.progress.note(
                f"train.patience {self.params.patience} ended the run before the phase in which {missed}"
            )
        self.train, self.valid = self.splits
        return self.history

    def _fit_epoch(self, on_step: Callable[[], None], on_epoch: Callable[[Row], None]) -> None:
        self.progress.start_epoch(self.epoch, self.step)
        self.train_epoch(on_step)
        means = self.group.sum(self.log).cpu() / self.group.world
        self.progress.trained()
        rows = torch.cat([means, self.rates.unsqueeze(1)], dim=1)
        self._refuse_divergence(rows)
        row = {"epoch": self.epoch, **_means(rows), **self._validate()}
        self.history.steps.append(rows)
        self.history.epochs.append(row)
        if not self.history.best or _score(row) > _score(self.history.best):
            self.history.best = row
            state = self.evaluated_model.state_dict()
            self.history.best_state = {name: tensor.clone() for name, tensor in state.items()}
        self.epoch, self.step = self.epoch + 1, 0
        self.log.zero_()
        self.progress.end_epoch(row)
        before = self.phase
        self._enter_phase()
        if not self.complete and (changes := before.changes(self.phase)):
            self.progress.note(f"from epoch {self.epoch} on {changes}")
        on_epoch(row)

    def train_epoch(self, on_step: Callable[[], None]) -> None:
        """Take the rest of the steps of an epoch, without waiting for the device."""
        self.train_mode()
        for images, labels in self.train.load(self.plan()):
            self.log[self.step] = self.train_step(images, labels)
            self.rates[self.step] = self.schedules[-1].get_last_lr()[-1]
            for schedule in self.schedules:
                schedule.step()
            self.step += 1
            self.progress.step_queued(self.step)
            if self.step < self.steps:
                on_step()

    def plan(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows and copies of the batches that are left of the epoch, of each the share of this process."""
        images, copies, *_ = self.train.shape
        size, group, least = self.params.batch_size, self.group, self.params.min_steps_per_epoch
        return shuffled_plan(images, copies, size, self.seed, self.epoch, self.step, group.rank, group.world, least)

    def train_mode(self) -> None:
        """Set the network to training mode, except for its frozen parts: no dropout there, and batch norms keep their
        statistics."""
        self.wrapped.train(not self.phase.head_only)
        if self.params.freeze_batch_norm:
            for module in batch_norms(self.model):
                module.eval()

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one step on a batch of ``Batches.load``; return the loss, the accuracy and the gradient norm, ``(3,)``.

        The host does not wait for the device, except in fp16 with an optimizer that torch has no fused kernel for.
        """
        measures = self.gradients(images, labels)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        weights = list(self.model.parameters())
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        # After an overflow in fp16, only the optimizers whose own gradients are not finite skip the step: a norm of
        # NaN, or an infinite limit, would make the gradients of the others NaN.
        if self.params.clip_norm:
            nn.utils.clip_grads_with_norm_(weights, self.params.clip_norm, norm.nan_to_num(math.inf, math.inf))
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        return torch.cat([measures, norm.detach().unsqueeze(0)])

    def compute_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Augment a batch and compute the gradients of its loss; return the loss and the accuracy, ``(2,)``.

        All of it can be recorded in a CUDA graph.
        """
        inputs, targets = self.augmented(images, labels, self.phase)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        outputs = self._outputs(self.wrapped, inputs)
        loss = self.loss(outputs, targets)
        self.scaler.scale(loss).backward()
        hits = (class_logits(outputs.detach()).argmax(1) == targets.argmax(1)).float().mean()
        return torch.stack([loss.detach(), hits])

    def augmented(self, images: Tensor, labels: Tensor, phase: Phase) -> tuple[Tensor, Tensor]:
        """The input of the network and the class probabilities, ``(n, classes)``, for a batch of ``Batches.load``."""
        return augmented(self.train, images, self._one_hot(labels), phase.params, phase.size)

    def _compiled(self, model: nn.Module) -> nn.Module:
        if not self.params.compile:
            return model
        check_compiler_cache()
        # A program for any batch size would take over from that for a full batch, but not in a run that resumed later.
        return cast(nn.Module, torch.compile(model, dynamic=False))

    def _one_hot(self, labels: Tensor) -> Tensor:
        """``functional.one_hot`` as ``float32``; that one checks the labels, for which the host may have to wait."""
        return (labels.unsqueeze(1) == torch.arange(self.classes, device=self.device)).float()

    def _outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The outputs in fp32, as the loss needs them; the layers compute in the precision of the run."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            outputs: Tensor = model(inputs)
        return outputs.float()

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is validated and saved: the moving average of the weights, if there is one."""
        return self.model if self.ema is None else self.ema.module

    @torch.no_grad()
    def _validate(self) -> Row:
        """The loss is that of the training; cross-entropy, without label smoothing, compares runs with other losses."""
        self.evaluated.eval()
        totals = torch.zeros(3, device=self.device)
        most, trained = forward_batch_size(self.device, self.splits[1].size), self.params.batch_size // self.group.world
        for images, labels in self.valid.in_order(max(most, trained), self.group.rank, self.group.world):
            outputs = self._outputs(self.evaluated, images)
            logits = class_logits(outputs)
            loss = self.loss(outputs, self._one_hot(labels)) * len(labels)
            entropy = functional.cross_entropy(logits, labels, reduction="sum")
            totals += torch.stack([loss, entropy, (logits.argmax(1) == labels).sum()])
        loss, entropy, correct = (self.group.sum(totals) / len(self.valid)).tolist()
        if not math.isfinite(loss):
            raise PipelineError(
                f"train: the valid loss is {loss} after epoch {self.epoch}; try a lower train.lr "
                f"({self.params.lr:g} now)"
            )
        return {"valid_loss": loss, "valid_accuracy": correct, "valid_cross_entropy": entropy}

    def _refuse_divergence(self, rows: Tensor) -> None:
        bad = (~rows[:, 0].isfinite()).nonzero().flatten().tolist()
        if bad:
            raise PipelineError(
                f"train: the loss is {rows[bad[0], 0].item()} in step {bad[0] + 1} of epoch {self.epoch}; try a lower "
                f"train.lr ({self.params.lr:g} now), a train.warmup_epochs, or to clip gradients by train.clip_norm "
                f"({self.params.clip_norm:g} now; 0 is no limit)"
            )

    @property
    def complete(self) -> bool:
        """Whether the last epoch is done, or there was no better one for ``patience`` epochs."""
        epochs, best, patience = self.history.epochs, self.history.best, self.params.patience
        return self.epoch > self.params.epochs or bool(patience and best and len(epochs) - best["epoch"] >= patience)

    def state_dict(self) -> dict[str, Any]:
        """The state of the run, as tensors and plain values. All processes have to call it."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type in ("cuda", "mps"):
            random[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "scaler": self.scaler.state_dict(),
            "random": self.group.gather(random),
            "threads": torch.get_num_threads(),
            "history": vars(self.history),
            "position": (self.epoch, self.step),
            "log": self.group.gather(self.log.cpu()),
            "rates": self.rates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        self.epoch, self.step = state["position"]
        self._enter_phase()
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        self.history = History(**state["history"])
        self.log, self.rates = state["log"][self.group.rank].to(self.device), state["rates"]
        if self.device.type == "cpu":
            # The order of a sum depends on the number of threads.
            torch.set_num_threads(state["threads"])
        random = state["random"][self.group.rank]
        torch.set_rng_state(random["cpu"])
        if self.device.type in random and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(random[self.device.type])


def _score(row: Row) -> tuple[float, float]:
    """Of two epochs with the same accuracy, the one with the lower loss is better."""
    return row["valid_accuracy"], -row["valid_loss"]


def _means(rows: Tensor) -> Row:
    loss, accuracy, *_ = rows.mean(0).tolist()
    # In fp16 the scaler skips the steps in which the gradient overflows.
    norms = rows[:, 2][rows[:, 2].isfinite()]
    norm = norms.mean().item() if len(norms) else 0.0
    return {"train_loss": loss, "train_accuracy": accuracy, "train_gradient_norm": norm, "lr": rows[-1, 3].item()}
