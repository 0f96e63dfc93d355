"""Fine-tuning: frozen layers, frozen batch norms, and a learning rate for each layer."""

import copy
import io

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pipeline.network.models import Classifier, ModelSpec, build_model, build_without_data, find_head, find_heads
from pipeline.train import fine_tuning
from pipeline.train.augmentation import is_random
from pipeline.train.fine_tuning import layers_of, notes
from pipeline.train.optimization import build_optimizers
from tests.support.sections import EVERYTHING
from tests.support.tiny_datasets import train_params
from tests.support.trainers import build, fit

CPU = torch.device("cpu")
# Stem, blocks and head; the last convolutions and hidden layers after the blocks count as well.
LAYERS = {
    "classifier": 5 + 3,
    "resnet18": 1 + 8 + 1,
    "resnet50": 1 + 16 + 1,
    "efficientnet_b0": 1 + 16 + 2,
    "mobilenet_v3_small": 1 + 11 + 3,
    "convnext_tiny": 1 + 18 + 3 + 1,
    "vit_b_16": 1 + 12 + 1,
    "swin_t": 1 + 12 + 3 + 1,
    "regnet_y_400mf": 1 + 16 + 1,
    "densenet121": 1 + 58 + 3 + 1,
    "vgg11_bn": 8 + 3,
    "googlenet": 3 + 9 + 1,
}


class StoppedError(Exception):
    """Stops a run from a callback."""


def network(name: str, device: str = "meta", image_size: int = 224) -> nn.Module:
    values = {
        "width": 4,
        "dropout": 0.0,
        "stem": "default",
        "outputs": 3,
        "image_size": image_size,
        "drop_path_rate": 0.0,
        "activation": "default",
        "kwargs": {},
    }
    extra = {key: None for key in ModelSpec.__dataclass_fields__ if key not in values}
    spec = ModelSpec(**{**extra, **values, "name": name, "classes": ("a", "b", "c")})
    return build_without_data(spec) if device == "meta" else build_model(spec)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_stem_blocks_and_head_and_each_weight_is_in_one_of_them(name):
    model = network(name)
    layers = layers_of(model)
    assert len(layers) == LAYERS[name]
    number = {weights: index for index, layer in enumerate(layers) for weights in layer}
    assert sum(map(len, layers)) == len(number) == len(list(model.parameters()))
    assert set(layers[-1]) == set(find_head(model)[1].parameters())
    order = [number[weights] for name, weights in model.named_parameters() if weights.ndim in (2, 4)]
    assert order == sorted(order)
    assert order[0] == 0


def test_layers_of_a_timm_network_are_those_of_timm():
    timm = pytest.importorskip("timm")
    optim = pytest.importorskip("timm.optim")
    for name in ("tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto"):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=3)
        theirs = optim.param_groups_layer_decay(model, layer_decay=0.5)
        scale = {weights: group["lr_scale"] for group in theirs for weights in group["params"]}
        (optimizer,) = build_optimizers(model, train_params(optimizer="sgd", lr=1.0, layer_decay=0.5), CPU)
        ours = {weights: group["lr"] for group in optimizer.param_groups for weights in group["params"]}
        assert ours == scale


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "muon"])
def test_each_layer_has_its_learning_rate_and_each_weight_its_decay(optimizer):
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    params = train_params(optimizer=optimizer, lr=0.1, layer_decay=0.5, weight_decay=0.3, norm_weight_decay=0.2)
    built = build_optimizers(model, params, CPU)
    assert len(built) == (2 if optimizer == "muon" else 1)
    found = {}
    for one in built:
        scale = 0.2 if isinstance(one, torch.optim.Muon) else 1.0
        for group in one.param_groups:
            found |= {weights: (scale * group["lr"], group["weight_decay"] / scale) for weights in group["params"]}
    for number, layer in enumerate(layers_of(model)):
        for weights in layer:
            expected = 0.1 * 0.5 ** (7 - number), 0.3 if weights.ndim > 1 else 0.2
            assert found.pop(weights) == pytest.approx(expected)
    assert not found
    # The one that steps.csv has.
    assert built[-1].param_groups[-1]["lr"] == 0.1


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_the_schedule_keeps_the_ratio_of_the_layers_and_the_last_one_is_logged(tmp_path, schedule):
    rates = {}
    trainers = [build(tmp_path, schedule=schedule, warmup_epochs=1.0, layer_decay=decay) for decay in (1.0, 0.5)]
    for trainer in trainers:
        steps = rates.setdefault(trainer, [])
        trainer.fit(lambda: None, lambda row, t=trainer, s=steps: s.append(t.schedules[0].get_last_lr()))
        assert {min(found) / max(found) for found in steps if max(found)} == {trainer.params.layer_decay**7}
    logged = [trainer.history.step_rows()[:, 3] for trainer in trainers]
    torch.testing.assert_close(*logged)


