"""From measures and groups to findings."""

import numpy as np
import pytest

from pipeline.augment.audit import COLUMNS, audit, findings_table, summary
from pipeline.augment.measures import MEASURES, measure
from pipeline.common.raw_archive import RawImage

SIZE = 32
RANDOM = np.random.default_rng(0)


def noise(low=0, high=256):
    """A photo that is like no other."""
    return RANDOM.integers(low, high, (SIZE, SIZE, 3), dtype=np.uint8)


def audited(*images, bad=None, drop=False):
    """Audit images given as (split, label, pixels)."""
    bad = bad or {}
    raw = [RawImage(f"{split}/{row}.png", split, label, str(row)) for row, (split, label, _) in enumerate(images)]
    plain = [
        pixels[:SIZE, :SIZE] if len(pixels) >= SIZE else np.resize(pixels, (SIZE, SIZE, 3)) for *_, pixels in images
    ]
    measures = np.zeros(len(images), MEASURES)
    for row, (_, _, pixels) in enumerate(images):
        if row not in bad:
            measures[row] = measure(pixels.tobytes(), pixels, plain[row])
    return audit(raw, ("cat", "dog"), bad, measures, plain.__getitem__, drop)


def test_a_leak_is_a_group_in_more_than_one_split():
    same, twice = noise(), noise()
    found = audited(
        ("train", 0, same), ("train", 1, twice), ("valid", 0, same), ("train", 1, twice), ("test", 0, noise())
    )
    assert [group.rows for group in found.leaks] == [(0, 2)]
    assert [group.rows for group in found.repeats] == [(1, 3)]
    assert found.contradictions == []


def test_contradictory_labels_are_found_within_a_split_and_across():
    one, other, unlabelled = noise(), noise(), noise()
    found = audited(
        ("train", 0, one),
        ("train", 1, one),
        ("train", 0, other),
        ("valid", 1, other),
        ("train", 0, unlabelled),
        ("test", None, unlabelled),
    )
    assert [group.rows for group in found.contradictions] == [(0, 1), (2, 3)]
    assert [group.rows for group in found.leaks] == [(2, 3), (4, 5)]
    assert found.repeats == []


def test_dropping_leaks_keeps_what_the_last_split_has():
    everywhere, validated = noise(), noise()
    images = [
        ("train", 0, everywhere),
        ("train", 0, everywhere),
        ("train", 1, validated),
        ("train", 1, noise()),
        ("valid", 0, everywhere),
        ("valid", 1, validated),
        ("test", None, everywhere),
        ("test", None, everywhere),
    ]
    assert audited(*images).kept == list(range(8))
    assert audited(*images, drop=True).kept == [3, 5, 6, 7]


def test_bad_images_are_neither_kept_nor_judged():
    found = audited(("train", 0, noise()), ("train", 1, noise()), ("train", 1, noise()), bad={1: "the file is empty"})
    assert found.kept == [0, 2]
    assert found.groups == []
    assert found.unfit == {"dark": [], "bright": [], "blurred": [], "tiny": []}
    assert findings_table(found).to_numpy().tolist() == [
        ["bad image", "", "train", "train/1.png", "dog", "the file is empty"]
    ]


def test_unfit_images_are_listed_worst_first():
    found = audited(
        ("train", 0, noise()),
        ("train", 0, noise(30, 60)),
        ("train", 0, noise(0, 20)),
        ("train", 1, noise(200, 256)),
        ("valid", 1, np.full((SIZE, SIZE, 3), 120, np.uint8)),
        ("test", None, noise()[:15, :]),
    )
    assert found.unfit == {"dark": [2, 1], "bright": [3], "blurred": [4], "tiny": [5]}


def test_mean_and_std_are_those_of_the_training_images_that_are_kept():
    leaked, stays = noise(), noise(100, 200)
    found = audited(("train", 0, leaked), ("train", 1, stays), ("valid", 0, leaked), drop=True)
    mean, std = found.moments()
    np.testing.assert_allclose(mean, stays.reshape(-1, 3).mean(0) / 255)
    np.testing.assert_allclose(std, stays.reshape(-1, 3).std(0) / 255)


def test_the_summary_counts_what_the_dataset_holds():
    same = noise()
    found = audited(("train", 0, same), ("train", 1, noise()), ("valid", 0, same), ("valid", 1, noise()), drop=True)
    numbers = summary(found)
    assert numbers["images"] == {"train": 1, "valid": 2}
    assert (numbers["leaks"], numbers["dropped"], numbers["duplicates"], numbers["bad_images"]) == (1, 1, 0, 0)
    assert numbers["classes"] == [{"class": "cat", "train": 0, "valid": 1}, {"class": "dog", "train": 1, "valid": 1}]


@pytest.mark.parametrize("drop", [False, True])
def test_the_table_numbers_groups_and_says_what_was_dropped(drop):
    same = noise()
    table = findings_table(audited(("train", 0, same), ("valid", 1, same), drop=drop))
    assert list(table.columns) == COLUMNS
    assert table["finding"].tolist() == ["leak", "leak", "contradictory labels", "contradictory labels"]
    assert set(table["group"]) == {"0"}
    assert table["detail"].tolist()[:2] == ["the same file, dropped" if drop else "the same file", "the same file"]
