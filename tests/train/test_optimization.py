"""Losses, optimizers and learning rate schedules against their formulas."""

import math
import warnings
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.network.models import Classifier, class_logits
from pipeline.params.schema import TrainParams
from pipeline.train.muon import FilterMuon
from pipeline.train.optimization import build_loss, build_optimizers, build_schedule, class_weights, notes, outputs_for
from tests.support.tiny_datasets import train_params

CPU = torch.device("cpu")
OPTIMIZERS = get_args(TrainParams.model_fields["optimizer"].annotation)
EPOCHS, PER_EPOCH, LR, LR_MIN, GAMMA, SIZE = 6, 10, 0.3, 0.03, 0.5, 2
TOTAL = EPOCHS * PER_EPOCH
SCHEDULES = {
    "constant": lambda t, total: LR,
    "step": lambda t, total: LR * GAMMA ** (t // (SIZE * PER_EPOCH)),
    "exponential": lambda t, total: LR * GAMMA ** (t / PER_EPOCH),
    "linear": lambda t, total: LR + (LR_MIN - LR) * t / total,
    "cosine": lambda t, total: LR_MIN + (LR - LR_MIN) * (1 + math.cos(math.pi * t / total)) / 2,
    # The default fraction is 0.75.
    "flat_cosine": lambda t, total: SCHEDULES["cosine"](max(0, t - 0.75 * total), total / 4),
}


def loss(weights=None, **changes):
    return build_loss(train_params(**changes), weights)


def one_hot(labels, classes=3):
    return functional.one_hot(torch.tensor(labels), classes).float()


def test_cross_entropy_is_the_negative_log_softmax_of_the_true_class():
    outputs = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    expected = -(outputs.softmax(1)[[0, 1], [1, 2]]).log().mean()
    assert loss()(outputs, one_hot([1, 2])) == pytest.approx(expected.item())


def test_label_smoothing_spreads_the_target_over_all_classes():
    outputs = torch.tensor([[2.0, 0.5, -1.0]])
    target = torch.tensor([[0.05, 0.9, 0.05]]) + torch.tensor([[0.0, 0.0, 0.0]])
    smooth = 0.15
    expected = -(target * outputs.log_softmax(1)).sum()
    assert loss(label_smoothing=smooth)(outputs, one_hot([1])) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
@pytest.mark.parametrize("smooth", [0.0, 0.1])
def test_an_image_has_the_weight_of_its_label_with_label_smoothing_too(name, smooth):
    outputs = torch.tensor([[2.0, 0.5], [0.0, 1.0]])[:, : outputs_for(name, 2)]
    weights, settings = torch.tensor([0.6, 3.0]), {"loss": name, "label_smoothing": smooth}
    each = [loss(**settings)(outputs[[row]], one_hot([row], 2)).item() for row in (0, 1)]
    weighted = loss(weights, **settings)(outputs, one_hot([0, 1], 2)).item()
    assert weighted == pytest.approx((0.6 * each[0] + 3.0 * each[1]) / 2)


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_the_best_output_for_an_image_of_a_frequent_class_does_not_depend_on_rare_classes(name):
    """torch's own smoothing would make a class that is a hundredth as frequent more probable than the true one."""
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(torch.tensor([0.3, 1.0, 30.0]), loss=name, label_smoothing=0.1)(logits, one_hot([0])).backward()
        optimizer.step()
    torch.testing.assert_close(logits.softmax(1)[0], torch.tensor([14, 0.5, 0.5]) / 15, atol=2e-3, rtol=0)


def test_mse_is_the_squared_difference_of_softmax_and_one_hot():
    outputs = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    targets = one_hot([0, 2])
    assert loss(loss="mse")(outputs, targets) == pytest.approx(((outputs.softmax(1) - targets) ** 2).mean().item())


def test_for_a_wrong_prediction_mse_has_a_small_gradient_and_cross_entropy_a_large_one():
    """The reason why classification uses cross-entropy."""
    gradients = {}
    for name in ("mse", "cross_entropy"):
        outputs = torch.tensor([[-10.0, 10.0]], requires_grad=True)
        loss(loss=name)(outputs, one_hot([0], 2)).backward()
        gradients[name] = outputs.grad.abs().max().item()
    assert gradients["cross_entropy"] == pytest.approx(1, abs=1e-3)
    assert gradients["mse"] < 1e-6


def test_bce_with_one_sigmoid_agrees_with_cross_entropy_over_two_softmax_outputs():
    logit = torch.linspace(-4, 4, 9).unsqueeze(1)
    targets = one_hot([0, 1, 0, 1, 1, 0, 1, 0, 1], 2)
    assert loss(loss="bce")(logit, targets) == pytest.approx(loss()(class_logits(logit), targets).item(), rel=1e-6)
    torch.testing.assert_close(class_logits(logit).softmax(1)[:, 1:], logit.sigmoid())


def test_bce_needs_two_classes():
    assert outputs_for("bce", 2) == 1
    assert outputs_for("cross_entropy", 3) == 3
    with pytest.raises(PipelineError, match="needs 2 classes, not 3"):
        outputs_for("bce", 3)


def test_balanced_weights_give_every_class_the_same_total_weight():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    params = train_params(class_weights="balanced")
    weights = class_weights(labels, 3, params, CPU)
    assert [(weights[c] * (labels == c).sum()).item() for c in range(3)] == pytest.approx([10 / 3] * 3)
    assert class_weights(labels, 3, train_params(), CPU) is None


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_a_class_weight_of_2_counts_a_sample_twice(name):
    torch.manual_seed(0)
    outputs, targets = torch.randn(2, 3), one_hot([0, 1])
    weighted = loss(torch.tensor([2.0, 1.0, 1.0]), loss=name)(outputs, targets) * 2
    twice = loss(loss=name)(outputs[[0, 0, 1]], targets[[0, 0, 1]]) * 3
    assert weighted.item() == pytest.approx(twice.item(), rel=1e-6)


def build(model: nn.Module, **changes) -> list[torch.optim.Optimizer]:
    return build_optimizers(model, train_params(**changes), CPU)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_weight_is_in_one_group_of_one_optimizer(name):
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    optimized = [p for o in build(model, optimizer=name) for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, optimized)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_lower_a_quadratic_loss(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    inputs, targets = torch.randn(32, 4), torch.randn(32, 1)
    optimizers = build(model, optimizer=name, lr=0.01)
    losses = []
    for _ in range(60):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_norms_and_biases_have_their_own_weight_decay():
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    (optimizer,) = build(model, optimizer="adamw", weight_decay=0.1, norm_weight_decay=0.02)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, weights in model.named_parameters():
        assert decay[id(weights)] == (0.02 if weights.ndim == 1 else 0.1), name


def test_muon_trains_the_hidden_linear_layers_and_convolutions():
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    muon, adamw = build(model, optimizer="muon")
    assert isinstance(muon, FilterMuon)
    assert isinstance(adamw, torch.optim.AdamW)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) > 6
    assert muon.param_groups[0]["params"] == [layer.weight for layer in layers[1:-1]]


def test_muon_does_not_train_convolutions_with_groups():
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2)]
    muon, _ = build(nn.Sequential(*layers), optimizer="muon")
    assert muon.param_groups[0]["params"] == [layers[2].weight]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_takes_the_steps_of_torch_with_updates_five_times_as_large(nesterov):
    torch.manual_seed(0)
    shapes = [(20, 40), (40, 20), (20, 40)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    options = {"momentum": 0.9, "nesterov": nesterov}
    muon = FilterMuon([{"params": ours, "lr": 0.02, "weight_decay": 0.1}], **options)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        # Both compute in bf16; three updates have changed the weights by about 0.06.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
        assert (one - 1).abs().mean() > 0.03


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_muon_changes_filters_by_an_orthogonal_matrix_as_it_changes_linear_layers(memory_format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 2))
    model.to(memory_format=memory_format)
    filters = model[1].weight
    before = filters.detach().clone()
    muon, _ = build(model, optimizer="muon", lr=0.1, weight_decay=0.0)
    gradient = torch.randn(6, 4, 3, 3) * torch.logspace(-1, 1, 6).view(-1, 1, 1, 1)
    filters.grad = gradient.to(memory_format=memory_format)
    muon.step()
    change = (before - filters.detach()).flatten(1)
    # Those of the gradient differ a hundredfold. Newton's and Schulz's iteration ends near 1.
    values = torch.linalg.svdvals(change) / (0.1 * 36**0.5)
    assert 0.5 < values.min() < values.max() < 1.3
    assert (change * gradient.flatten(1)).sum() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scaled_gradients_of_fp16_give_the_step_of_gradients_that_are_not_scaled(name):
    stepped = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 2))
        optimizers = build(model, optimizer=name, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(model(torch.rand(8, 3, 5, 5)).square().mean()).backward()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
        stepped.append([weights.detach() for weights in model.parameters()])
    for one, other in zip(*stepped, strict=True):
        torch.testing.assert_close(one, other)


def test_rmsprop_gives_each_new_squared_gradient_the_weight_0_1():
    (optimizer,) = build(nn.Linear(2, 2), optimizer="rmsprop")
    assert optimizer.defaults["alpha"] == 0.9


def curve(optimizer: str = "sgd", **changes) -> list[float]:
    """The learning rate of each step."""
    values = {"epochs": EPOCHS, "lr": LR, "lr_min": LR_MIN, "lr_gamma": GAMMA, "lr_step_size": SIZE}
    params = train_params(**{**values, **changes})
    weights = torch.nn.Parameter(torch.zeros(2, 2))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
    built = kinds[optimizer]([weights], lr=params.lr)
    schedule = build_schedule(built, params, PER_EPOCH)
    rates = []
    for _ in range(TOTAL):
        rates.append(built.param_groups[0]["lr"])
        assert schedule.get_last_lr() == [rates[-1]]
        weights.grad = torch.ones_like(weights)
        built.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_follows_its_formula(name):
    expected = [SCHEDULES[name](t, TOTAL) for t in range(TOTAL)]
    assert curve(schedule=name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.5, 2.0])
