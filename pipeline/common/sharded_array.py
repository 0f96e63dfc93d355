"""An array in several files. Neither the number of the files nor the file of an image depends on the other images, but
on the total size in powers of two: an image that is added changes one file only."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# An array of at most this size is one file; of larger ones, half of it to all of it is in each file, on average.
SHARD_BYTES = 2**32
Part = np.memmap[Any, np.dtype[np.uint8]]


def shard_count(size: int) -> int:
    """In how many files an array of ``size`` bytes is: a power of two."""
    return 1 << max(-(-size // SHARD_BYTES) - 1, 0).bit_length()


def shard_of(name: str, count: int) -> int:
    """The shard of an image. If there are twice as many, those of shard ``i`` are in ``2 * i`` and ``2 * i + 1``."""
    prefix = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return int.from_bytes(prefix, "big") * count >> 32


def shard_names(name: str, count: int) -> list[str]:
    """The names of the files."""
    if count == 1:
        return [f"{name}.npy"]
    return [f"{name}-{shard:05}-of-{count:05}.npy" for shard in range(count)]


class ShardedArray:
    """Memory-mapped arrays one after the other, which are indexed like one array; only what is asked for is read.

    Attributes:
        parts: at least one, of the same shape but for the number of rows.
        starts: the first row of each part.
        shape, dtype, nbytes: of all of them.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        *starts, rows = np.cumsum([0, *map(len, self.parts)]).tolist()
        self.starts: tuple[int, ...] = tuple(starts)
        self.shape: tuple[int, ...] = (rows, *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype
        self.nbytes = sum(part.nbytes for part in self.parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Rows, and of them what the other indices ask for, which are integers or slices."""
        first, *others = key if isinstance(key, tuple) else (key,)
        if isinstance(first, slice):
            rows = np.arange(*first.indices(len(self)))
        else:
            rows = np.asarray(first)
            rows = np.where(rows < 0, rows + len(self), rows) if rows.dtype != bool else np.flatnonzero(rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"row {first} is out of bounds for {len(self)} rows")
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        if rows.ndim == 0:
            row: NDArray[np.uint8] = self.parts[shards][(rows - self.starts[shards], *others)]
            return row
        values = np.empty((len(rows), *self.parts[0][(slice(0), *others)].shape[1:]), self.dtype)
        for shard in np.unique(shards):
            chosen = shards == shard
            values[chosen] = self.parts[shard][(rows[chosen] - self.starts[shard], *others)]
        return values


def parts_of(array: Part | ShardedArray) -> tuple[Part, ...]:
    """The parts of an array; one that is not sharded is a part itself."""
    return array.parts if isinstance(array, ShardedArray) else (array,)
