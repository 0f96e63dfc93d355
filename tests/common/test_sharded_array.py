"""Arrays in several files: which image is in which file, and that they are read like one array."""

from collections import Counter

import numpy as np
import pytest

from pipeline.common.sharded_array import SHARD_BYTES, ShardedArray, parts_of, shard_count, shard_names, shard_of

NAMES = [f"train/bread/{number}.jpg" for number in range(4000)]


@pytest.fixture
def parts(tmp_path):
    """Files of 3, 1 and 4 rows."""
    whole = np.random.default_rng(0).integers(0, 256, (8, 2, 4, 4, 3), np.uint8)
    for number, part in enumerate(np.split(whole, [3, 4])):
        np.save(tmp_path / f"{number}.npy", part)
    return whole, [np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3)]


def test_the_number_of_files_is_a_power_of_two_that_keeps_them_below_the_limit_on_average():
    sizes = [1, SHARD_BYTES, SHARD_BYTES + 1, 2 * SHARD_BYTES, 2 * SHARD_BYTES + 1, 3 * SHARD_BYTES, 10**12]
    assert [shard_count(size) for size in sizes] == [1, 1, 2, 2, 4, 4, 256]


def test_one_file_has_the_name_of_the_split_and_several_have_numbers():
    assert shard_names("train", 1) == ["train.npy"]
    assert shard_names("train", 2) == ["train-00000-of-00002.npy", "train-00001-of-00002.npy"]


def test_images_are_spread_evenly_and_a_doubled_number_splits_each_file():
    assert {shard_of(name, 1) for name in NAMES} == {0}
    assert all(count == pytest.approx(500, rel=0.15) for count in Counter(shard_of(name, 8) for name in NAMES).values())
    assert all(shard_of(name, 16) // 2 == shard_of(name, 8) for name in NAMES)


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        (3, 0),
        slice(None),
        slice(2, 7, 2),
        slice(5, 5),
        (slice(None), 0),
        (slice(1, 6), slice(0, 1), 2),
        [7, 0, 3, 3],
        (np.array([6, 1]), 1),
        (np.array([], np.int64), 0),
        np.arange(8) % 3 == 0,
    ],
)
def test_it_is_indexed_like_one_array(parts, key):
    whole, files = parts
    found = ShardedArray(files)[key]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, whole[key])


def test_its_attributes_are_those_of_one_array(parts):
    whole, files = parts
    array = ShardedArray(files)
    assert (array.shape, array.dtype, array.nbytes, len(array)) == (whole.shape, whole.dtype, whole.nbytes, 8)
    assert parts_of(array) == tuple(files)
    assert parts_of(files[0]) == (files[0],)
    np.testing.assert_array_equal(list(array), whole)


@pytest.mark.parametrize("key", [8, -9, [0, 8]])
def test_a_row_that_does_not_exist_is_an_error(parts, key):
    with pytest.raises(IndexError, match="out of bounds for 8 rows"):
        ShardedArray(parts[1])[key]
