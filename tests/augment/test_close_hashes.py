"""Close hashes are found as if every pair were looked at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment.duplicates import close_pairs


def scattered(random, count, families):
    """Hashes of some families, whose members differ from their founder in up to 16 bits."""
    founders = random.integers(0, 2**64, families, dtype=np.uint64)
    hashes = founders[random.integers(0, families, count)]
    for _ in range(16):
        flipped = np.uint64(1) << random.integers(0, 64, count, dtype=np.uint64)
        hashes ^= np.where(random.random(count) < 0.5, flipped, np.uint64(0))
    return hashes


def every_pair(left, right, distance):
    close = np.bitwise_count(left[:, None] ^ right) <= distance
    return sorted(map(tuple, np.argwhere(np.triu(close, 1)).tolist()))


def found_pairs(left, right, distance):
    pairs = close_pairs(left, right, distance, "test")
    return sorted((i, j) for ones, others in pairs for i, j in zip(ones.tolist(), others.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(1, 100), st.sampled_from([7, 12, 20]))
def test_each_pair_that_a_look_at_all_of_them_finds_comes_once(seed, count, families, distance):
    random = np.random.default_rng(seed)
    left, right = scattered(random, count, families), scattered(random, count, families)
    for others in (left, right, left[::-1].copy()):
        assert found_pairs(left, others, distance) == every_pair(left, others, distance)


@pytest.mark.parametrize("count", [3000, 20_000])
def test_so_it_does_with_fewer_and_wider_bands(count):
    hashes = scattered(np.random.default_rng(0), count, count // 3)
    found, known = found_pairs(hashes, hashes, 12), []
    for start in range(0, count, 500):
        close = np.bitwise_count(hashes[start : start + 500, None] ^ hashes) <= 12
        known += [(start + i, j) for i, j in np.argwhere(close).tolist() if start + i < j]
    assert len(known) > count / 2
    assert found == sorted(known)


def test_hashes_that_are_all_the_same_are_all_paired():
    hashes = np.zeros(300, np.uint64)
    assert len(found_pairs(hashes, hashes, 12)) == 300 * 299 / 2


def test_one_hash_and_none_have_no_pair():
    for count in (0, 1):
        assert found_pairs(np.ones(count, np.uint64), np.ones(count, np.uint64), 12) == []
