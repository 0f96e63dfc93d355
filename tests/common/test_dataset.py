"""Tests of the packed dataset on disk."""

import numpy as np
import pytest

from pipeline.common.dataset import (
    UNLABELLED,
    Manifest,
    PackedDataset,
    PackedSplit,
    create_array,
    evenly_spaced,
    keep_rows,
)
from pipeline.common.paths import DATASET
from pipeline.errors import PipelineError
from tests.support.tiny_datasets import write_dataset, write_split


@pytest.fixture
def dataset(tmp_path):
    """A dataset with an unlabelled test split."""
    return write_dataset(tmp_path / "dataset", train=7, valid=4, test=3)


def test_a_split_has_images_labels_and_names_in_the_order_of_the_index(dataset):
    split = dataset.split("train")
    assert (split.name, len(split)) == ("train", 7)
    assert split.images.shape == (7, 2, 32, 32, 3)
    assert split.images.dtype == np.uint8
    np.testing.assert_array_equal(split.labels, [0, 1, 2, 0, 1, 2, 0])
    assert split.labels.dtype == np.int64
    # As in the file name: they are not converted to numbers.
    assert split.ids[:2] == ["0000", "0001"]
    assert split.sources[6] == "train/0006.png"


def test_the_images_are_mapped_and_read_only(dataset):
    images = dataset.split("train").images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.fixture
def sharded(dataset):
    """The same with the training images in two files."""
    images = np.load(dataset.folder / "train.npy")
    (dataset.folder / "train.npy").unlink()
    for number, part in enumerate(np.split(images, [3])):
        np.save(dataset.folder / f"train-{number:05}-of-00002.npy", part)
    dataset.manifest.write(dataset.folder)
    return PackedDataset(dataset.folder), images


def test_a_split_in_several_files_is_read_like_one_in_one_file(sharded):
    dataset, images = sharded
    split = dataset.split("train")
    np.testing.assert_array_equal(split.images[:], images)
    np.testing.assert_array_equal(split.sample(3), images[[0, 3, 6], 0])
    assert len(dataset.split("valid")) == 4


def test_a_missing_damaged_or_exchanged_file_of_several_is_one_line_that_names_it(sharded):
    dataset, _ = sharded
    first, second = (dataset.folder / f"train-0000{number}-of-00002.npy" for number in range(2))
    content, other = first.read_bytes(), second.read_bytes()
    second.unlink()
    with pytest.raises(PipelineError, match=rf"^{second}: no such file; "):
        dataset.split("train")
    for damaged in (other[:-1], other[:-1] + bytes([other[-1] ^ 1]), content):
        second.write_bytes(damaged)
        with pytest.raises(PipelineError, match=rf"^{second}: cannot be used \("):
            dataset.split("train")


def test_an_array_of_which_no_row_is_kept_is_removed(tmp_path):
    create_array(tmp_path / "train.npy", (2, 1, 4, 4, 3))
    keep_rows(tmp_path / "train.npy", [])
    assert not list(tmp_path.iterdir())


def test_ids_are_never_parsed_as_numbers_or_missing_values(tmp_path):
    dataset = write_dataset(tmp_path, train=3)
    index = tmp_path / "index.csv"
    odd = ["NA", "1e5", "007"]
    text = index.read_text()
    for row, name in enumerate(odd):
        text = text.replace(f"train,{row},{row:04}", f"train,{row},{name}")
    index.write_text(text)
    dataset.manifest.write(tmp_path)
    assert PackedDataset(tmp_path).split("train").ids == odd


def test_a_split_knows_whether_it_is_labelled(dataset):
    assert dataset.split("valid").labelled
    test = dataset.split("test")
    assert not test.labelled
    np.testing.assert_array_equal(test.labels, [UNLABELLED] * 3)


@pytest.mark.parametrize("images", [{"test": 3}, {}])
def test_auto_is_valid_if_test_has_no_labels_or_is_missing(tmp_path, images):
    dataset = write_dataset(tmp_path, train=4, valid=4, **images)
    assert dataset.labelled_split("auto").name == "valid"


def test_auto_is_test_if_it_is_labelled(dataset):
    index = dataset.folder / "index.csv"
    index.write_text("".join(line.replace(",,,", ",1,green,") for line in index.open()))
    dataset.manifest.write(dataset.folder)
    assert PackedDataset(dataset.folder).labelled_split("auto").name == "test"


