"""``data.corrections`` and ``data.pseudo_labels``: corrected labels, dropped and added images."""

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from pipeline.augment.relabelling import add_pseudo_labels, correct
from pipeline.augment.stage import augment
from pipeline.common.dataset import PackedDataset
from pipeline.common.label_files import read_corrections
from pipeline.common.paths import AUDIT_PAGE, AUDIT_TABLE, DATASET
from pipeline.common.raw_archive import RawImage
from pipeline.common.results import read_results
from pipeline.download.stage import download
from pipeline.errors import PipelineError
from pipeline.params.schema import AugmentParams, DataParams
from tests.support.sections import AUGMENT, DATA

FILE = "corrections.csv"
CLASSES = ("cat", "dog")
IMAGES = [
    RawImage("train/0_1.png", "train", 0, "1", "cat/1.png"),
    RawImage("train/0_2.png", "train", 0, "2", 'cat/2,"a".png'),
    RawImage("train/1_3.png", "train", 1, "3", "dog/3.png"),
    RawImage("test/4.png", "test", None, "4", "4.png"),
]


def labels_of(text: str) -> dict[str, int | None]:
    Path(FILE).write_text(text, "utf-8")
    return {image.path: image.label for image in correct(FILE, IMAGES, CLASSES)[0]}


def test_labels_are_replaced_and_images_dropped_and_all_are_named(workspace):
    Path(FILE).write_text('id,label\ncat/1.png,dog\n"cat/2,""a"".png",cat\ndog/3.png,drop\n')
    kept, changed = correct(FILE, IMAGES, CLASSES)
    assert [(image.path, image.label) for image in kept] == [("cat/1.png", 1), ('cat/2,"a".png', 0), ("4.png", None)]
    # The other one had this label before.
    assert changed == {"cat/1.png": ("cat", "dog"), "dog/3.png": ("dog", None)}


def test_ids_of_images_that_download_left_out_are_not_used_and_counted(workspace, capsys):
    left_out = {"cat/9.png": "its group is also in valid", "u/9.png": "unlabelled, and its group is also in valid"}
    Path(FILE).write_text("id,label\ncat/1.png,dog\ncat/9.png,cat\n")
    assert correct(FILE, IMAGES, CLASSES, left_out)[1] == {"cat/1.png": ("cat", "dog")}
    line = f"augment: {FILE}: 1 of 2 ids are not used, as download left them out: its group is also in valid: 1"
    assert line in capsys.readouterr().out
    Path("pseudo.csv").write_text("id,label,confidence\nu/9.png,cat,0.9\n")
    assert add_pseudo_labels("pseudo.csv", IMAGES, CLASSES, left_out) == IMAGES


def test_corrections_of_many_images_of_many_classes_take_a_moment(workspace):
    classes = tuple(f"class {number:05}" for number in range(20_000))
    images = [RawImage(f"train/{n}_1.png", "train", n, f"{n}", f"{n}.png") for n in range(len(classes))]
    Path(FILE).write_text("id,label\n" + "".join(f"{n}.png,{name}\n" for n, name in enumerate(reversed(classes))))
    start = time.process_time()
    assert len(correct(FILE, images, classes)[1]) == len(classes)
    assert time.process_time() - start < 5


