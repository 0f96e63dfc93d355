"""The specification of a small network, and weights that cannot be used."""

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
