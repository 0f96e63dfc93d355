"""Tests of the measures of an image and the findings of the audit."""

import time

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from pipeline.augment.audit import COLUMNS, MAX_LEFT_OUT, MEASURES, Audit, findings_table, measure, summarize
from pipeline.common.raw_archive import RawImage
from pipeline.images.duplicates import Duplicates, Group
from tests.support.audits import SIZE, audited, changed, noise, smooth


def resized(pixels, size=64):
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)


def measured(pixels, size=64):
    return measure(pixels.tobytes(), pixels, resized(pixels, size))


def test_the_content_digest_depends_on_the_bytes_of_the_file(photographs):
    first, second = photographs[:2]
    assert measured(first)["content"] == measured(first.copy())["content"] != measured(second)["content"]


def test_the_hashes_are_those_of_imagehash_for_the_image_and_its_mirror_image(photographs):
    for pixels in photographs[:8]:
        luma = cv2.cvtColor(resized(pixels), cv2.COLOR_RGB2GRAY)
        small = Image.fromarray(cv2.resize(luma, (32, 32), interpolation=cv2.INTER_AREA))
        assert f"{int(measured(pixels)['hash']):016x}" == str(imagehash.phash(small))
        assert measured(pixels)["mirrored_hash"] == measured(pixels[:, ::-1].copy())["hash"]


@pytest.mark.parametrize(("height", "width"), [(9, 40), (40, 9)])
def test_the_short_side_is_that_of_the_photo(height, width):
    assert measured(np.zeros((height, width, 3), np.uint8))["short_side"] == 9


def test_low_and_high_are_the_5th_and_95th_percentile():
    ramp = np.tile(np.linspace(0, 255, 200).astype(np.uint8)[:, None, None], (1, 200, 3))
    assert measured(ramp)["low"] == pytest.approx(0.05 * 255, abs=3)
    assert measured(ramp)["high"] == pytest.approx(0.95 * 255, abs=3)


