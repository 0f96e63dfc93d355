"""Stage ``augment``."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.packed import PackedDataset
from pipeline.params.augment import AugmentParams
from pipeline.params.data import DataParams
from pipeline.paths import DATASET, METRICS, PLOTS, RAW_ARCHIVE
from pipeline.stages.augment import augment, view_seed
from pipeline.stages.download import download
from tests.stages.conftest import AUGMENT, DATA


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_arrays_have_the_shape_and_order_of_the_contract(dataset):
    packed = PackedDataset(DATASET)
    assert packed.manifest.classes == ("blue", "green", "red")
    assert packed.split("train").images.shape == (24, 3, 32, 32, 3)
    assert packed.split("valid").images.shape == packed.split("test").images.shape == (12, 1, 32, 32, 3)
    for name in ("train", "valid", "test"):
        split = packed.split(name)
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        assert not split.images.flags.writeable
        assert split.sources == [f"{name}/{image}.jpg" for image in split.ids]
        # The photos of a class are of one colour: its channel is the brightest of each row's image.
        brightest = split.images[:, 0].reshape(len(split), -1, 3).mean(1).argmax(1)
        assert (brightest == np.array([2, 1, 0])[split.labels]).all()


def test_mean_and_std_are_those_of_the_plain_training_images(dataset):
    packed = PackedDataset(DATASET)
    pixels = packed.split("train").images[:, 0].reshape(-1, 3) / 255
    np.testing.assert_allclose(packed.manifest.mean, pixels.mean(0), atol=1e-9)
    np.testing.assert_allclose(packed.manifest.std, pixels.std(0), atol=1e-9)


def test_bytes_do_not_depend_on_the_number_of_workers(photos, monkeypatch):
    download(DataParams(**DATA))
    digests = set()
    for workers in ("1", "2", "5"):
        monkeypatch.setenv("PIPELINE_WORKERS", workers)
        augment(AugmentParams(**AUGMENT), seed=1)
        digests.add(digest(DATASET))
    assert len(digests) == 1


def test_another_seed_changes_the_views_and_nothing_else(dataset):
    before = PackedDataset(DATASET).split("train").images.copy()
    augment(AugmentParams(**AUGMENT), seed=2)
    after = PackedDataset(DATASET).split("train").images
    assert (before[:, 0] == after[:, 0]).all()
    assert (before[:, 1:] != after[:, 1:]).any()


def test_views_of_one_image_differ_from_it_and_from_each_other(dataset):
    images = PackedDataset(DATASET).split("train").images
    assert all(len({copy.tobytes() for copy in copies}) == 3 for copies in images)


def test_view_seeds_differ_by_seed_image_and_view():
    seeds = {view_seed(seed, entry, view) for seed in range(3) for entry in ("a", "b") for view in range(1, 4)}
    assert len(seeds) == 18


def test_no_transforms_and_no_views_make_plain_copies_alone(photos):
    download(DataParams(**DATA))
    augment(AugmentParams(**{**AUGMENT, "views": 0, "transforms": []}), seed=1)
    assert PackedDataset(DATASET).split("train").images.shape[1] == 1


def test_audit_counts_by_split_and_class(dataset):
    audit = json.loads((METRICS / "audit.json").read_text())
    assert audit["images"] == {"train": 24, "valid": 12, "test": 12}
    assert audit["classes"][2] == {"class": "red", "train": 8, "valid": 4, "test": 4}
    assert (PLOTS / "augment_preview.png").stat().st_size > 5_000


def test_images_that_cannot_be_decoded_are_all_named_and_the_old_dataset_stays(dataset, photos):
    before = digest(DATASET)
    (photos / "red" / "03.jpg").write_bytes(b"<html>not found</html>")
    (photos / "blue" / "07.jpg").write_bytes(b"")
    download(DataParams(**DATA))
    with pytest.raises(PipelineError, match=r"2 images cannot be decoded: ") as refusal:
        augment(AugmentParams(**AUGMENT), seed=1)
    assert "0_07.jpg (the file is empty)" in str(refusal.value)
    assert "2_03.jpg (not an image)" in str(refusal.value)
    assert digest(DATASET) == before
    assert [path.name for path in DATASET.parent.iterdir() if path.name.startswith(".")] == []


def test_a_missing_archive_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"data/raw.zip: no such file; run dvc repro download"):
        augment(AugmentParams(**AUGMENT), seed=1)


def test_unlabelled_test_images_have_no_class(photos):
    for name in ("train", "test"):
        (photos.parent / "split" / name).mkdir(parents=True)
    for folder in ("blue", "green", "red"):
        (photos / folder).rename(photos.parent / "split" / "train" / folder)
    source = photos.parent / "split" / "train" / "red" / "00.jpg"
    for number in range(3):
        (photos.parent / "split" / "test" / f"000{number}.jpg").write_bytes(source.read_bytes())
    download(DataParams(**{**DATA, "location": "split"}))
    augment(AugmentParams(**AUGMENT), seed=1)
    test = PackedDataset(DATASET).split("test")
    assert test.ids == ["0000", "0001", "0002"]
    assert not test.labelled
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        assert "test/0000.jpg" in archive.namelist()
