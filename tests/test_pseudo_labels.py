"""pseudo-label: unlabelled images labelled by an ensemble."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.paths import MODEL, RAW_ARCHIVE
from pipeline.common.raw_archive import RawReader, entry_name, read_raw_archive, write_raw_archive
from pipeline.ensemble import predict_split
from pipeline.errors import PipelineError
from pipeline.network.weights import load_model, save_model
from pipeline.predict.files import load_models
from pipeline.pseudo_labels import predicted_images, pseudo_label
from tests.support.clones import ROOT
from tests.support.commands import run_command

OUTPUT = Path("pseudo.csv")


@pytest.fixture
def expected(trained):
    """The labels of the test images by two networks; then these images are in no split any more."""
    network, spec = load_model(MODEL)
    weights = {name: value * 2 if name.startswith("output.") else value for name, value in network.state_dict().items()}
    save_model(Path("other.safetensors"), weights, spec)
    predict_split("test", [MODEL, Path("other.safetensors")], 1, output=Path("probabilities.csv"))
    table = pd.read_csv("probabilities.csv", dtype={"Id": str}).drop(columns="Id")
    classes, images, left_out = read_raw_archive(RAW_ARCHIVE)
    entries = {
        image.entry if image.split != "test" else entry_name("unlabelled", None, image.path.replace("/", "__")): image
        for image in images
    }
    content, archive = {image.path: image for image in images}, RawReader(RAW_ARCHIVE)
    paths = {entry: image.path for entry, image in entries.items()}
    write_raw_archive(RAW_ARCHIVE, classes, paths, lambda path: archive.read(content[path]), left_out)
    sources = [image.path for image in images if image.split == "test"]
    labels = table.idxmax(axis=1).str.removeprefix("p_")
    return pd.DataFrame({"id": sources, "label": labels, "confidence": table.max(axis=1)}).sort_values("id")


def written() -> pd.DataFrame:
    return pd.read_csv(OUTPUT, dtype={"id": str, "label": str})


def test_the_mean_of_the_models_labels_the_images_above_the_confidence(expected, capsys):
    middle = float(expected["confidence"].median())
    pseudo_label([MODEL, Path("other.safetensors")], middle, OUTPUT)
    sure = expected[expected["confidence"] >= middle]
    pd.testing.assert_frame_equal(written(), sure.reset_index(drop=True), atol=2e-6)
    printed = capsys.readouterr().out
    assert "pseudo-label: on valid, " in printed
    assert f"{OUTPUT}: {len(sure)} of {len(expected)} images of unlabelled; set data.pseudo_labels to it" in printed


def test_the_accuracy_on_valid_is_that_of_the_corrected_labels(expected, capsys):
    network, images = (
        load_models([MODEL]),
        [image for image in read_raw_archive(RAW_ARCHIVE)[1] if image.split == "valid"],
    )
    classes = network[0][1].classes
    predicted = predicted_images(images, network).set_index("path")["predicted"]
    dropped, *rest = [image.path for image in images]
    lines = [f"{path},{classes[predicted[path]]}" for path in rest] + [f"{dropped},drop"]
    Path("corrections.csv").write_text("\n".join(["id,label", *lines]))
    pseudo_label([MODEL], 0, OUTPUT, corrections="corrections.csv")
    assert f"on valid, {len(rest)} of {len(rest)} images reach 0, with an accuracy of 1.0000" in capsys.readouterr().out


def test_at_most_some_images_of_each_class_are_the_surest_ones(expected):
    shutil.copy(ROOT / "params.yaml", ".")
    assert run_command("pseudo-label", "--output", str(OUTPUT), "--confidence", "0", "--per-class", "2").code == 0
    assert written()["label"].value_counts().max() == 2
    pseudo_label([MODEL], 0, Path("all.csv"))
    best = pd.read_csv("all.csv").groupby("label")["confidence"].nlargest(2)
    assert sorted(written()["confidence"]) == sorted(best)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"split": "test"}, "--split: got test, but data/raw.zip has no unlabelled images in it; choose unlabelled"),
        ({"output": Path("pseudo.txt")}, "--output: got 'pseudo.txt', allowed is the name of a file that ends in .csv"),
        ({"confidence": 1.0}, "--confidence: none of the "),
    ],
)
def test_what_cannot_be_labelled_is_one_line(expected, changes, line):
    with pytest.raises(PipelineError) as error:
        pseudo_label(**{"model_files": [MODEL], "confidence": 0.5, "output": OUTPUT} | changes)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert not OUTPUT.exists()
