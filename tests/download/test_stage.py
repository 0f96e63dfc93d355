"""Stage ``download``."""

import random
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.common.paths import RAW_ARCHIVE
from pipeline.common.raw_archive import RawReader, read_raw_archive
from pipeline.download.stage import download
from pipeline.errors import PipelineError
from pipeline.params.schema import DataParams
from tests.support.sections import DATA


def test_images_keep_their_bytes_and_get_a_class_index(photos):
    download(DataParams(**DATA))
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        assert archive.read("classes.txt").decode() == "blue\ngreen\nred\n"
        entries = [name for name in archive.namelist() if name.startswith(("train/", "valid/", "test/"))]
        assert len(entries) == 48
        for entry in entries:
            label, name = Path(entry).name.split("_")
            assert archive.read(entry) == (photos / ["blue", "green", "red"][int(label)] / name).read_bytes()


def test_every_class_has_its_share_of_each_split(photos):
    download(DataParams(**DATA))
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        names = archive.namelist()
    for split, count in (("train", 8), ("valid", 4), ("test", 4)):
        for label in range(3):
            assert sum(name.startswith(f"{split}/{label}_") for name in names) == count


def test_two_downloads_have_the_same_bytes(photos):
    download(DataParams(**DATA))
    first = RAW_ARCHIVE.read_bytes()
    download(DataParams(**DATA))
    assert RAW_ARCHIVE.read_bytes() == first


def test_two_images_that_would_become_one_entry_are_refused(photos):
    # Three, so that two of them share one of the two splits.
    for number, name in enumerate(("a/b/c.jpg", "a__b/c.jpg", "a/b__c.jpg")):
        (photos / "red" / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / "red" / f"0{number}.jpg").rename(photos / "red" / name)
    with pytest.raises(PipelineError, match="rename one of them"):
        download(DataParams(**{**DATA, "test_fraction": 0.0}))
    assert not RAW_ARCHIVE.exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"location": "nowhere"}, "data.location: the folder nowhere does not exist; set it to a folder of images"),
        ({"location": "photos/red/00.jpg"}, "is a file, use data.source archive for it"),
        (
            {"location": "photos/red"},
            "photos/red: 00.jpg",
        ),
        ({"location": "empty"}, "empty: contains no images"),
    ],
)
def test_a_wrong_source_is_refused_in_one_line_and_leaves_nothing(photos, change, line):
    Path("empty").mkdir()
    with pytest.raises(PipelineError, match=line) as refusal:
        download(DataParams(**{**DATA, **change}))
    assert "\n" not in str(refusal.value)
    assert not Path("data").exists() or not list(Path("data").iterdir())


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_files_in_the_source_does_not_matter(photos, seed):
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    digests = set()
    for order in (names, random.Random(seed).sample(names, len(names))):
        with zipfile.ZipFile("photos.zip", "w") as archive:
            for name in order:
                archive.write(photos / name, name)
        download(DataParams(**{**DATA, "source": "archive", "location": "photos.zip"}))
        digests.add(RAW_ARCHIVE.read_bytes())
    assert len(digests) == 1


def test_groups_whose_images_are_dropped_leave_every_class_some_training_images(workspace):
    people = {"cat": ("person1", "person2"), "dog": ("person3", "person3"), "fox": ("person4", "person5")}
    for label, pair in people.items():
        for split, person in zip(("train", "valid"), pair, strict=True):
            write_noise(Path("photos", split, label, f"{person}_{label}.png"))
    groups = {"groups": r"person\d+", "test_fraction": 0.0}
    download(DataParams(**{**DATA, **groups, "on_leak": "warn"}))
    with pytest.raises(PipelineError, match=r"^data.on_leak: drop leaves no training image of dog, whose groups are"):
        download(DataParams(**{**DATA, **groups, "on_leak": "drop"}))
    # Cut into folds, the images of valid are trained on, too.
    for number, label in enumerate(people):
        write_noise(Path("photos/test", label, f"person{'3' if label == 'dog' else 7 + number}_{label}.png"))
        write_noise(Path("photos/valid", label, f"person1{number}_{label}.png"))
        write_noise(Path("photos/valid", label, f"person2{number}_{label}.png"))
    download(DataParams(**{**DATA, **groups, "on_leak": "drop", "folds": 2}))
    assert [image.label for image in read_raw_archive(RAW_ARCHIVE)[1] if image.split == "train"].count(1) == 1


def write_noise(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.frombuffer(random.Random(str(path)).randbytes(32 * 32 * 3), np.uint8).reshape(32, 32, 3)
    Image.fromarray(pixels).save(path)


def test_names_in_two_forms_of_unicode_are_the_same_class(workspace):
    composed, apart = "cr\u00e8me", "cre\u0300me"
    for path in (f"train/{composed}/1.png", f"train/{apart}/2.png", f"valid/{apart}/3.png"):
        write_noise(Path("photos", path))
    for split in ("train", "valid"):
        write_noise(Path("photos", split, "pie", "4.png"))
    download(DataParams(**{**DATA, "classes": [apart, "pie"], "test_fraction": 0.0}))
    classes, images, _ = read_raw_archive(RAW_ARCHIVE)
    assert classes == (composed, "pie")
    assert [image.label for image in images if image.split == "train"] == [0, 0, 1]
    assert RawReader(RAW_ARCHIVE).read(images[1]) == Path("photos/train", apart, "2.png").read_bytes()
    write_noise(Path("photos/train", apart, "1.png"))
    with pytest.raises(PipelineError, match=r"two files .* in two forms of Unicode; rename one of them"):
        download(DataParams(**{**DATA, "test_fraction": 0.0}))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_table_is_found_by_its_name_in_any_form_of_unicode(workspace, form):
    for name in "abcdef":
        write_noise(Path("photos", f"{name}.png"))
    rows = "".join(f"{name}.png,{'cat' if name < 'd' else 'dog'}\n" for name in "abcdef")
    Path("photos", unicodedata.normalize("NFD", "é.csv")).write_text("path,label\n" + rows)
    table = {"labels": unicodedata.normalize(form, "é.csv"), "test_fraction": 0.0}
    download(DataParams(**{**DATA, **table}))
    assert len(read_raw_archive(RAW_ARCHIVE)[1]) == 6


def test_an_experiment_has_its_own_table_of_labels(workspace, monkeypatch):
    for name in "abcdef":
        write_noise(Path("photos", f"{name}.png"))
    table = "path,label\na.png,cat\nb.png,cat\nd.png,dog\ne.png,dog\n"
    Path("labels.csv").write_text(f"{table}c.png,cat\n")
    inside = Path(".dvc/tmp/exps/one")
    inside.mkdir(parents=True)
    params = DataParams(**{**DATA, "labels": "labels.csv", "test_fraction": 0.0, "valid_fraction": 0.5})
    monkeypatch.chdir(inside)
    download(params)
    assert [image.label for image in read_raw_archive(RAW_ARCHIVE)[1]].count(1) == 2
    Path("labels.csv").write_text(f"{table}c.png,dog\n")
    download(params)
    assert [image.label for image in read_raw_archive(RAW_ARCHIVE)[1]].count(1) == 3