def test_without_a_file_or_without_rows_nothing_changes(workspace):
    assert correct(None, IMAGES, CLASSES) == (IMAGES, {})
    assert labels_of("\ufeffid,label\n") == {image.path: image.label for image in IMAGES}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "its first line is '', allowed is id,label"),
        ("path,label\n", "its first line is 'path,label', allowed is id,label"),
        ('id,label\ncat/1.png,"' + "x" * 200_000, "field larger than field limit"),
        ("id,label\ncat/1.png\n", "row 2 is 'cat/1.png', allowed are id, label"),
        ("id,label\ncat/1.png,\n", "row 2 is 'cat/1.png,', allowed are id, label"),
        ("id,label\ncat/1.png,dog\ncat/1.png,dog\n", "row 3: cat/1.png is there twice; remove one of them"),
        ("id,label\n1.png,dog\n", "1 of 1 ids are no images of the source (1.png); remove these rows, or correct"),
        ("id,label\ncat/1.png,bird\n", "unknown label bird; allowed are drop and the classes cat, dog"),
        ("id,label\n4.png,dog\n", "4.png: has no label to correct; remove it from the file"),
        ("id,label\ndog/3.png,cat\n", "no training image of dog remains"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(workspace, text, line):
    with pytest.raises(PipelineError) as caught:
        labels_of(text)
    assert str(caught.value).startswith(f"data.corrections: corrections.csv: {line}")
    assert "\n" not in str(caught.value)


def test_a_class_that_is_called_drop_makes_it_ambiguous(workspace):
    Path(FILE).write_text("id,label\ncat/1.png,drop\n")
    with pytest.raises(PipelineError, match="drop is a class, too"):
        correct(FILE, IMAGES, ("cat", "drop"))


def test_a_missing_file_is_reported(workspace):
    with pytest.raises(PipelineError, match=r"^data.corrections: corrections.csv: no such file"):
        read_corrections(FILE)


def test_the_dataset_and_the_audit_have_the_corrections(dataset):
    before = PackedDataset(DATASET).split("train")
    first, second = before.sources[:2]
    new = PackedDataset(DATASET).manifest.classes[(before.labels[0] + 1) % 3]
    Path(FILE).write_text(f"id,label\n{first},{new}\n{second},drop\n")
    augment(AugmentParams(**AUGMENT), 1, "error", "warn", "corrections.csv")
    split = PackedDataset(DATASET).split("train")
    assert split.sources == [first, *before.sources[2:]]
    assert split.labels[0] == (before.labels[0] + 1) % 3
    assert (split.images[1:] == before.images[2:]).all()
    table = pd.read_csv(AUDIT_TABLE, dtype=str).set_index("source")
    old = PackedDataset(DATASET).manifest.classes[before.labels[0]]
    assert table.loc[[first]].set_index("finding").loc["corrected label", ["class", "detail"]].tolist() == [
        new,
        f"was {old}",
    ]
    assert table.loc[second, "detail"] == "dropped by data.corrections"
    assert [read_results("audit")[name] for name in ("corrected", "dropped_by_corrections")] == [1, 1]
    page = AUDIT_PAGE.read_text("utf-8")
    assert f"<tr><td>{first}</td><td>{old}</td><td>{new}</td></tr>" in page
    assert f"<tr><td>{second}</td><td>{old}</td><td>dropped</td></tr>" in page


PSEUDO = "pseudo.csv"
UNLABELLED = [
    RawImage("unlabelled/1.png", "unlabelled", None, "1", "unlabeled/1.png"),
    RawImage("unlabelled/5.png", "unlabelled", None, "5", "unlabeled/5.png"),
]


def with_pseudo_labels(text: str) -> list[RawImage]:
    Path(PSEUDO).write_text(f"id,label,confidence\n{text}")
    return add_pseudo_labels(PSEUDO, [*IMAGES, *UNLABELLED], CLASSES)


def test_pseudo_labelled_images_follow_the_training_images_and_those_of_test_stay_there(workspace):
    found = with_pseudo_labels("unlabeled/1.png,dog,0.98\n4.png,cat,1\n")
    # The id is unique among the training images, of which one is called 1, too.
    assert [(image.split, image.id, image.label, image.confidence) for image in found] == [
        ("train", "1", 0, None),
        ("train", "2", 0, None),
        ("train", "3", 1, None),
        ("train", "test/4", 0, 1.0),
        ("train", "unlabelled/1", 1, 0.98),
        ("test", "4", None, None),
    ]
    assert add_pseudo_labels(None, [*IMAGES, *UNLABELLED], CLASSES) == IMAGES


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("6.png,dog,0.9\n", "1 of 1 ids are no images of the source (6.png)"),
        ("cat/1.png,dog,0.9\n", "cat/1.png (train): has a label; remove it from the file"),
        ("4.png,bird,0.9\n", "unknown label bird; allowed are the classes cat, dog"),
        ("4.png,drop,0.9\n", "unknown label drop; allowed are the classes cat, dog"),
        ("4.png,dog,0.9\n4.png,dog,0.9\n", "row 3: 4.png is there twice; remove one of them"),
        ("4.png,dog\n", "row 2 is '4.png,dog', allowed are id, label, confidence"),
        ("4.png,dog,90 %\n", "4.png has the confidence '90 %', allowed are 0 to 1; correct it"),
        ("4.png,dog,nan\n", "4.png has the confidence 'nan', allowed are 0 to 1; correct it"),
    ],
)
def test_wrong_pseudo_labels_are_refused_in_one_line(workspace, text, line):
    with pytest.raises(PipelineError) as caught:
        with_pseudo_labels(text)
    assert str(caught.value).startswith(f"data.pseudo_labels: pseudo.csv: {line}")
    assert "\n" not in str(caught.value)


