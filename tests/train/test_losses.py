"""Losses."""

import pytest
import torch
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.network.models import class_logits
from pipeline.params.schema import TrainParams
from pipeline.train.losses import build_loss, class_weights, outputs_for
from tests.support.sections import TRAIN

CPU = torch.device("cpu")


def loss(weights=None, **changes):
    return build_loss(TrainParams(**{**TRAIN, **changes}), weights)


def one_hot(labels, classes=3):
    return functional.one_hot(torch.tensor(labels), classes).float()


def test_cross_entropy_is_the_negative_logarithm_of_the_true_classs_softmax():
    outputs = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    expected = -(outputs.softmax(1)[[0, 1], [1, 2]]).log().mean()
    assert loss()(outputs, one_hot([1, 2])) == pytest.approx(expected.item())


def test_label_smoothing_spreads_the_target_over_all_classes():
    outputs = torch.tensor([[2.0, 0.5, -1.0]])
    target = torch.tensor([[0.05, 0.9, 0.05]]) + torch.tensor([[0.0, 0.0, 0.0]])
    smooth = 0.15
    expected = -(target * outputs.log_softmax(1)).sum()
    assert loss(label_smoothing=smooth)(outputs, one_hot([1])) == pytest.approx(expected.item(), rel=1e-5)


def test_mse_is_the_squared_difference_of_softmax_and_one_hot():
    outputs = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    targets = one_hot([0, 2])
    assert loss(loss="mse")(outputs, targets) == pytest.approx(((outputs.softmax(1) - targets) ** 2).mean().item())


def test_far_from_the_goal_mse_is_flat_where_cross_entropy_is_steep():
    """The article's reason for cross-entropy."""
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


def test_balanced_weights_let_every_class_count_alike():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    params = TrainParams(**{**TRAIN, "class_weights": "balanced"})
    weights = class_weights(labels, 3, params, CPU)
    assert [(weights[c] * (labels == c).sum()).item() for c in range(3)] == pytest.approx([10 / 3] * 3)
    assert class_weights(labels, 3, TrainParams(**TRAIN), CPU) is None


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_a_weight_of_two_is_the_sample_twice(name):
    torch.manual_seed(0)
    outputs, targets = torch.randn(2, 3), one_hot([0, 1])
    weighted = loss(torch.tensor([2.0, 1.0, 1.0]), loss=name)(outputs, targets) * 2
    twice = loss(loss=name)(outputs[[0, 0, 1]], targets[[0, 0, 1]]) * 3
    assert weighted.item() == pytest.approx(twice.item(), rel=1e-6)
