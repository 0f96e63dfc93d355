"""Batches and the order of the images in an epoch."""

import itertools
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.sharded_array import ShardedArray
from pipeline.errors import PipelineError
from pipeline.network.batches import PREFETCH, Batches, fits, shuffled_plan, steps_per_epoch
from tests.support.tiny_datasets import MEAN, STD, write_split

CPU = torch.device("cpu")


@pytest.fixture
def split(tmp_path):
    return write_split(tmp_path, images=23, copies=3)


@pytest.fixture(autouse=True)
def fail_after_30_seconds():
    """Make a test that hangs fail."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("did not end in 30 seconds"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def open_split(split, resident, mean=MEAN, std=STD):
    return Batches(split, mean, std, CPU, resident=resident)


def plan(**changes):
    return list(shuffled_plan(**{"images": 23, "copies": 3, "batch_size": 5, "seed": 1, "epoch": 1, **changes}))


def same(left, right):
    return len(left) == len(right) and all(map(torch.equal, itertools.chain(*left), itertools.chain(*right)))


@pytest.mark.parametrize("resident", [True, False])
def test_batch_has_the_pixels_and_labels_of_the_rows_and_copies_in_the_plan(split, resident):
    batches = list(open_split(split, resident).load(plan()))
    assert len(batches) == 4
    for (rows, copies), (images, labels) in zip(plan(), batches, strict=True):
        np.testing.assert_array_equal(images.numpy(), split.images[rows.numpy(), copies.numpy()])
        np.testing.assert_array_equal(labels.numpy(), split.labels[rows.numpy()])


@pytest.mark.parametrize("resident", [True, False])
def test_batches_of_a_split_in_several_files_are_those_of_one_file(split, resident, tmp_path):
    for number, part in enumerate(np.split(split.images, [4, 5, 20])):
        np.save(tmp_path / f"part-{number}.npy", part)
    parts = [np.load(tmp_path / f"part-{number}.npy", mmap_mode="r") for number in range(4)]
    sharded = replace(split, images=ShardedArray(parts))
    assert same(list(open_split(sharded, resident).load(plan())), list(open_split(split, True).load(plan())))


def test_resident_and_streamed_batches_are_the_same(split):
    resident, streamed = (list(open_split(split, choice).in_order(4)) for choice in (True, False))
    assert len(resident) == 6
    assert same(resident, streamed)


@pytest.mark.parametrize("resident", [True, False])
def test_normalised_batches_have_mean_0_and_deviation_1_and_are_channels_last(split, resident):
    plain = split.images[:, 0] / 255
    batches = open_split(split, resident, plain.mean((0, 1, 2)).tolist(), plain.std((0, 1, 2)).tolist())
    images = [images for images, _ in batches.in_order(5)]
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in images)
    together = torch.cat(images)
    assert together.shape == (23, 3, 32, 32)
    torch.testing.assert_close(together.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_images_that_are_stored_larger_are_resized_to_the_input_of_the_network(split):
    batches = Batches(split, MEAN, STD, CPU, size=16)
    [(images, _)] = batches.in_order(23)
    assert images.shape == (23, 3, 16, 16)
    # Antialiased: independent noise keeps less than half of its deviation.
    [(whole, _)] = Batches(split, MEAN, STD, CPU).in_order(23)
    deviations = [pixels.std(dim=(2, 3)).mean() for pixels in (images, whole)]
    assert 0.3 < deviations[0] / deviations[1] < 0.5
    torch.testing.assert_close(images.mean(dim=(2, 3)), whole.mean(dim=(2, 3)), atol=0.03, rtol=0)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_in_order_divides_the_images_among_the_processes(split):
    batches = open_split(split, True)
    whole = torch.cat([images for images, _ in batches.in_order(100)])
    for rank in range(3):
        share = torch.cat([images for images, _ in batches.in_order(4, rank, world=3)])
        assert torch.equal(share, whole[rank::3])


@pytest.mark.parametrize("resident", [True, False])
def test_processes_beyond_the_number_of_images_have_no_batch(split, resident):
    batches = open_split(split, resident)
    assert [len(list(batches.in_order(4, rank, world=25))) for rank in (0, 22, 23, 24)] == [1, 1, 0, 0]


def test_split_larger_than_half_of_the_free_memory_is_streamed():
    assert fits(1_000, CPU)
    assert not fits(10**15, CPU)


sizes = {"images": st.integers(1, 300), "batch_size": st.integers(2, 70)}


@given(**sizes, copies=st.integers(1, 6), seed=st.integers(0, 2**32), epoch=st.integers(1, 1000))
def test_every_image_is_at_most_once_in_an_epoch_and_all_batches_are_full(images, batch_size, copies, seed, epoch):
    steps = plan(images=images, batch_size=batch_size, copies=copies, seed=seed, epoch=epoch)
    assert [len(rows) for rows, _ in steps] == [min(batch_size, images)] * max(1, images // batch_size)
    assert len(steps) == steps_per_epoch(images, batch_size)
    seen, drawn = (torch.cat(part).tolist() for part in zip(*steps, strict=True))
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(images))
    assert set(drawn) <= set(range(copies))


@given(**sizes, copies=st.integers(1, 6), more=st.integers(1, 9))
def test_an_epoch_of_more_steps_has_full_batches_and_uses_the_images_equally_often(images, batch_size, copies, more):
    least = steps_per_epoch(images, batch_size) + more
    steps = plan(images=images, batch_size=batch_size, copies=copies, min_steps=least)
    assert [len(rows) for rows, _ in steps] == [batch_size] * least
    seen, drawn = (torch.cat(part) for part in zip(*steps, strict=True))
    uses = seen.bincount(minlength=images)
    assert uses.max() - uses.min() <= 1
    assert drawn.min() >= 0
    assert drawn.max() < copies


@given(**sizes, copies=st.integers(1, 6))
def test_epoch_that_has_the_steps_is_the_same(images, batch_size, copies):
    size = {"images": images, "batch_size": batch_size, "copies": copies}
    assert same(plan(**size), plan(**size, min_steps=steps_per_epoch(images, batch_size)))


@given(**sizes, start=st.integers(0, 20), world=st.integers(1, 5), least=st.integers(0, 20))
def test_epoch_resumes_at_any_step_and_processes_share_the_batches_of_one(images, batch_size, start, world, least):
    size = {"images": images, "batch_size": batch_size, "min_steps": least}
    whole = plan(**size)
    assert same(whole[start:], plan(**size, start=start))
    shares = [plan(**size, rank=rank, world=world) for rank in range(world)]
    for (rows, copies), *parts in zip(whole, *shares, strict=True):
        pairs = [pair for part in parts for pair in zip(part[0].tolist(), part[1].tolist(), strict=True)]
        assert sorted(pairs) == sorted(zip(rows.tolist(), copies.tolist(), strict=True))


def test_order_depends_only_on_seed_and_epoch():
    torch.manual_seed(1)
    first = plan()
    before = torch.manual_seed(2).get_state()
    assert same(first, plan())
    assert torch.equal(before, torch.get_rng_state())
    assert not same(first, plan(seed=2))
    assert not same(first, plan(epoch=2))


def test_all_images_and_all_copies_are_drawn_equally_often():
    drawn = [
        torch.cat(part) for part in zip(*(step for epoch in range(300) for step in plan(epoch=epoch)), strict=True)
    ]
    copies = torch.bincount(drawn[1], minlength=3) / len(drawn[1])
    images = torch.bincount(drawn[0], minlength=23) / 300
    torch.testing.assert_close(copies, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    torch.testing.assert_close(images, torch.full((23,), 20 / 23), atol=0.1, rtol=0)


def test_removed_file_raises_an_error_in_the_consumer(split):
    batches = open_split(split, False)
    Path(split.images.filename).unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.npy"):
        list(batches.load(plan()))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_file_raises_an_error_and_yields_no_invalid_batch(tmp_path, kept):
    # Without the fixture: pytest would print its arrays, which are mapped to the truncated file.
    batches = open_split(write_split(tmp_path, images=23, copies=3), False)
    path = tmp_path / "train.npy"
    os.truncate(path, int(kept * path.stat().st_size))
    everything = [(torch.arange(23), torch.full((23,), copy)) for copy in range(3)]
    with pytest.raises((OSError, PipelineError), match=r"train\.npy"):
        list(batches.load(everything))


def test_error_in_the_plan_is_raised_in_the_consumer(split):
    def broken():
        yield from plan()[:2]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(open_split(split, False).load(broken()))


@pytest.mark.parametrize("taken", [1, 4])
def test_closed_iterator_ends_its_threads(split, taken):
    before = threading.active_count()
    stream = open_split(split, False).load(itertools.cycle(plan()))
    for _ in range(taken):
        next(stream)
    assert before < threading.active_count() <= before + PREFETCH
    stream.close()
    assert threading.active_count() == before


def test_number_of_batches_that_are_read_ahead_is_limited(split):
    planned = []
    stream = open_split(split, False).load(planned.append(step) or step for step in itertools.cycle(plan()))
    next(stream)
    time.sleep(0.3)
    stream.close()
    # One returned, and those that are read ahead.
    assert len(planned) == PREFETCH + 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 22), st.integers(0, 2)), min_size=1, max_size=9))
def test_streaming_reads_any_images_in_any_order(tmp_path_factory, pairs):
    split = write_split(tmp_path_factory.getbasetemp(), images=23, copies=3)
    rows, copies = torch.tensor(pairs).T
    ((images, _),) = open_split(split, False).load([(rows, copies)])
    np.testing.assert_array_equal(images.numpy(), split.images[rows.numpy(), copies.numpy()])