def test_a_pseudo_label_can_be_corrected_or_dropped_and_the_test_image_stays(workspace):
    images = with_pseudo_labels("unlabeled/1.png,dog,0.98\n4.png,cat,1\n")
    Path(FILE).write_text("id,label\nunlabeled/1.png,cat\n4.png,drop\n")
    kept, changed = correct(FILE, images, CLASSES)
    assert [image for image in kept if image.confidence is not None] == []
    assert [(image.id, image.label) for image in kept[3:]] == [("unlabelled/1", 0), ("4", None)]
    assert changed == {"unlabeled/1.png": ("dog", "cat"), "4.png": ("cat", None)}


@pytest.fixture
def half_labelled(photos):
    """``data/raw.zip`` with unlabelled images, of which one is also in valid; the pseudo-labels of all but one."""
    for number, image in enumerate(sorted(photos.rglob("*.jpg"))):
        label, split = image.parent.name, ("train", "train", "valid", "unlabeled")[number % 4]
        folder = photos / split / (label if split != "unlabeled" else "")
        folder.mkdir(parents=True, exist_ok=True)
        image.rename(folder / f"{label}_{image.name}")
    (photos / "test").mkdir()
    (photos / "unlabeled/red_15.jpg").rename(photos / "test/0001.jpg")
    shutil.copy(photos / "valid/red/red_02.jpg", photos / "unlabeled/leak.jpg")
    for label in ("blue", "green", "red"):
        (photos / label).rmdir()
    download(DataParams(**DATA))
    unlabelled = sorted(path.relative_to(photos).as_posix() for path in photos.glob("unlabeled/*.jpg"))
    rows = [f"{path},red,0.97" for path in [*unlabelled[1:], "test/0001.jpg"]]
    Path(PSEUDO).write_text("\n".join(["id,label,confidence", *rows]))
    return unlabelled


def test_the_dataset_and_the_audit_say_which_labels_are_pseudo_labels(half_labelled, capsys):
    augment(AugmentParams(**AUGMENT), 1, "error", "warn")
    before = PackedDataset(DATASET).split("train")
    line = f"augment: {len(half_labelled)} unlabelled images are left out; see data.pseudo_labels\n"
    assert line in capsys.readouterr().out
    assert read_results("audit")["left_out"] == {"unlabelled": len(half_labelled)}
    augment(AugmentParams(**AUGMENT), 1, "error", "drop", None, PSEUDO)
    printed = capsys.readouterr().out
    assert f"{PSEUDO} adds {len(half_labelled)} images with pseudo-labels to train\n" in printed
    assert "1 of them are images of the test split, and stay in it, too (transductive)\n" in printed
    assert "1 unlabelled images are left out\n" in printed
    # The one that is also in valid is dropped; the copy of the test image is no leak.
    assert "1 images that are also in a later split were dropped" in printed
    train, test = PackedDataset(DATASET).split("train"), PackedDataset(DATASET).split("test")
    added = ["test/0001.jpg", *(path for path in half_labelled[1:] if path != "unlabeled/leak.jpg")]
    assert train.sources == [*before.sources, *added]
    assert test.sources == ["test/0001.jpg"]
    assert (train.images[len(before), 0] == test.images[0, 0]).all()
    assert (train.images[: len(before)] == before.images).all()
    index = pd.read_csv(DATASET / "index.csv", dtype=str, keep_default_na=False)
    assert index[index["confidence"] != ""]["source"].tolist() == added
    assert set(index["confidence"]) == {"", "0.97"}
    table = pd.read_csv(AUDIT_TABLE, dtype=str)
    assert table[table["finding"] == "pseudo-label"]["source"].tolist() == added
    assert read_results("audit")["pseudo_labels"] == len(half_labelled) - 1
    assert "of the training images have pseudo-labels" in AUDIT_PAGE.read_text("utf-8")
    with pytest.raises(PipelineError, match="images of valid and test are in an earlier split"):
        augment(AugmentParams(**AUGMENT), 1, "error", "error", None, PSEUDO)


@pytest.mark.parametrize("name", ["corrections", "pseudo_labels"])
@pytest.mark.parametrize("path", ["/tmp/corrections.csv", "~/corrections.csv", "../corrections.csv", "C:\\c.csv"])
def test_the_file_is_in_the_repository(name, path):
    with pytest.raises(ValueError, match="allowed is a path in this repository"):
        DataParams(**{**DATA, name: path})