def test_sharpness_decreases_with_blur_and_not_with_contrast(photographs):
    for pixels in photographs[::6]:
        blurred = cv2.GaussianBlur(pixels, (0, 0), 3)
        pale = (pixels // 2 + 64).astype(np.uint8)
        sharp = measured(pixels)["sharpness"]
        assert measured(blurred)["sharpness"] < sharp / 3
        assert measured(pale)["sharpness"] == pytest.approx(sharp, rel=0.2)


def test_a_blank_image_has_no_sharpness():
    assert measured(np.full((50, 50, 3), 128, np.uint8))["sharpness"] == 0


def test_moments_give_mean_and_variance(photographs):
    sums, squares = measured(photographs[0])["moments"]
    plain = resized(photographs[0]).reshape(-1, 3).astype(float)
    np.testing.assert_allclose(sums / len(plain), plain.mean(0))
    np.testing.assert_allclose(squares / len(plain) - (sums / len(plain)) ** 2, plain.var(0))


def rows_of(found, kind):
    return [group.rows for group in found.groups[kind]]


def test_a_leak_is_the_same_picture_in_more_than_one_split():
    same, twice = noise(), noise()
    found = audited(
        ("train", 0, same), ("train", 1, twice), ("valid", 0, same), ("train", 1, twice), ("test", 0, noise())
    )
    assert rows_of(found, "leak") == [(0, 2)]
    assert rows_of(found, "duplicate") == [(1, 3)]
    assert rows_of(found, "contradictory labels") == found.duplicates.near == []


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
    assert rows_of(found, "contradictory labels") == [(0, 1), (2, 3)]
    assert rows_of(found, "leak") == [(2, 3), (4, 5)]
    assert rows_of(found, "duplicate") == []


def test_similar_images_are_pairs_of_near_duplicates_and_never_contradictory_or_dropped():
    pictures = [smooth(seed) for seed in range(3)]
    found = audited(
        *(("train", 0, picture) for picture in pictures),
        ("train", 1, changed(pictures[0])),
        ("train", 0, changed(pictures[1])),
        ("valid", 1, changed(pictures[2])),
        drop=True,
    )
    assert rows_of(found, "near-duplicate with two labels") == [(0, 3), (2, 5)]
    assert rows_of(found, "near-duplicate") == [(1, 4)]
    assert rows_of(found, "near-duplicate in two splits") == [(2, 5)]
    assert found.duplicates.identical == []
    assert found.kept == list(range(6))
    (pair,) = found.groups["near-duplicate"]
    assert found.describe_duplicate(pair, 1) == "near-duplicate, correlation 1.000"


def test_leaks_count_images_of_valid_and_test_that_are_in_an_earlier_split():
    same, similar = noise(), smooth(7)
    images = [
        ("train", 0, same),
        ("train", 1, same),
        ("train", 0, similar),
        ("valid", 0, same),
        ("valid", 0, changed(similar)),
        ("valid", 1, changed(similar)),
        ("test", 0, same),
        ("test", 1, noise()),
    ]
    assert audited(*images).leaked == ({3, 6}, {4, 5})
    assert summarize(audited(*images))[0]["leaks"] == 4
    # The same pictures are dropped from train and valid; near-duplicates stay, and are still leaks.
    assert audited(*images, drop=True).leaked == (set(), {4, 5})


def test_many_identical_images_are_described_in_a_moment():
    count = 20_000
    images = [
        RawImage(f"{split}/0_{number}.jpg", split, 0, str(number), f"{number}.jpg")
        for number, split in enumerate(np.repeat(["train", "valid"], count // 2).tolist())
    ]
    measures, duplicates = np.zeros(count, MEASURES), Duplicates([Group(tuple(range(count)))], [], 0)
    measures["content"][0] = b"another"
    start = time.process_time()
    found = Audit(images, ("a", "b"), {}, measures, SIZE, duplicates, frozenset({0}), {})
    assert found.leaked == (set(range(count // 2, count)), set())
    details = findings_table(found).query("finding == 'leak'")["detail"]
    assert details.tolist() == ["the same pixels, dropped", *["the same pixels"] * (count - 1)]
    assert time.process_time() - start < 10


def test_files_that_were_left_out_are_counted_by_reason_and_listed_up_to_a_limit():
    left_out = {f"notes/{number:04}.txt": "not an image" for number in range(MAX_LEFT_OUT + 5)} | {"z": "empty"}
    found = audited(("train", 0, noise()), ("train", 1, noise()), left_out=left_out)
    assert summarize(found)[1]["left_out"] == {"not an image": MAX_LEFT_OUT + 5, "empty": 1}
    table = findings_table(found)
    assert len(table) == MAX_LEFT_OUT + 2
    assert set(table["finding"]) == {"left out"}
    assert table[["source", "detail"]].to_numpy().tolist()[-2:] == [
        ["5 more files", "not an image"],
        ["1 more files", "empty"],
    ]


def test_dropping_leaks_keeps_only_the_images_in_the_last_split():
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


def test_bad_images_are_neither_kept_nor_measured():
    found = audited(("train", 0, noise()), ("train", 1, noise()), ("train", 1, noise()), bad={1: "the file is empty"})
    assert found.kept == [0, 2]
    assert found.duplicates == Duplicates([], [], 0)
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


def test_mean_and_std_are_those_of_the_kept_training_images():
    leaked, stays = noise(), noise(100, 200)
    found = audited(("train", 0, leaked), ("train", 1, stays), ("valid", 0, leaked), drop=True)
    mean, std = found.moments()
    np.testing.assert_allclose(mean, stays.reshape(-1, 3).mean(0) / 255)
    np.testing.assert_allclose(std, stays.reshape(-1, 3).std(0) / 255)


def test_the_summary_counts_the_kept_images():
    same = noise()
    found = audited(("train", 0, same), ("train", 1, noise()), ("valid", 0, same), ("valid", 1, noise()), drop=True)
    metrics, details = summarize(found)
    assert metrics == {"images": 3, "leaks": 0, "bad_files": 0}
    assert details["splits"] == {"train": 1, "valid": 2}
    assert (details["dropped"], details["duplicates"], details["contradictory_labels"]) == (1, 0, 0)
    assert details["classes"] == [{"class": "cat", "train": 0, "valid": 1}, {"class": "dog", "train": 1, "valid": 1}]


@pytest.mark.parametrize("drop", [False, True])
def test_the_table_numbers_groups_and_marks_dropped_images(drop):
    same = noise()
    table = findings_table(audited(("train", 0, same), ("valid", 1, same), drop=drop))
    assert list(table.columns) == COLUMNS
    assert table["finding"].tolist() == ["leak", "leak", "contradictory labels", "contradictory labels"]
    assert set(table["group"]) == {"0"}
    assert table["detail"].tolist()[:2] == ["the same file, dropped" if drop else "the same file", "the same file"]