def states_by_epoch(trainer) -> dict[int, dict]:
    states = {0: copy.deepcopy(trainer.model.state_dict())}
    trainer.fit(lambda: None, lambda row: states.update({row["epoch"]: copy.deepcopy(trainer.model.state_dict())}))
    return states


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_only_the_last_layer_is_trained_until_freeze_epochs_and_then_all(tmp_path, optimizer):
    trainer = build(tmp_path, freeze_epochs=2, dropout=0.5, optimizer=optimizer, weight_decay=0.1, ema_decay=0.5)
    states = states_by_epoch(trainer)
    assert changed(states[0], states[1]) == changed(states[1], states[2]) == {"output.weight", "output.bias"}
    assert changed(states[2], states[3]) == set(states[0])


def test_frozen_layers_run_in_evaluation_mode_and_get_no_gradient(tmp_path):
    trainer = build(tmp_path, freeze_epochs=1, epochs=2, dropout=0.5)
    seen = []
    trainer.model.hidden1.register_forward_hook(
        lambda module, inputs, outputs: seen.append((trainer.epoch, module.training, outputs.requires_grad))
    )
    fit(trainer)
    modes = [(epoch, training, grad) for epoch, training, grad in seen if training or grad]
    assert {epoch for epoch, *_ in modes} == {2}
    assert all(training and grad for _, training, grad in modes)
    assert all(weights.requires_grad for weights in trainer.model.parameters())


def test_head_only_runs_have_the_whole_schedule_others_begin_it_after_freeze_epochs(tmp_path):
    values = {"epochs": 4, "schedule": "linear", "warmup_epochs": 1.0, "lr": 0.1}
    whole, frozen, part = (build(tmp_path, **values, freeze_epochs=epochs) for epochs in (0, 9, 1))
    rates = [[round(rate, 6) for rate in fit(trainer).step_rows()[:, 3].tolist()] for trainer in (whole, frozen, part)]
    assert rates[0] == rates[1]
    (three,) = [fit(build(tmp_path, **values | {"epochs": 3})).step_rows()[:, 3].tolist()]
    assert rates[2] == [0.1] * 3 + [round(rate, 6) for rate in three]


def test_weights_that_a_network_never_trains_stay_frozen(tmp_path):
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    model.hidden1[1].weight.requires_grad_(False)
    states = states_by_epoch(build(tmp_path, model=model, freeze_epochs=1, weight_decay=0.1))
    assert changed(states[0], states[3]) == set(states[0]) - {"hidden1.1.weight"}


def test_frozen_batch_norms_keep_their_statistics_and_train_their_weights(tmp_path):
    states = states_by_epoch(build(tmp_path, freeze_batch_norm=True, freeze_epochs=1, ema_decay=0.5))
    expected = {name for name in states[0] if "running" not in name and "num_batches" not in name}
    assert changed(states[0], states[3]) == expected


@pytest.mark.parametrize(("optimizer", "changes"), [("adam", EVERYTHING), ("muon", EVERYTHING), ("adam", {})])
@pytest.mark.parametrize("stop", [2, "end of epoch 1", "end of epoch 2", 5])
def test_a_run_resumes_to_the_same_bits_before_and_after_the_phases_change(tmp_path, optimizer, changes, stop):
    changes = {**changes, "optimizer": optimizer, "freeze_epochs": 2, "layer_decay": 0.8, "epochs": 4}
    whole, stopped, saved, calls = build(tmp_path, **changes), build(tmp_path, **changes), io.BytesIO(), []
    fit(whole)

    def check(moment):
        if moment == stop:
            torch.save(stopped.state_dict(), saved)
            raise StoppedError

    def on_step():
        calls.append(1)
        check(len(calls))

    torch.manual_seed(5)
    with pytest.raises(StoppedError):
        stopped.fit(on_step, lambda row: check(f"end of epoch {row['epoch']}"))
    saved.seek(0)
    torch.manual_seed(99)
    resumed = build(tmp_path, **changes)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    fit(resumed)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.history.best_state, whole.history.best_state, rtol=0, atol=0)
    assert torch.equal(resumed.history.step_rows(), whole.history.step_rows())
    assert resumed.history.epochs == whole.history.epochs


