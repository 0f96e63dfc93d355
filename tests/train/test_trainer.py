"""The training loop."""

import copy
import io
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.network.models import class_logits
from pipeline.train import trainer as trainer_module
from pipeline.train.distributed import ProcessGroup
from pipeline.train.trainer import Trainer, _means
from tests.support.sections import EVERYTHING
from tests.support.trainers import batches_of, build, fit, linear_model


class StoppedError(Exception):
    """Stops a run from a callback."""


def assert_same(left: Trainer, right: Trainer) -> None:
    torch.testing.assert_close(left.model.state_dict(), right.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(left.history.best_state, right.history.best_state, rtol=0, atol=0)
    assert torch.equal(left.history.step_rows(), right.history.step_rows())
    assert left.history.epochs == right.history.epochs


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_an_overflow_in_fp16_leaves_the_weights_of_each_optimizer_finite(tmp_path, clip_norm, value):
    trainer = build(tmp_path, optimizer="muon", clip_norm=clip_norm)
    trainer.scaler, compute = torch.amp.GradScaler("cpu"), trainer.gradients

    def overflow(images, labels):
        measures = compute(images, labels)
        trainer.model.blocks[0][0].weight.grad.view(-1)[0] = value
        return measures

    trainer.gradients = overflow
    trainer.train_mode()
    trainer.train_step(*next(batches_of(trainer)))
    assert all(weights.isfinite().all() for weights in trainer.model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "muon"])
@pytest.mark.parametrize("stop", [1, 4])
def test_state_loaded_into_a_new_trainer_ends_in_the_same_bits(tmp_path, optimizer, stop):
    changes = {**EVERYTHING, "optimizer": optimizer}
    whole = build(tmp_path, **changes)
    fit(whole)

    stopped, saved, calls = build(tmp_path, **changes), io.BytesIO(), []

    def on_step():
        calls.append(1)
        if len(calls) == stop:
            torch.save(stopped.state_dict(), saved)
            raise StoppedError

    with pytest.raises(StoppedError):
        stopped.fit(on_step, lambda row: None)
    saved.seek(0)
    torch.manual_seed(99)
    resumed = build(tmp_path, **changes)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert (resumed.epoch, resumed.step) == {1: (1, 1), 4: (2, 2)}[stop]
    fit(resumed)
    assert_same(resumed, whole)


def test_state_saved_at_the_end_of_an_epoch_resumes_with_the_next_one(tmp_path):
    whole, stopped, resumed = (build(tmp_path, **EVERYTHING) for _ in range(3))
    saved = {}
    fit(whole)

    def on_epoch(row):
        saved[row["epoch"]] = copy.deepcopy(stopped.state_dict())
        if row["epoch"] == 2:
            raise StoppedError

    torch.manual_seed(5)
    with pytest.raises(StoppedError):
        stopped.fit(lambda: None, on_epoch)
    resumed.load_state_dict(saved[2])
    assert (resumed.epoch, resumed.step) == (3, 0)
    fit(resumed)
    assert_same(resumed, whole)


def test_streamed_run_ends_in_the_same_bits_as_a_resident_one(tmp_path):
    trainers = [build(tmp_path, resident=True, **EVERYTHING)]
    fit(trainers[0])
    trainers.append(build(tmp_path, resident=False, **EVERYTHING))
    fit(trainers[1])
    assert_same(*trainers)


@pytest.mark.parametrize("clip_norm", [0.0, 0.05, 1e6])
def test_clip_norm_limits_the_norm_of_the_gradient_that_is_applied(tmp_path, clip_norm):
    trainer = build(tmp_path, optimizer="sgd", momentum=0.0, lr=1.0, clip_norm=clip_norm)
    before = nn.utils.parameters_to_vector(trainer.model.parameters()).clone()
    loss, _, norm = trainer.train_step(*next(batches_of(trainer))).tolist()
    applied = (nn.utils.parameters_to_vector(trainer.model.parameters()) - before).norm().item()
    assert norm > 0.05
    assert applied == pytest.approx(0.05 if clip_norm == 0.05 else norm, rel=1e-3)
    assert loss > 0


