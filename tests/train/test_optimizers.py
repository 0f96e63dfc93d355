"""Optimizers."""

from typing import get_args

import pytest
import torch
from torch import nn

from pipeline.network.models import Classifier
from pipeline.params.schema import TrainParams
from pipeline.train.optimizers import build_optimizers
from tests.support.sections import TRAIN

CPU = torch.device("cpu")
NAMES = get_args(TrainParams.model_fields["optimizer"].annotation)


def build(model: nn.Module, **changes) -> list[torch.optim.Optimizer]:
    return build_optimizers(model, TrainParams(**{**TRAIN, **changes}), CPU)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_in_one_group_of_one_optimizer(name):
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    optimized = [p for o in build(model, optimizer=name) for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, optimized)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("name", NAMES)
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


def test_muon_takes_the_hidden_matrices_alone():
    model = Classifier(width=2, dropout=0.0, image_size=32, outputs=3)
    muon, adamw = build(model, optimizer="muon")
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(32, 16), (16, 32)]


def test_rmsprop_weighs_a_tenth_of_each_new_squared_gradient():
    (optimizer,) = build(nn.Linear(2, 2), optimizer="rmsprop")
    assert optimizer.defaults["alpha"] == 0.9