def test_an_unlabelled_split_is_rejected_if_labels_are_needed(dataset):
    with pytest.raises(PipelineError, match="the test split has no labels; choose auto or valid"):
        dataset.labelled_split("test")


def test_a_missing_split_is_reported_with_the_existing_ones(tmp_path):
    dataset = write_dataset(tmp_path, train=4, valid=4)
    assert "test" not in dataset
    with pytest.raises(PipelineError, match=r"has no test split, only train, valid; set data.test_fraction"):
        dataset.split("test")


def test_a_missing_dataset_is_reported_with_the_stage_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError) as error:
        PackedDataset(DATASET)
    assert str(error.value) == "data/dataset/manifest.json: no such file; run dvc repro augment"


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    manifest = Manifest(
        ("blé", "Grün"), 64, "crop", "area", (0.1, 0.2, 1 / 3), (0.4, 0.5, 0.6), {"train": (5, 2, 64, 64, 3)}, "abc"
    )
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert "Grün" in (tmp_path / "manifest.json").read_text("utf-8")


def test_test_time_augmentation_requires_views(dataset):
    dataset.split("train").require_views("evaluate")
    with pytest.raises(PipelineError) as error:
        dataset.split("valid").require_views("predict")
    assert str(error.value) == (
        "params.yaml: predict.tta: got views, but the valid split has no augmented views to average over; "
        "set augment.test_views to 1 or more, or predict.tta to auto or none"
    )


def test_views_of_the_training_split_have_their_own_parameter(tmp_path):
    split = write_split(tmp_path, copies=1, name="train")
    with pytest.raises(PipelineError, match=r"the train split has .* set augment\.views to 1 or more"):
        split.require_views("evaluate")


@pytest.mark.parametrize("shape", [(3, 2, 32, 32, 3), (1, 1, 1, 1, 3), (12_345, 1, 2, 2, 3)])
def test_a_created_array_is_an_npy_file_with_its_data_at_the_offset(tmp_path, shape):
    path = tmp_path / "train.npy"
    offset = create_array(path, shape)
    values = np.arange(np.prod(shape), dtype=np.uint64).astype(np.uint8).reshape(shape)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(values.tobytes())
    opened = np.load(path, mmap_mode="r")
    assert opened.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(opened, values)


@pytest.mark.parametrize("rows", [[0], [4], [1, 2, 9], list(range(10)), [0, 1, 2, 3, 4, 5, 6, 7, 8]])
def test_rows_that_are_not_kept_are_removed_from_the_file(tmp_path, rows):
    path = tmp_path / "train.npy"
    offset = create_array(path, (10, 2, 4, 4, 3))
    content = np.random.default_rng(0).integers(0, 256, (10, 2, 4, 4, 3), dtype=np.uint8)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content.tobytes())
    keep_rows(path, rows)
    np.testing.assert_array_equal(np.load(path), content[rows])
    assert path.stat().st_size == offset + len(rows) * 96


def test_the_size_of_the_header_does_not_depend_on_the_number_of_images(tmp_path):
    offsets = {create_array(tmp_path / "x.npy", (count, 1, 1, 1, 3)) for count in (1, 10, 999, 100_000, 10_000_000)}
    assert len(offsets) == 1


@pytest.mark.parametrize(("count", "most"), [(10, 5), (5, 10), (1000, 999), (1, 10)])
def test_rows_are_evenly_spaced_and_distinct(count, most):
    rows = evenly_spaced(count, most)
    assert len(rows) == len(set(rows)) == min(count, most)
    assert rows[0] == 0
    assert rows[-1] in (0, count - 1)


def test_a_sample_has_evenly_spaced_plain_images(tmp_path):
    images = np.arange(10, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 1, 1, 3), np.uint8)
    images[:, 1] = 99  # a view
    names = [str(number) for number in range(10)]
    split = PackedSplit("valid", images, np.zeros(10, np.int64), names, names)
    assert split.sample(4)[:, 0, 0, 0].tolist() == [0, 3, 6, 9]
    assert split.sample(20)[:, 0, 0, 0].tolist() == list(range(10))
