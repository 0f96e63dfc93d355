"""Batches as the network takes them, cut from a packed split by index."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class Batches:
    """A packed split on a device, from which a batch is one indexing operation.

    Args:
        images: ``uint8``, ``(images, copies, height, width, 3)``.
        labels: class indices, ``(images,)``.
        mean, std: of each channel in 0 to 1; the batches are normalised by them.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        with warnings.catch_warnings():
            # The memory map is read-only, and so is our use of it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.mean = (255 * torch.tensor(mean, device=device)).view(1, 3, 1, 1)
        self.scale = 1 / (255 * torch.tensor(std, device=device)).view(1, 3, 1, 1)
        self.device = device

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor, copies: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give a normalised batch ``(n, 3, height, width)``, ``channels_last``, and its labels ``(n,)``.

        Args:
            rows: which images.
            copies: which copy of each; None takes the plain ones.
        """
        images = self.images[rows, copies if copies is not None else 0]
        # NHWC on disk is channels_last in torch: only the strides change.
        return (images.permute(0, 3, 1, 2).float() - self.mean) * self.scale, self.labels[rows]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the plain images in the order of the index, for evaluation."""
        for start in range(0, len(self), batch_size):
            yield self.take(torch.arange(start, min(start + batch_size, len(self)), device=self.device))

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give one epoch in random order, each image as one random copy; an incomplete last batch is left out.

        The order depends on ``seed`` and ``epoch`` alone.
        """
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        rows = torch.randperm(len(self), generator=generator).to(self.device)
        copies = torch.randint(self.images.shape[1], (len(self),), generator=generator).to(self.device)
        for start in range(0, steps_per_epoch(len(self), batch_size) * batch_size, batch_size):
            yield self.take(rows[start : start + batch_size], copies[start : start + batch_size])


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many batches an epoch has; fewer images than a batch make one."""
    return max(1, images // batch_size)
