"""A folder of images is read where it lies."""

import os
import sys
from pathlib import Path

import pytest

from pipeline.common.raw_archive import entry_name, write_raw_archive
from pipeline.download.sources import open_folder
from pipeline.errors import PipelineError

PHOTOS = {"train/cat/1.jpg": b"one", "train/dog/2.PNG": b"two", "test/0003.jpg": b"three"}


def fill(root, files=PHOTOS):
    """Write the files below a folder."""
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
def test_images_are_named_relative_to_the_folder(workspace, data_params, location):
    fill(workspace / "photos")
    assert contents(data_params("folder", location=location.format(workspace=workspace))) == FOUND


def test_classes_are_the_folders_names(workspace, data_params):
    fill(workspace / "photos")
    with open_folder(data_params("folder", location="photos")) as source:
        assert source.classes == ("cat", "dog")


def test_names_of_classes_in_the_parameters_set_the_order(workspace, data_params):
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
def test_what_is_no_folder_is_refused(workspace, data_params, location, says):
    (workspace / "photos.zip").write_bytes(b"")
    with pytest.raises(PipelineError, match=rf"^data\.location: the folder {location} {says}; "):
        contents(data_params("folder", location=location))


def test_an_empty_folder_is_refused_by_its_name(workspace, data_params):
    (workspace / "photos").mkdir()
    with pytest.raises(PipelineError, match=r"^photos: contains no images; "):
        contents(data_params("folder", location="photos"))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_not_utf8_is_refused(workspace, data_params):
    """As an old zip leaves it when it is unpacked: the archive's names are UTF-8, so it could not be stored."""
    root = fill(workspace / "photos")
    (root / os.fsdecode("train/cat/é.jpg".encode("latin-1"))).write_bytes(b"four")
    with (
        pytest.raises(PipelineError, match=r"train/cat/.*\.jpg"),
        open_folder(data_params("folder", location="photos")) as source,
    ):
        entries = {entry_name("train", image.label, image.name): image.path for image in source.images}
        write_raw_archive(Path("raw.zip"), source.classes, entries, source.read)
