"""The specification of a small network, and weights for tests."""

import torch
from torch import Tensor, nn

from pipeline.network.models import ModelSpec

SPEC = ModelSpec(
    "classifier",
    4,
    0.0,
    "default",
    3,
    32,
    "stretch",
    "area",
    ("blue", "green", "red"),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)


def overflowing(model: nn.Module) -> dict[str, Tensor]:
    """The state of a classifier, with finite weights that are so large that its features and its output are not."""
    state = model.state_dict()
    for name in ("hidden1.1.weight", "hidden2.1.weight", "output.weight"):
        state[name] *= 1e30
    return state


@torch.no_grad()
def spread_logits(model: nn.Module, batches: int) -> None:
    """Give random photos of one colour with noise logits of mean 0 and deviation 2, as after ``batches`` of training
    for the batch norms."""
    photos = torch.randn(200, 3, 1, 1) + torch.randn(200, 3, 32, 32)
    for _ in range(batches):
        model.train()(photos)
    logits = model.eval()(photos)
    model.output.weight.mul_(2 / logits.std(0)[:, None])
    model.output.bias.sub_(logits.mean(0)).mul_(2 / logits.std(0))
