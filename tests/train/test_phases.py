"""The phases of a run."""

import io

import pytest
import torch
from torch import nn

from pipeline.train.batch_picture import save_batch
from pipeline.train.phases import phase_of
from tests.support.sections import EVERYTHING
from tests.support.tiny_datasets import train_params
from tests.support.trainers import build, fit

MIXED = {"mixup_alpha": 1.0}


@pytest.mark.parametrize(
    ("changes", "mixed", "head_only"),
    [
        ({}, [True] * 4, [False] * 4),
        ({"unmixed_epochs": 1}, [True, True, True, False], [False] * 4),
        ({"unmixed_epochs": 9}, [False] * 4, [False] * 4),
        ({"freeze_epochs": 2, "unmixed_epochs": 3}, [True, False, False, False], [True, True, False, False]),
    ],
)
def test_the_phase_of_each_epoch_follows_from_its_number(changes, mixed, head_only):
    params = train_params(epochs=4, cutmix_alpha=1.0, **changes)
    phases = [phase_of(params, epoch, 64) for epoch in (1, 2, 3, 4, 5)]
    assert [phase.params.cutmix_alpha > 0 for phase in phases] == [*mixed, mixed[-1]]
    assert [phase.head_only for phase in phases] == [*head_only, head_only[-1]]


def test_no_image_is_mixed_in_the_last_epochs_and_the_optimizer_continues(tmp_path, capsys):
    trainer = build(tmp_path, epochs=4, **MIXED, unmixed_epochs=2)
    optimizer, loss, mixed = trainer.optimizers[0], trainer.loss, {}

    def watch(outputs, targets):
        mixed[trainer.epoch] = mixed.get(trainer.epoch, False) or bool((targets % 1).any())
        return loss(outputs, targets)

    trainer.loss = watch
    fit(trainer)
    assert mixed == {1: True, 2: True, 3: False, 4: False}
    assert trainer.optimizers[0] is optimizer
    assert capsys.readouterr().out.count("train: note: from epoch 3 on no images are mixed") == 1


def test_a_head_that_is_trained_on_unmixed_images_only_gets_its_inputs_once(tmp_path, capsys):
    frozen = {"freeze_epochs": 3, "epochs": 3, **MIXED}
    for unmixed, once in ((3, True), (2, False)):
        fit(build(tmp_path, **frozen, unmixed_epochs=unmixed))
        assert ("which are computed once" in capsys.readouterr().out) is once


def test_all_that_changes_in_an_epoch_is_in_one_line(tmp_path, capsys):
    fit(
        build_any_size(
            tmp_path, epochs=2, freeze_epochs=1, **MIXED, unmixed_epochs=1, start_size=32, full_size_epochs=1
        )
    )
    line = "from epoch 2 on all layers are trained and no images are mixed and the training images have 96 pixels"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("start", "full_size_epochs", "sizes"),
    [
        (None, 0, [128] * 6),
        (64, 0, [64, 64, 64, 96, 96, 96]),
        (64, 2, [64, 64, 96, 96, 128, 128]),
        (32, 3, [32, 64, 96, 128, 128, 128]),
        (32, 4, [32, 64, 128, 128, 128, 128]),
        (32, 5, [32, 128, 128, 128, 128, 128]),
        (96, 9, [128] * 6),
    ],
)
def test_sizes_rise_in_equal_parts_of_the_epochs_before_those_at_full_size(start, full_size_epochs, sizes):
    params = train_params(epochs=6, start_size=start, full_size_epochs=full_size_epochs)
    assert [phase_of(params, epoch, 128).size for epoch in range(1, 7)] == sizes


def build_any_size(folder, **changes):
    """A trainer over images of 96 pixels, with a network that takes any size."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return build(folder, size=96, model=nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(4, 3)), **changes)


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_training_images_grow_and_validation_images_have_the_full_size(tmp_path, changes):
    trainer = build_any_size(tmp_path, epochs=4, start_size=32, full_size_epochs=1, **changes)
    seen = {True: [], False: []}
    for model in {trainer.model, trainer.evaluated_model}:
        model.register_forward_pre_hook(lambda model, inputs: seen[model.training].append(inputs[0].shape[2]))
    fit(trainer)
    assert seen == {True: [32] * 6 + [64] * 3 + [96] * 3, False: [96] * 4}
    assert save_batch(tmp_path / "batch.png", trainer, ("a", "b", "c"))["side"] == 32


@pytest.mark.parametrize("stop", [2, 6])
def test_a_run_with_growing_images_resumes_to_the_same_bits(tmp_path, stop):
    changes = {**EVERYTHING, "epochs": 4, "start_size": 32, "full_size_epochs": 1, "freeze_epochs": 1}
    changes["trivial_augment"] = True
    whole, stopped, resumed = (build_any_size(tmp_path, **changes) for _ in range(3))
    saved, calls = io.BytesIO(), []
    fit(whole)

    def on_step():
        calls.append(1)
        if len(calls) == stop:
            torch.save(stopped.state_dict(), saved)

    torch.manual_seed(5)
    stopped.fit(on_step, lambda row: None)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    fit(resumed)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert torch.equal(resumed.history.step_rows(), whole.history.step_rows())


def test_inputs_of_the_last_layer_are_computed_once_only_from_images_of_the_full_size(tmp_path, capsys):
    for start_size, once in ((None, True), (64, False)):
        fit(build_any_size(tmp_path, epochs=2, freeze_epochs=2, start_size=start_size))
        assert ("which are computed once" in capsys.readouterr().out) is once
