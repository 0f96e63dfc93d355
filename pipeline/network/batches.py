"""Batches of a packed split."""

import itertools
import math
import os
import warnings
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.common.dataset import PackedSplit
from pipeline.common.sharded_array import Part, ShardedArray, parts_of
from pipeline.errors import PipelineError

Plan = Iterable[tuple[Tensor, Tensor]]
PREFETCH = 3


class Batches:
    """Loads the batches of a packed split to a device.

    A split that fits into the memory is copied to the device once, and a batch is one indexing operation there.
    Otherwise threads read batches ahead from the files into pinned memory. Both return the same values. On a CPU, a
    split in one file is not copied but mapped, and one in several files is read ahead: a copy would be memory of each
    process.

    Args:
        split: the images and labels.
        mean, std: of each channel in 0 to 1, for normalisation.
        device: of the batches.
        resident: whether to keep the split on the device; None decides by the free memory.
        size: height and width of the network's input; None is that of the images.
    """

    def __init__(
        self,
        split: PackedSplit,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        resident: bool | None = None,
        size: int | None = None,
    ) -> None:
        self.device = device
        self.shape: tuple[int, ...] = split.images.shape
        self.size = size or self.shape[2]
        self.labels = torch.tensor(split.labels)
        self.scale = 1 / torch.tensor(std, device=device).view(1, 3, 1, 1)
        self.shift = -torch.tensor(mean, device=device).view(1, 3, 1, 1) * self.scale
        self.parts = parts_of(split.images)
        mapped = device.type != "cpu" or len(self.parts) == 1
        self.resident = (mapped and fits(split.images.nbytes, device)) if resident is None else resident
        if self.resident:
            with warnings.catch_warnings():
                # The memory map is read-only, and nothing writes to this tensor.
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                # One row per copy, so that a batch is an index of rows.
                self.images = _on_device(self.parts, device).flatten(0, 1)
            self.labels = self.labels.to(device)
        else:
            self.starts = ShardedArray(self.parts).starts

    def __len__(self) -> int:
        return self.shape[0]

    def load(self, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batch of each (rows, copies) of a plan: images ``uint8`` ``(n, height, width, 3)`` and labels
        ``(n,)``, on the device.

        Raises:
            OSError, PipelineError: the file was removed or truncated.
        """
        return self._take(plan) if self.resident else self._stream(plan)

    def as_pixels(self, images: Tensor) -> Tensor:
        """``uint8`` ``(n, h, w, 3)`` to floats in 0 to 1, ``(n, 3, h, w)``, ``channels_last``: only strides change."""
        return images.permute(0, 3, 1, 2) * (1 / 255)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Floats in 0 to 1 to the input of the network: mean 0 and standard deviation 1 over the training split."""
        return torch.addcmul(self.shift, pixels, self.scale)

    def as_input(self, images: Tensor, size: int | None = None) -> Tensor:
        """``uint8`` ``(n, h, w, 3)`` to the input of the network, ``(n, 3, size, size)``; None is the usual size."""
        return self.normalise(resized(self.as_pixels(images), size or self.size))

    def in_order(
        self, batch_size: int, rank: int = 0, world: int = 1, copy: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the normalised images and their labels in the order of the index; of ``world`` processes each gets a
        share.

        Copy 0 is the plain image, the others are its augmented views.
        """
        batches = torch.arange(len(self))[rank::world].split(batch_size)
        for images, labels in self.load((rows, torch.full_like(rows, copy)) for rows in batches if len(rows)):
            yield self.as_input(images), labels

    def _take(self, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Copy the whole plan to the device at once: a copy per batch would make the host wait at each step."""
        batches = list(plan)
        if not batches:
            return
        rows, copies = (torch.cat(parts) for parts in zip(*batches, strict=True))
        indices = (rows * self.shape[1] + copies).to(self.device)
        for index in indices.split([len(rows) for rows, _ in batches]):
            yield self.images.index_select(0, index), self.labels.index_select(0, index // self.shape[1])

    def _stream(self, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Read ``PREFETCH`` batches ahead in threads, and no more, so that the memory does not grow with the split."""
        ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
        # So that the next batch is copied while the device computes.
        side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        with ExitStack() as stack:
            files = [stack.enter_context(Path(str(part.filename)).open("rb", buffering=0)) for part in self.parts]
            readers = stack.enter_context(ThreadPoolExecutor(PREFETCH))
            for rows, copies in plan:
                ahead.append(readers.submit(self._read, files, rows, copies))
                if len(ahead) > PREFETCH:
                    yield self._to_device(*ahead.popleft().result(), side)
            while ahead:
                yield self._to_device(*ahead.popleft().result(), side)

    def _to_device(self, images: Tensor, labels: Tensor, side: torch.cuda.Stream | None) -> tuple[Tensor, Tensor]:
        if side is None:
            return images.to(self.device), labels.to(self.device)
        with torch.cuda.stream(side):
            batch = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(side)
        for tensor in batch:
            tensor.record_stream(current)
        return batch

    def _read(self, files: Sequence[FileIO], rows: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
        """Read a batch by file offsets: the pages of a memory map would count as memory of this process."""
        batch = torch.empty((len(rows), *self.shape[2:]), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        size = batch[0].numel()
        for image, row, copy in zip(batch.numpy(), rows.tolist(), copies.tolist(), strict=True):
            place = bisect(self.starts, row) - 1
            part, number = self.parts[place], (row - self.starts[place]) * self.shape[1] + copy
            if os.preadv(files[place].fileno(), [image.data], part.offset + number * size) != size:
                raise PipelineError(f"{part.filename}: ends before image {row}; run dvc repro --force augment")
        return batch, self.labels[rows]


def _on_device(parts: Sequence[Part], device: torch.device) -> Tensor:
    """All images as one tensor, without two copies on the device at a time."""
    tensors = [torch.from_numpy(part) for part in parts]
    if len(tensors) == 1:
        return tensors[0].to(device)
    whole = torch.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=torch.uint8, device=device)
    for own, part in zip(whole.split([len(part) for part in parts]), tensors, strict=True):
        own.copy_(part)
    return whole


def resized(pixels: Tensor, size: int) -> Tensor:
    """Resize images ``(n, 3, h, w)`` to ``(n, 3, size, size)`` with antialiasing; those of this size are returned."""
    if pixels.shape[2:] == (size, size):
        return pixels
    small = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


def fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes are at most half of the free memory; the rest is for the network."""
    on_gpu = device.type == "cuda"
    free: int = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    return size <= free / 2


def steps_per_epoch(images: int, batch_size: int, min_steps: int = 0) -> int:
    """The number of batches in an epoch: an incomplete last batch is dropped, unless it is the only one."""
    return max(1, images // batch_size, min_steps)


def shuffled_plan(
    images: int,
    copies: int,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    min_steps: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows and copies of each batch of an epoch from step ``start``: images in random order, one random copy
    of each; all of them again, in another order, until there are ``min_steps`` batches.

    The order depends on ``seed`` and ``epoch`` only: a resumed run sees the same batches, and ``world`` processes
    share each batch of a single one.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    steps, complete = steps_per_epoch(images, batch_size, min_steps), steps_per_epoch(images, batch_size)
    passes = math.ceil(steps * batch_size / images) if steps > complete else 1
    order = torch.cat([torch.randperm(images, generator=generator) + images * number for number in range(passes)])
    chosen = torch.randint(copies, (len(order),), generator=generator)[order]
    batches = zip((order % images).split(batch_size), chosen.split(batch_size), strict=True)
    for batch in itertools.islice(batches, start, steps):
        yield batch[0][rank::world], batch[1][rank::world]