def test_linear_warm_up_rises_to_the_peak_and_the_schedule_follows(name, warmup):
    steps = round(warmup * PER_EPOCH)
    rising = [LR * (0.1 + 0.9 * t / steps) for t in range(steps)]
    then = [SCHEDULES[name](t, TOTAL - steps) for t in range(TOTAL - steps)]
    assert curve(schedule=name, warmup_epochs=warmup) == pytest.approx(rising + then, rel=1e-6)


def test_constant_warm_up_multiplies_the_learning_rate_by_warmup_decay():
    """As for the 110-layer network of He et al. 2016: first 0.01, then 0.1."""
    rates = curve(schedule="constant", lr=0.1, warmup_epochs=1.0, warmup_method="constant", warmup_decay=0.1)
    assert rates == pytest.approx([0.01] * PER_EPOCH + [0.1] * (TOTAL - PER_EPOCH))


@pytest.mark.parametrize(("warmup", "peak"), [(0.0, 0.3), (3.0, 0.5)])
def test_onecycle_rises_during_its_warm_up_and_ends_near_0(warmup, peak):
    rates = curve(schedule="onecycle", warmup_epochs=warmup)
    assert rates[0] == pytest.approx(LR / 25)
    assert rates.index(max(rates)) == pytest.approx(peak * TOTAL, abs=1)
    assert max(rates) == pytest.approx(LR, rel=0.02)
    assert rates[-1] < LR / 100
    rise = rates[: rates.index(max(rates)) + 1]
    assert rise == sorted(rise)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.7, 2.0])
