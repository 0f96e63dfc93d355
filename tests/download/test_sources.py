"""Sources: scikit-learn's digits as PNG files, and folders of images; ``data.source`` allows exactly these sources."""

import io
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.common.raw_archive import entry_name, write_raw_archive
from pipeline.download import safety
from pipeline.download.sources import SOURCES, open_digits, open_folder
from pipeline.errors import PipelineError
from pipeline.params.schema import DataParams

PHOTOS = {"train/cat/1.jpg": b"one", "train/dog/2.PNG": b"two", "test/0003.jpg": b"three"}


def test_the_sources_are_those_that_the_parameter_allows():
    assert tuple(SOURCES) == get_args(DataParams.model_fields["source"].annotation)


@pytest.fixture
def digits(data_params):
    with open_digits(data_params("digits")) as source:
        yield source


def test_every_digit_is_an_image_with_its_label(digits):
    assert [image.label for image in digits.images] == load_digits().target.tolist()
    assert {image.split for image in digits.images} == {None}


def test_paths_are_unique_and_in_order(digits):
    paths = [image.path for image in digits.images]
    assert paths == sorted(set(paths))
    assert (paths[0], paths[-1]) == ("0000.png", "1796.png")


def test_classes_are_named_by_the_digits(digits):
    assert digits.classes == tuple("0123456789")
    assert Counter(digits.classes[image.label] for image in digits.images)["3"] == 183


def test_pixels_use_all_grey_levels_from_black_to_white(digits):
    first = digits.images[0].path
    with Image.open(io.BytesIO(digits.read(first))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (8, 8))
        assert np.abs(np.asarray(picture) - load_digits().images[0] * 255 / 16).max() <= 0.5


def test_a_digit_has_the_same_bytes_each_time(digits):
    path = digits.images[5].path
    assert digits.read(path) == digits.read(path)
    assert digits.read(path) != digits.read(digits.images[6].path)


def test_digits_can_be_renamed(data_params):
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    with open_digits(data_params("digits", classes=names)) as source:
        assert source.classes == names


def fill(root, files=PHOTOS):
    """Write files into a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def contents(params):
    """Split, label and bytes of each image."""
    with open_folder(params) as source:
        return {image.path: (image.split, image.label, source.read(image.path)) for image in source.images}


FOUND = {
    "train/cat/1.jpg": ("train", 0, b"one"),
    "train/dog/2.PNG": ("train", 1, b"two"),
    "test/0003.jpg": ("test", None, b"three"),
}


@pytest.mark.parametrize("location", ["photos", "./photos/", "photos/../photos", "{workspace}/photos"])
def test_paths_are_relative_to_the_folder(workspace, data_params, location):
    fill(workspace / "photos")
    assert contents(data_params("folder", location=location.format(workspace=workspace))) == FOUND


def test_classes_are_the_names_of_the_folders(workspace, data_params):
    fill(workspace / "photos")
    with open_folder(data_params("folder", location="photos")) as source:
        assert source.classes == ("cat", "dog")


def test_class_names_in_the_parameters_set_the_order(workspace, data_params):
    fill(workspace / "photos")
    with open_folder(data_params("folder", location="photos", classes=("dog", "cat"))) as source:
        assert source.classes == ("dog", "cat")
        assert {image.path: image.label for image in source.images}["train/dog/2.PNG"] == 0


def test_links_to_folders_are_not_followed_and_links_to_files_are(workspace, data_params):
    root = fill(workspace / "photos")
    (root / "train/dog/again").symlink_to(root, target_is_directory=True)
    (root / "train/cat/link.jpg").symlink_to(root / "train/cat/1.jpg")
    found = contents(data_params("folder", location="photos"))
    assert found == FOUND | {"train/cat/link.jpg": ("train", 0, b"one")}


@pytest.mark.parametrize(
    ("location", "says"),
    [("nowhere", "does not exist"), ("photos.zip", "is a file, use data.source archive for it")],
)
def test_a_location_that_is_not_a_folder_is_refused(workspace, data_params, location, says):
    (workspace / "photos.zip").write_bytes(b"")
    with pytest.raises(PipelineError, match=rf"^data\.location: the folder {location} {says}; "):
        contents(data_params("folder", location=location))


def test_an_empty_folder_is_refused(workspace, data_params):
    (workspace / "photos").mkdir()
    with pytest.raises(PipelineError, match=r"^photos: contains no images; "):
        contents(data_params("folder", location="photos"))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_not_utf8_is_refused(workspace, data_params):
    """Old zips are unpacked to such names; the names in data/raw.zip are UTF-8."""
    root = fill(workspace / "photos")
    (root / os.fsdecode("train/cat/é.jpg".encode("latin-1"))).write_bytes(b"four")
    with (
        pytest.raises(PipelineError, match=r"train/cat/.*\.jpg"),
        open_folder(data_params("folder", location="photos")) as source,
    ):
        entries = {entry_name("train", image.label, image.name): image.path for image in source.images}
        write_raw_archive(Path("raw.zip"), source.classes, entries, source.read)


class TestLimits:
    """The limits for members of archives apply to files in folders, repositories and hubs."""

    @pytest.fixture
    def folder(self, photos, data_params):
        def complaint():
            with pytest.raises(PipelineError) as error, open_folder(data_params("folder", location=str(photos))):
                pass
            return str(error.value).removeprefix(f"{photos}: ")

        return complaint

    def test_a_file_of_three_gigabytes_is_refused_by_name(self, photos, folder):
        name = next(photos.rglob("*.*")).relative_to(photos)
        os.truncate(photos / name, 3 * 2**30)
        assert folder() == (
            f"{name} has 3,221,225,472 bytes, more than 1 GiB, the limit for one file; make it smaller, or move it away"
        )

    def test_an_archive_may_be_larger_and_other_files_are_not_counted(self, photos, data_params):
        for name in ("video.mp4", "notes.bin"):
            (photos / name).touch()
            os.truncate(photos / name, 3 * 2**30)
        with open_folder(data_params("folder", location=str(photos))) as source:
            assert len(source.left_out) == 2
        safety.check_files("hub", {"train.zip": 3 * 2**30})

    def test_more_files_and_bytes_than_allowed_are_refused(self, folder, monkeypatch):
        monkeypatch.setattr(safety, "MOST_BYTES", 1024)
        assert re.fullmatch(r"contains [0-9,]+ bytes, more than [0-9e.-]+ GiB, the limit; split it", folder())
        monkeypatch.setattr(safety, "MOST_MEMBERS", 3)
        assert re.fullmatch(r"contains \d+ files, more than 3, the limit; split it", folder())