def test_moving_average_follows_its_formula_and_is_evaluated(tmp_path):
    trainer = build(tmp_path, ema_decay=0.4)
    expected = {name: values.double() for name, values in trainer.model.state_dict().items()}
    decays = []
    for updates, (images, labels) in enumerate(batches_of(trainer, epochs=2), start=1):
        trainer.train_step(images, labels)
        decays.append(min(0.4, (1 + updates) / (10 + updates)))
        for name, now in trainer.model.state_dict().items():
            expected[name] = decays[-1] * expected[name] + (1 - decays[-1]) * now.double()
    assert decays[0] == 2 / 11
    assert decays[-1] == 0.4
    average = trainer.evaluated_model.state_dict()
    for name, now in trainer.model.state_dict().items():
        if now.is_floating_point():
            torch.testing.assert_close(average[name].double(), expected[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(average[name], now)
        else:
            assert average[name].item() == now.item() == 6


def test_moving_average_of_a_short_run_is_about_as_accurate_as_its_weights(tmp_path):
    # With a constant decay of 0.999 the average would be 97 % initial weights after the 30 steps.
    averaged, plain = (fit(build(tmp_path, epochs=10, lr=0.01, ema_decay=decay)) for decay in (0.999, 0.0))
    assert averaged.best["valid_accuracy"] >= 0.9 * plain.best["valid_accuracy"] > 0.8


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 2), (3, 4), (9, 6)])
def test_training_stops_after_patience_epochs_without_a_better_one(tmp_path, patience, epochs):
    # A learning rate that changes nothing: the first epoch stays the best.
    trainer = build(tmp_path, model=linear_model(), optimizer="sgd", lr=1e-30, epochs=6, patience=patience)
    history = fit(trainer)
    assert len(history.epochs) == epochs
    assert history.best["epoch"] == 1


def test_validation_takes_no_more_images_at_once_than_a_training_step_or_inference(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "forward_batch_size", lambda device, size: 5)
    for batch_size, sizes in ((4, [5, 5, 2]), (8, [8, 4])):
        trainer, seen = build(tmp_path, epochs=1, batch_size=batch_size), []
        trainer.evaluated.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
        trainer._validate()
        assert seen == sizes


def test_the_programs_of_a_compiled_network_are_for_fixed_shapes_so_that_a_resumed_run_has_the_same(
    tmp_path, monkeypatch
):
    compile_network, found = torch.compile, []

    def backend(graph, inputs):
        found.extend(inputs)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **choices: compile_network(model, backend=backend, **choices))
    monkeypatch.setattr(trainer_module, "forward_batch_size", lambda device, size: 5)
    # Batches of 8 in training, of 8 and 4 in validation.
    fit(build(tmp_path, epochs=3, freeze_epochs=1, hflip=0.5, compile=True))
    assert not any(isinstance(value, torch.SymInt) for value in found)
    assert {len(value) for value in found if value.shape[1:] == (3, 32, 32)} == {8, 4}


def test_best_epoch_is_kept_with_its_weights(tmp_path):
    trainer, states = build(tmp_path, lr=0.1, epochs=8), {}

    def on_epoch(row):
        states[row["epoch"]] = copy.deepcopy(trainer.evaluated_model.state_dict())

    history = trainer.fit(lambda: None, on_epoch)
    scores = {row["epoch"]: (row["valid_accuracy"], -row["valid_loss"]) for row in history.epochs}
    best = history.best["epoch"]
    assert scores[best] == max(scores.values())
    # Keeping the last epoch must not pass.
    assert best < 8
    torch.testing.assert_close(history.best_state, dict(states[best]), rtol=0, atol=0)


def losses_of(trainer: Trainer) -> list[float]:
    return [row["train_loss"] for row in fit(trainer).epochs]