def test_onecycle_has_the_learning_rates_of_torch(warmup):
    rise = round(warmup * PER_EPOCH) / TOTAL or 0.3
    built = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    theirs = torch.optim.lr_scheduler.OneCycleLR(built, LR, TOTAL + 1, pct_start=rise, cycle_momentum=False)
    expected = []
    for _ in range(TOTAL):
        expected += theirs.get_last_lr()
        built.step()
        theirs.step()
    assert curve(schedule="onecycle", warmup_epochs=warmup) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
@pytest.mark.parametrize("name", [*SCHEDULES, "onecycle"])
def test_every_schedule_works_with_every_optimizer_without_a_warning(name, optimizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(curve(optimizer, schedule=name, warmup_epochs=1.0)) == TOTAL


@pytest.mark.parametrize("warmup", [6.0, 9.0])
def test_warm_up_that_leaves_no_epoch_for_the_schedule_is_half_of_the_epochs(warmup):
    assert curve(schedule="cosine", warmup_epochs=warmup) == curve(schedule="cosine", warmup_epochs=EPOCHS / 2)


def test_flat_cosine_is_constant_for_its_fraction_and_without_one_the_cosine():
    rates = curve(schedule="flat_cosine", lr_flat_fraction=0.5, warmup_epochs=2.0)
    assert rates[20:41] == [LR] * 21
    assert rates[40:] == sorted(rates[40:], reverse=True)
    assert curve(schedule="flat_cosine", lr_flat_fraction=0.0) == pytest.approx(curve(schedule="cosine"))


@pytest.mark.parametrize("name", ["linear", "cosine", "flat_cosine"])
def test_lr_min_above_lr_keeps_the_learning_rate(name):
    assert curve(schedule=name, lr_min=1.0) == pytest.approx([LR] * TOTAL)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"epochs": 1, "warmup_epochs": 1.0}, "train.warmup_epochs is 0.5 instead of 1: half of 1 epochs"),
        ({"schedule": "cosine", "lr": 0.1, "lr_min": 0.2}, "train.lr_min is 0.1 instead of 0.2: it cannot be above"),
        ({"schedule": "step", "lr_step_size": 5, "epochs": 5}, "train.lr_step_size 5 has no effect: the schedule has"),
        (
            {"schedule": "step", "lr_step_size": 3, "epochs": 4, "warmup_epochs": 1.0},
            "train.lr_step_size 3 has no effect",
        ),
        ({"epochs": 3, "start_size": 64}, "train.start_size 64: train.full_size_epochs is 0, so that no epoch is"),
        (
            {"schedule": "onecycle", "warmup_epochs": 1.0, "warmup_method": "constant"},
            "train.warmup_method constant has no effect: onecycle",
        ),
        (
            {"epochs": 3, "freeze_epochs": 2, "warmup_epochs": 1.0},
            "train.warmup_epochs is 0.5 instead of 1: half of 1 epochs",
        ),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "train.nesterov has no effect: train.momentum is 0"),
        ({"unmixed_epochs": 1}, "train.unmixed_epochs 1 has no effect: train.mixup_alpha and train.cutmix_alpha are 0"),
        ({"mix_probability": 0.5}, "train.mix_probability 0.5 has no effect: train.mixup_alpha and"),
        ({"full_size_epochs": 1}, "train.full_size_epochs 1 has no effect: train.start_size is null"),
        (
            {"epochs": 2, "start_size": 64, "full_size_epochs": 2},
            "train.start_size 64 has no effect: all 2 epochs are at full size",
        ),
        ({"mixup_alpha": 0.2, "unmixed_epochs": 3}, "train.unmixed_epochs 3: no image is mixed in the 3 epochs"),
    ],
)
def test_a_parameter_that_another_one_limits_is_noted(changes, note):
    (line,) = notes(train_params(**changes))
    assert line.startswith(note)
    assert notes(train_params(epochs=3)) == []
