"""data/raw.zip is deterministic, and what is written is read back."""

import dataclasses
import os
import random
import zipfile
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.common.raw_archive import (
    SPLITS,
    RawImage,
    RawReader,
    entry_name,
    read_raw_archive,
    write_raw_archive,
)
from pipeline.errors import PipelineError
from tests.support.examples import examples

# File names: mostly of the characters that mean something here, sometimes of any that a file's name can have.
ANY = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAMES = st.text(st.sampled_from("019_.ajp"), min_size=1, max_size=6) | st.text(ANY, min_size=1, max_size=6)
LABELS = st.none() | st.integers(0, 12)


def write(path, entries, classes=("cat", "dog")):
    """Write an archive in which the content of each image is the name of its entry."""
    write_raw_archive(path, classes, dict.fromkeys(entries, "") | {entry: entry for entry in entries}, str.encode)


def read(path):
    """The class names and images of an archive."""
    return read_raw_archive(path)[:2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The path of an archive."""
    return tmp_path_factory.mktemp("raw") / "raw.zip"


def test_images_and_classes_are_read_back(raw):
    write(raw, ["test/0003.jpg", "valid/1_b.png", "train/1_b.png", "train/0_a_b.jpg"])
    assert read(raw) == (
        ("cat", "dog"),
        [
            RawImage("train/0_a_b.jpg", "train", 0, "0_a_b", "train/0_a_b.jpg"),
            RawImage("train/1_b.png", "train", 1, "1_b", "train/1_b.png"),
            RawImage("valid/1_b.png", "valid", 1, "1_b", "valid/1_b.png"),
            RawImage("test/0003.jpg", "test", None, "0003", "test/0003.jpg"),
        ],
    )


def test_paths_in_the_source_and_files_left_out_are_read_back(raw):
    entries = {"train/0_a.jpg": "cat/a.jpg", "test/b.jpg": 'x, "y"/b.jpg'}
    left_out = {"notes.txt": "not an image", "caf\udce9.mov": "a video"}
    write_raw_archive(raw, ["cat"], entries, str.encode, left_out)
    assert {image.entry: image.path for image in read(raw)[1]} == entries
    assert read_raw_archive(raw)[2] == {"notes.txt": "not an image", r"caf\xe9.mov": "a video"}


def test_the_id_is_the_name_of_the_file_unless_two_have_the_same(raw):
    paths = {"test/0_a.jpg": "test/cat/a.jpg", "test/1_b.jpg": "test/dog/b.jpg", "valid/0_a.jpg": "valid/cat/a.jpg"}
    write_raw_archive(raw, ["cat", "dog"], paths, str.encode)
    assert [image.id for image in read(raw)[1]] == ["a", "a", "b"]
    write_raw_archive(raw, ["cat", "dog"], paths | {"test/1_a.jpg": "test/dog/a.jpg"}, str.encode)
    assert [image.id for image in read(raw)[1]] == ["a", "0_a", "1_a", "1_b"]


def test_the_order_of_the_entries_does_not_change_the_bytes(raw):
    entries = [f"train/{index % 3}_{index}.jpg" for index in range(50)]
    write(raw, entries)
    first = raw.read_bytes()
    write(raw, random.Random(0).sample(entries, len(entries)))
    assert raw.read_bytes() == first


def test_an_entry_does_not_depend_on_time_or_machine_and_is_not_compressed(raw):
    write(raw, ["train/0_a.jpg"])
    with zipfile.ZipFile(raw) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == ["classes.txt", "files.csv", "train/0_a.jpg"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {(entry.create_system, entry.external_attr) for entry in entries} == {(3, 0o644 << 16)}


def test_images_keep_their_bytes(raw):
    photo = bytes(range(256))
    write_raw_archive(raw, ["cat"], {"train/0_a.jpg": "photos/a.jpg"}, {"photos/a.jpg": photo}.__getitem__)
    with zipfile.ZipFile(raw) as archive:
        assert archive.read("train/0_a.jpg") == photo


def test_an_image_that_cannot_be_read_leaves_the_old_archive(tmp_path):
    path = tmp_path / "raw.zip"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        write_raw_archive(path, ["cat"], {"train/0_a.jpg": "a.jpg"}, {}.__getitem__)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("label", "name", "entry"),
    [
        (3, "x.jpg", "train/3_x.jpg"),
        (3, "5_x.jpg", "train/3_5_x.jpg"),
        (None, "x.jpg", "train/x.jpg"),
        (None, "3.jpg", "train/3.jpg"),
        (None, "x_3.jpg", "train/x_3.jpg"),
        (None, "3_x.jpg", "train/_3_x.jpg"),
        (None, "_3_x.jpg", "train/__3_x.jpg"),
        (None, "_x.jpg", "train/_x.jpg"),
    ],
)
def test_an_unlabelled_name_that_looks_labelled_gets_an_underscore(label, name, entry):
    assert entry_name("train", label, name) == entry


@pytest.mark.parametrize("name", ["0001", "3_x", "_3_x", "__12_", "_x", "10"])
def test_the_id_of_an_unlabelled_image_is_its_name_without_the_extension(raw, name):
    write_raw_archive(raw, ["cat"], {entry_name("test", None, f"{name}.jpg"): f"photos/{name}.jpg"}, str.encode)
    assert [(image.label, image.id) for image in read(raw)[1]] == [(None, name)]


def test_ids_keep_the_extension_only_if_two_would_be_equal(raw):
    write(raw, ["test/1.jpg", "test/1.png", "test/2.jpg", "valid/0_1.jpg"])
    assert [image.id for image in read(raw)[1]] == ["0_1", "1.jpg", "1.png", "2"]


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SPLITS), LABELS, NAMES), unique=True, max_size=8))
@example([("test", None, "3_x.jpg"), ("test", None, "_3_x.jpg"), ("test", 3, "x.jpg"), ("test", None, "__3_x.jpg")])
def test_split_label_and_name_of_every_image_are_read_back(raw, images):
    entries = {entry_name(*image): image for image in images}
    assert len(entries) == len(images)
    write_raw_archive(raw, ["cat"], {entry: f"photos/{name}" for entry, (_, _, name) in entries.items()}, str.encode)
    found = read(raw)[1]
    assert sorted(image.entry for image in found) == sorted(entries)
    for image in found:
        split, label, name = entries[image.entry]
        stored = name if label is None else f"{label}_{name}"
        assert (image.split, image.label) == (split, label)
        assert image.id in (stored, PurePosixPath(stored).stem, PurePosixPath(name).stem)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(NAMES, unique=True, max_size=8), st.none() | st.just(1))
@example(["a.jpg", "a.png", "a.jpg.png"], None)
def test_ids_are_unique_in_a_split(raw, names, label):
    write(raw, [entry_name("test", label, name) for name in names])
    ids = [image.id for image in read(raw)[1]]
    assert len(set(ids)) == len(ids) == len(names)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1), max_size=5))
@example(["crème brûlée", "ice cream", "麻婆豆腐", "next\x85line"])
def test_class_names_are_read_back(raw, classes):
    write(raw, [], classes)
    assert read(raw)[0] == tuple(classes)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=3000)), min_size=1, max_size=8, unique_by=lambda pair: pair[0]))
def test_a_reader_returns_the_content_of_each_image(raw, files):
    contents = {f"train/0_{name}": content for name, content in files}
    write_raw_archive(raw, ("cat", "dog"), {entry: entry for entry in contents}, contents.__getitem__)
    reader = RawReader(raw)
    assert {image.entry: reader.read(image) for image in read(raw)[1]} == contents


def test_a_damaged_image_is_named(raw):
    write(raw, ["train/0_a.jpg", "train/0_b.jpg"])
    images = read(raw)[1]
    content = bytearray(raw.read_bytes())
    content[content.index(b"train/0_b.jpg", images[1].offset) + 20] ^= 1
    raw.write_bytes(content)
    reader = RawReader(raw)
    assert reader.read(images[0]) == b"train/0_a.jpg"
    with pytest.raises(PipelineError, match=r"raw.zip: is damaged at train/0_b.jpg; use an intact copy"):
        reader.read(images[1])


def test_an_image_of_which_the_system_returns_a_part_at_a_time_is_read_completely(raw, monkeypatch):
    """Linux returns 2 GiB at most."""
    write(raw, ["train/0_a.jpg", "train/0_b.jpg"])
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, min(size, 30), start))
    assert [RawReader(raw).read(image) for image in read(raw)[1]] == [b"train/0_a.jpg", b"train/0_b.jpg"]


def test_a_size_that_the_archive_does_not_have_takes_no_memory(raw):
    write(raw, ["train/0_a.jpg"])
    image = dataclasses.replace(read(raw)[1][0], size=2**62)
    with pytest.raises(PipelineError, match=r"raw.zip: is damaged at train/0_a.jpg"):
        RawReader(raw).read(image)