@pytest.mark.parametrize(
    ("classes", "changes"),
    [
        (3, {"loss": "cross_entropy", "label_smoothing": 0.1}),
        (3, {"loss": "mse"}),
        (2, {"loss": "bce"}),
        (2, {"loss": "bce", "class_weights": "balanced", "mixup_alpha": 0.2}),
        (3, {"precision": "bf16"}),
        (3, {"class_weights": "balanced"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_training_lowers_every_loss_and_learns(tmp_path, classes, changes):
    trainer = build(tmp_path, classes=classes, epochs=12, lr=0.01, **changes)
    losses = losses_of(trainer)
    assert losses[-1] < 0.9 * losses[0]
    assert trainer.history.best["valid_accuracy"] > 0.8


def test_bf16_keeps_the_weights_in_fp32_and_computes_nearly_the_same(tmp_path):
    full, half = (build(tmp_path, precision=precision, epochs=2) for precision in ("fp32", "bf16"))
    assert losses_of(half) == pytest.approx(losses_of(full), rel=0.05)
    assert {weights.dtype for weights in half.model.parameters()} == {torch.float32}
    assert not torch.equal(half.history.step_rows(), full.history.step_rows())


def test_balanced_class_weights_give_images_of_a_rare_class_more_weight(tmp_path):
    trainer = build(tmp_path, images=25, model=linear_model(), class_weights="balanced")
    trainer.train.labels.copy_(torch.tensor([0] * 20 + [1] * 4 + [2]))
    trainer = Trainer(trainer.model, trainer.train, trainer.valid, 3, trainer.params, 5, ProcessGroup())
    rows = torch.tensor([0, 20, 24])
    ((images, labels),) = trainer.train.load([(rows, torch.zeros_like(rows))])
    with torch.no_grad():
        logits = trainer.model(trainer.train.normalise(trainer.train.as_pixels(images)))
    each = functional.cross_entropy(logits, labels, reduction="none")
    # Their mean over the training split, not over the batch, is 1.
    expected = (each * 25 / 3 / torch.tensor([20, 4, 1])).mean()
    assert trainer.train_step(images, labels)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("classes", "changes"),
    [(3, {}), (3, {"loss": "mse"}), (2, {"loss": "bce"}), (3, {"label_smoothing": 0.2, "class_weights": "balanced"})],
)
def test_row_of_an_epoch_has_the_means_of_its_steps_and_of_all_validation_images(tmp_path, classes, changes):
    trainer = build(tmp_path, classes=classes, epochs=1, **changes)
    (row,) = fit(trainer).epochs
    steps = trainer.history.step_rows()
    assert row["train_loss"] == pytest.approx(steps[:, 0].mean().item())
    assert row["train_gradient_norm"] == pytest.approx(steps[:, 2].mean().item())
    trainer.model.eval()
    with torch.no_grad():
        ((images, labels),) = trainer.valid.in_order(100)
        outputs = trainer.model(images)
    logits = class_logits(outputs)
    # The same function as in training; cross-entropy is without label smoothing and class weights.
    loss = trainer.loss(outputs, functional.one_hot(labels).float())
    assert row["valid_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["valid_cross_entropy"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert row["valid_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


@pytest.mark.parametrize(
    ("classes", "changes"),
    [(3, {"loss": "mse"}), (2, {"loss": "bce"}), (3, {"label_smoothing": 0.3}), (3, {"class_weights": "balanced"})],
)
def test_losses_of_training_and_validation_are_of_the_same_size(tmp_path, classes, changes):
    # Nothing is random in this run, and both splits are noise around the same colours.
    model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, 1 if "bce" in changes.values() else classes))
    history = fit(build(tmp_path, classes=classes, model=model, epochs=30, lr=0.1, **changes))
    assert history.epochs[-1]["train_loss"] == pytest.approx(history.epochs[-1]["valid_loss"], rel=0.1, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hflip": 0.5},
        {"random_resized_crop": 0.5},
        {"color_jitter": 0.2},
        {"trivial_augment": True},
        {"random_erase": 0.5},
        {"mixup_alpha": 0.2},
        {"cutmix_alpha": 1.0},
        EVERYTHING,
    ],
    ids=lambda changes: "-".join(changes) if len(changes) < 2 else "everything",
)
def test_network_gets_its_input_in_channels_last_after_every_augmentation(tmp_path, changes):
    trainer, seen = build(tmp_path, **changes), []
    trainer.model.register_forward_pre_hook(lambda model, inputs: seen.extend(inputs))
    trainer.train_step(*next(batches_of(trainer)))
    assert [images.is_contiguous(memory_format=torch.channels_last) for images in seen] == [True]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compiled_network_has_nearly_the_same_losses(tmp_path):
    plain, compiled = (build(tmp_path, dropout=0.0, compile=choice) for choice in (False, True))
    assert losses_of(compiled) == pytest.approx(losses_of(plain), rel=1e-3)
    assert compiled.wrapped is not compiled.model
    # The names in the weights file are those of the network, not of its compiled wrapper.
    assert compiled.history.best_state.keys() == plain.history.best_state.keys()


def test_mean_gradient_norm_excludes_the_steps_that_overflowed():
    rows = torch.tensor([[1.0, 0.5, 2.0, 0.1], [3.0, 0.5, float("inf"), 0.1], [2.0, 0.5, 4.0, 0.05]])
    means = _means(rows)
    assert means == pytest.approx({"train_loss": 2.0, "train_accuracy": 0.5, "train_gradient_norm": 3.0, "lr": 0.05})


def test_validation_that_overflows_is_reported_in_one_line(tmp_path):
    trainer = build(tmp_path, epochs=1)
    with torch.no_grad():
        trainer.model.output.bias.fill_(float("inf"))
    trainer.train_epoch = lambda on_step: None
    with pytest.raises(
        PipelineError, match=r"^train: the valid loss is (inf|nan) after epoch 1; try a lower train\.lr"
    ):
        trainer.fit(lambda: None, lambda row: None)
