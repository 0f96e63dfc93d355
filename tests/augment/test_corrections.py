"""``data.corrections``: labels that were corrected, and images that were dropped."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.augment.corrections import correct
from pipeline.augment.stage import augment
from pipeline.common.corrections import read_corrections
from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import AUDIT_PAGE, AUDIT_TABLE, DATASET
from pipeline.common.raw_archive import RawImage
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.params.schema import AugmentParams, DataParams
from tests.support.sections import AUGMENT, DATA

FILE = Path("corrections.csv")
CLASSES = ("cat", "dog")
IMAGES = [
    RawImage("train/0_1.png", "train", 0, "1", "cat/1.png"),
    RawImage("train/0_2.png", "train", 0, "2", 'cat/2,"a".png'),
    RawImage("train/1_3.png", "train", 1, "3", "dog/3.png"),
    RawImage("test/4.png", "test", None, "4", "4.png"),
]


def labels_of(text: str) -> dict[str, int | None]:
    FILE.write_text(text, "utf-8")
    return {image.path: image.label for image in correct(FILE, IMAGES, CLASSES)[0]}


def test_labels_are_replaced_and_images_dropped_and_all_are_named(workspace):
    FILE.write_text('id,label\ncat/1.png,dog\n"cat/2,""a"".png",cat\ndog/3.png,drop\n')
    kept, changed = correct(FILE, IMAGES, CLASSES)
    assert [(image.path, image.label) for image in kept] == [("cat/1.png", 1), ('cat/2,"a".png', 0), ("4.png", None)]
    # The other one had this label before.
    assert changed == {"cat/1.png": ("cat", "dog"), "dog/3.png": ("dog", None)}


def test_without_a_file_or_without_rows_nothing_changes(workspace):
    assert correct(None, IMAGES, CLASSES) == (IMAGES, {})
    assert labels_of("\ufeffid,label\n") == {image.path: image.label for image in IMAGES}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "its first line is '', allowed is id,label"),
        ("path,label\n", "its first line is 'path,label', allowed is id,label"),
        ("id,label\ncat/1.png\n", "row 2 is 'cat/1.png', allowed are an id and a label"),
        ("id,label\ncat/1.png,\n", "row 2 is 'cat/1.png,', allowed are an id and a label"),
        ("id,label\ncat/1.png,dog\ncat/1.png,dog\n", "row 3: cat/1.png is there twice; remove one of them"),
        ("id,label\n1.png,dog\n", "1 of 1 ids are no images of the source (1.png); allowed are their paths"),
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
    FILE.write_text("id,label\ncat/1.png,drop\n")
    with pytest.raises(PipelineError, match="drop is a class, too"):
        correct(FILE, IMAGES, ("cat", "drop"))


def test_a_missing_file_is_reported(workspace):
    with pytest.raises(PipelineError, match=r"^data.corrections: corrections.csv: no such file"):
        read_corrections(FILE)


def test_the_dataset_and_the_audit_have_the_corrections(dataset):
    before = PackedDataset(DATASET).split("train")
    first, second = before.sources[:2]
    new = PackedDataset(DATASET).manifest.classes[(before.labels[0] + 1) % 3]
    FILE.write_text(f"id,label\n{first},{new}\n{second},drop\n")
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


@pytest.mark.parametrize("path", ["/tmp/corrections.csv", "~/corrections.csv", "../corrections.csv", "C:\\c.csv"])
def test_the_file_is_in_the_repository(path):
    with pytest.raises(ValueError, match="allowed is a path in this repository"):
        DataParams(**{**DATA, "corrections": path})