class Counter:
    """Counts the images that a network gets, outside of its last layer."""

    def __init__(self, trainer) -> None:
        self.images = 0
        trainer.model.blocks.register_forward_pre_hook(self.count)

    def count(self, module, inputs) -> None:
        self.images += len(inputs[0])


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5, "optimizer": "sgd"}, {"precision": "bf16"}])
def test_without_augmentation_the_frozen_layers_see_each_image_and_copy_once(tmp_path, changes, monkeypatch, capsys):
    once, each = (build(tmp_path, freeze_epochs=9, epochs=5, dropout=0.5, lr=0.1, **changes) for _ in range(2))
    counters = [Counter(once), Counter(each)]
    fit(once)
    assert "the last layer is trained on its inputs, which are computed once" in capsys.readouterr().out
    monkeypatch.setattr(fine_tuning, "MOST_BYTES", 1000)
    fit(each)
    assert "in each epoch: they would take 0.0 GiB, allowed are 9.31323e-07" in capsys.readouterr().out
    # And one image, by which the last layer is found. With a moving average, that network validates.
    validated = 0 if once.ema else 12
    assert [counter.images for counter in counters] == [1 + 2 * 24 + 12, 1 + 5 * (24 + validated)]
    torch.testing.assert_close(once.history.best_state, each.history.best_state, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(once.history.step_rows(), each.history.step_rows(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["hflip", "color_jitter", "grayscale", "random_erase", "mixup_alpha", "cutmix_alpha"])
def test_each_augmentation_needs_the_images_in_each_epoch(name):
    assert is_random(train_params(**{name: 0.01}))
    assert is_random(train_params(random_resized_crop=0.99))
    assert not is_random(train_params())


def test_inputs_of_more_copies_than_frozen_epochs_are_not_computed_ahead(tmp_path):
    trainer = build(tmp_path, freeze_epochs=1, epochs=2)
    counter = Counter(trainer)
    fit(trainer)
    assert counter.images == 2 * (24 + 12)


def test_a_network_that_changes_the_output_of_its_last_layer_is_trained_on_images(tmp_path, capsys):
    trainer = build(tmp_path, model=network("squeezenet1_1", "cpu"), freeze_epochs=9)
    states = states_by_epoch(trainer)
    assert "in each epoch: the network changes the output of that layer" in capsys.readouterr().out
    assert changed(states[0], states[3]) == {"classifier.1.weight", "classifier.1.bias"}


def test_patience_and_the_best_epoch_count_over_both_phases(tmp_path):
    trainer = build(tmp_path, optimizer="sgd", lr=1e-30, epochs=9, freeze_epochs=2, patience=3, freeze_batch_norm=True)
    history = fit(trainer)
    assert (len(history.epochs), history.best["epoch"], len(history.step_rows())) == (4, 1, 12)


@pytest.mark.parametrize(("freeze_epochs", "said"), [(2, False), (4, True), (5, True)])
def test_a_run_that_patience_ends_before_its_last_phase_says_so(tmp_path, capsys, freeze_epochs, said):
    fit(build(tmp_path, optimizer="sgd", lr=1e-30, epochs=9, freeze_epochs=freeze_epochs, patience=3))
    line = "train.patience 3 ended the run before the phase in which all layers are trained"
    output = capsys.readouterr().out
    assert (line in output) == said
    assert ("from epoch" in output) != said


def test_only_the_heads_of_a_network_of_timm_are_trained_also_if_there_are_two(tmp_path):
    pytest.importorskip("timm")
    model = network("timm/deit_tiny_distilled_patch16_224", "cpu", image_size=32)
    for _, head in find_heads(model):  # as with pretrained weights for other classes
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    states = states_by_epoch(build(tmp_path, model=model, freeze_epochs=1, epochs=1))
    assert changed(states[0], states[1]) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_a_network_of_torchvision_is_fine_tuned(tmp_path):
    torch.manual_seed(0)
    model = resnet18(num_classes=3)
    model.to(memory_format=torch.channels_last)
    states = states_by_epoch(build(tmp_path, model=model, freeze_epochs=1, layer_decay=0.7, epochs=2))
    assert changed(states[0], states[1]) == {"fc.weight", "fc.bias"}
    assert changed(states[1], states[2]) == set(states[0])


@pytest.mark.parametrize(
    ("changes", "pretrained", "expected"),
    [
        ({}, False, []),
        ({"freeze_epochs": 1, "layer_decay": 0.7, "freeze_batch_norm": True}, True, []),
        ({"layer_decay": 0.7}, False, []),
        ({"freeze_epochs": 1}, False, ["train.freeze_epochs: the frozen layers have random weights, since"]),
        (
            {"freeze_epochs": 3, "layer_decay": 0.7, "optimizer": "muon"},
            True,
            ["train.layer_decay 0.7 has no effect: only the last", "train.optimizer muon has no effect: only the last"],
        ),
        ({"freeze_batch_norm": True}, False, ["train.freeze_batch_norm: no statistics are there to keep, since"]),
    ],
)
def test_values_without_effect_are_noted(changes, pretrained, expected):
    lines = notes(train_params(**changes), Classifier(2, 0.0, 32, 3), pretrained)
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


def test_freeze_batch_norm_of_a_network_without_one_is_noted():
    (line,) = notes(train_params(freeze_batch_norm=True), nn.Sequential(nn.Linear(2, 2)), True)
    assert line == "train.freeze_batch_norm has no effect: the network has no batch norm"
