"""The phases of a run."""

import pytest

from pipeline.train.phases import phase_of
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
    phases = [phase_of(params, epoch) for epoch in (1, 2, 3, 4, 5)]
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
    fit(build(tmp_path, epochs=2, freeze_epochs=1, **MIXED, unmixed_epochs=1))
    assert "from epoch 2 on all layers are trained and no images are mixed" in capsys.readouterr().out
