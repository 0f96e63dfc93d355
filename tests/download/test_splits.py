"""Missing splits are drawn with the same share of every class; splits that the source has stay."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.download.layout import SourceImage
from pipeline.download.splits import assign_splits
from pipeline.errors import PipelineError


def images(*counts, split=None):
    """The given numbers of images of class 0, of class 1, ..."""
    return [
        SourceImage(f"{split}/{label}_{index:04}.jpg", f"{index:04}.jpg", split, label)
        for label, count in enumerate(counts)
        for index in range(count)
    ]


def counted(assigned):
    """The number of images for each split and label."""
    return Counter((image.split, image.label) for image in assigned)


def test_each_class_has_the_same_share_in_every_split():
    assert counted(assign_splits(images(100, 40, 20), valid_fraction=0.15, test_fraction=0.2, seed=0)) == {
        **{("train", 0): 65, ("train", 1): 26, ("train", 2): 13},
        **{("valid", 0): 15, ("valid", 1): 6, ("valid", 2): 3},
        **{("test", 0): 20, ("test", 1): 8, ("test", 2): 4},
    }


def test_without_a_test_fraction_there_is_no_test_split():
    assert {image.split for image in assign_splits(images(20, 20), 0.2, 0, seed=0)} == {"train", "valid"}


def test_the_same_seed_draws_the_same_split_and_another_seed_another():
    drawn = [assign_splits(images(50, 50), 0.2, 0.2, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert counted(drawn[0]) == counted(drawn[2])


def test_the_order_of_the_images_does_not_matter():
    pool = images(50, 50)
    shuffled = random.Random(0).sample(pool, len(pool))
    assert assign_splits(shuffled, 0.2, 0.2, seed=0) == assign_splits(pool, 0.2, 0.2, seed=0)


def test_a_source_with_all_splits_stays_as_it_is():
    pool = images(9, 1, split="train") + images(1, 5, split="valid") + images(0, 2, split="test")
    assert assign_splits(pool, 0.5, 0.4, seed=0) == sorted(pool, key=lambda image: image.path)


@pytest.mark.parametrize(("existing", "drawn"), [("test", "valid"), ("valid", "test")])
def test_only_the_missing_split_is_drawn_from_train(existing, drawn):
    kept = images(7, 3, split=existing)
    assigned = assign_splits([*images(20, 20, split="train"), *kept], 0.25, 0.25, seed=0)
    assert [image for image in assigned if image.split == existing] == kept
    assert counted(assigned)[drawn, 0] == counted(assigned)[drawn, 1] == 5


def test_unlabelled_test_images_stay_in_the_test_split():
    unlabelled = [SourceImage(f"test/{index}.jpg", f"{index}.jpg", "test", None) for index in range(5)]
    assigned = assign_splits([*images(10, 10, split="train"), *unlabelled], 0.2, 0.2, seed=0)
    assert [image for image in assigned if image.split == "test"] == unlabelled
    assert {image.label for image in assigned if image.split == "valid"} == {0, 1}


def test_two_images_of_each_class_are_enough():
    assert set(counted(assign_splits(images(2, 2), 0.5, 0, seed=0)).values()) == {1}


@pytest.mark.parametrize(
    ("counts", "test_fraction", "line"),
    [
        ((10, 1), 0, r"data: class 1 has 1 images \(.*1_0000.jpg ...\), too few for train and valid; add images"),
        ((2, 10), 0.2, r"data: class 0 has 2 images .* too few for train and test and valid; add images"),
        ((10, *[1] * 8), 0, r"too few for train and valid \(likewise 7 more classes: 2, 3, 4, 5, 6 and 2 more\); add"),
    ],
)
def test_a_class_with_fewer_images_than_splits_is_refused(counts, test_fraction, line):
    with pytest.raises(PipelineError, match=line):
        assign_splits(images(*counts), 0.2, test_fraction, seed=0, keys=must_not_be_read)


def must_not_be_read(images):
    raise AssertionError("the images were read")


@pytest.mark.parametrize("counts", [(1000, 3), (60, 60, 4), (40, 3)])
@pytest.mark.parametrize("test_fraction", [0, 0.2])
@pytest.mark.parametrize("valid_fraction", [0.15, 0.7])
def test_a_rare_class_is_in_every_split(counts, valid_fraction, test_fraction):
    assigned = assign_splits(images(*counts), valid_fraction, test_fraction, seed=0)
    found = counted(assigned)
    assert all(found[image.split, label] for image in assigned for label in range(len(counts)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(10, 40), min_size=2, max_size=4),
    st.floats(0.15, 0.4),
    st.sampled_from([0, 0.15, 0.3, 0.4]),
    st.integers(0, 2**32 - 1),
)
def test_no_image_is_lost_and_shares_differ_only_by_rounding(counts, valid_fraction, test_fraction, seed):
    pool = images(*counts)
    assigned = assign_splits(pool, valid_fraction, test_fraction, seed)
    assert [(image.path, image.label) for image in assigned] == sorted((image.path, image.label) for image in pool)
    found = counted(assigned)
    for label, count in enumerate(counts):
        assert abs(found["test", label] - test_fraction * count) <= 0.5
        assert abs(found["valid", label] - valid_fraction * count) <= 0.5


# Images that are added, groups and folds.


def placed(assigned):
    """The split of each path."""
    return {image.path: image.split for image in assigned}


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 300), st.integers(1, 40), st.integers(0, 99))
def test_images_that_are_added_or_removed_move_few_others(count, added, seed):
    """The first n units of a class are drawn: the ranks shift by the new images among them, and n by rounding."""
    pool = images(count + added, 50)
    more = placed(assign_splits(pool, 0.15, 0.2, seed))
    fewer = placed(assign_splits([image for image in pool if not _is_added(image, count)], 0.15, 0.2, seed))
    moved = {path for path, split in fewer.items() if more[path] != split}
    # Another class does not move at all.
    assert all(path.startswith("None/0_") for path in moved)
    # Each new image pushes out at most one of test and one of valid.
    assert len(moved) <= 2 * added + 2


def _is_added(image, count):
    return image.label == 0 and int(image.name[:4]) >= count


def test_twenty_more_images_move_about_as_many_as_rounding_requires():
    """Twenty more images require 3 more for valid and 4 for test."""
    moved = 0
    for seed in range(10):
        more = placed(assign_splits(images(1020, 50), 0.15, 0.2, seed))
        fewer = placed(assign_splits(images(1000, 50), 0.15, 0.2, seed))
        moved += sum(more[path] != split for path, split in fewer.items())
    assert moved / 10 <= 12


@given(st.integers(0, 99), st.sampled_from([None, 2, 5]))
@settings(max_examples=20, deadline=None)
def test_neither_names_nor_order_matter_if_the_keys_are_those_of_the_contents(seed, folds):
    pool = images(40, 30)
    contents = {image.path: f"content of {image.path}" for image in pool}
    renamed = [
        SourceImage(f"x/{len(pool) - row}.png", f"{row}.png", None, image.label) for row, image in enumerate(pool)
    ]
    contents |= {new.path: contents[old.path] for new, old in zip(renamed, pool, strict=True)}

    def by_content(of_pool):
        return [contents[image.path] for image in of_pool]

    results = [
        {contents[image.path]: image.split for image in assign_splits(given, 0.2, 0.2, seed, folds, keys=by_content)}
        for given in (pool, random.Random(seed).sample(renamed, len(renamed)))
    ]
    assert results[0] == results[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([None, 2, 3, 5]))
def test_neither_groups_nor_identical_images_are_separated(seed, folds):
    draw = random.Random(seed)
    pool, keys = [], {}
    for row in range(200):
        group = f"{row % 2}-{draw.randrange(40)}" if draw.random() < 0.4 else None
        pool.append(SourceImage(f"{row}.png", f"{row}.png", None, row % 2, group))
        # Some are identical to an image before them, maybe of another class.
        keys[f"{row}.png"] = keys[f"{draw.randrange(row)}.png"] if row and draw.random() < 0.1 else f"key {row}"
    assigned = assign_splits(pool, 0.2, 0.2, seed, folds, keys=lambda found: [keys[image.path] for image in found])
    assert {image.split for image in assigned} == {"train", "valid", "test"}
    for names in ([image.group for image in assigned], [keys[image.path] for image in assigned]):
        splits = {}
        for name, image in zip(names, assigned, strict=True):
            assert name is None or splits.setdefault(name, image.split) == image.split


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(12, 40), min_size=2, max_size=3),
    st.integers(2, 6),
    st.sampled_from([0, 0.2]),
    st.integers(0, 99),
)
def test_each_image_is_validated_in_exactly_one_fold_and_the_test_split_stays(counts, folds, test_fraction, seed):
    pool = images(*counts)
    assigned = [placed(assign_splits(pool, 0.15, test_fraction, seed, folds, fold)) for fold in range(folds)]
    test = {path for path, split in assigned[0].items() if split == "test"}
    for image in pool:
        splits = Counter(fold[image.path] for fold in assigned)
        assert splits == ({"test": folds} if image.path in test else {"valid": 1, "train": folds - 1})
    sizes = [Counter(fold.values())["valid"] for fold in assigned]
    assert max(sizes) - min(sizes) <= len(counts)
