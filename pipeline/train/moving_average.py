"""The exponential moving average of a network's weights, which is validated and saved instead of the weights."""

import copy
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """Averages the weights and the statistics of the batch norms of a network.

    After n updates the decay is min(``decay``, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage. With
    a constant decay the average of a short run would be little more than its random initial weights.

    Args:
        model: on its device; its tensors are changed in place by the training.
        decay: the weight of the old average from about 9 / (1 - decay) updates on.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        # The number of batches that a batch norm has seen.
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights; the host does not wait for the device."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = zip(*self.averaged, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        if self.copied:
            counts, new = zip(*self.copied, strict=True)
            torch._foreach_copy_(counts, new)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]
