"""Stage ``predict``."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from pipeline.augment.stage import augment
from pipeline.common.dataset import Manifest, PackedDataset
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS, RAW_ARCHIVE
from pipeline.common.raw_archive import read_raw_archive
from pipeline.errors import PipelineError
from pipeline.network.calibrating import energies, fit_calibration
from pipeline.network.calibration import Calibration
from pipeline.network.inference import choose_tta, open_trained, predict_logits
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import AugmentParams, PredictParams
from pipeline.predict.files import load_models, predict_files
from pipeline.predict.stage import categories, predict
from tests.support.models import overflowing
from tests.support.sections import AUGMENT, PREDICT

COLUMNS = ["p_blue", "p_green", "p_red"]


def run(**changes) -> None:
    predict(PredictParams(**PREDICT | changes))


def rename_classes(*names: str) -> None:
    """Give other names to the classes of the dataset and of the network."""
    network, spec = load_model(MODEL)
    save_model(MODEL, network.state_dict(), replace(spec, classes=names))
    replace(Manifest.read(DATASET), classes=names).write(DATASET)


def without_outliers() -> None:
    network, spec = load_model(MODEL)
    save_model(MODEL, network.state_dict(), replace(spec, calibration=Calibration()))


def rename_sources(split: str, *names: str) -> None:
    """Give other paths in the source to the first images of a split."""
    index = pd.read_csv(DATASET / "index.csv", dtype=str, keep_default_na=False)
    index.loc[index.index[index["split"] == split][: len(names)], "source"] = names
    index.to_csv(DATASET / "index.csv", index=False)
    Manifest.read(DATASET).write(DATASET)


def written(name: str) -> pd.DataFrame:
    return pd.read_csv(PREDICTIONS / f"{name}.csv", dtype={"Id": str, "class": str}, keep_default_na=False)


def test_submission_has_one_row_per_image_with_its_id_and_most_probable_class(trained):
    run()
    submission, probabilities = written("submission"), written("probabilities")
    assert list(submission.columns) == ["Id", "Category"]
    assert list(submission["Id"]) == list(probabilities["Id"]) == PackedDataset(DATASET).split("test").ids
    assert list(probabilities.columns) == ["Id", *COLUMNS]
    rows = probabilities[COLUMNS].to_numpy()
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert (rows.argmax(axis=1) == submission["Category"]).all()


def test_probabilities_are_those_at_the_temperature_of_the_weights_file(trained):
    network, spec = load_model(MODEL)
    run()
    before = written("probabilities")[COLUMNS].to_numpy()
    plain = replace(spec, calibration=replace(spec.calibration, temperature=3 * spec.calibration.temperature))
    save_model(MODEL, network.state_dict(), plain)
    run()
    after = written("probabilities")[COLUMNS].to_numpy()
    powers = before ** (1 / 3)
    np.testing.assert_allclose(after, powers / powers.sum(axis=1, keepdims=True), atol=0.01)
    assert (after.max(axis=1) < before.max(axis=1)).all()


def test_answers_below_the_threshold_are_unsure_but_the_submission_has_a_class_for_each_image(trained, capsys):
    network, spec = load_model(MODEL)
    save_model(MODEL, network.state_dict(), replace(spec, calibration=Calibration(8.0, 1e3, ())))
    run()
    confidence = written("answers")["confidence"]
    capsys.readouterr()
    run(abstain=float(confidence.median()))
    table, submission = written("answers"), written("submission")
    assert list(table.columns) == ["Id", "predicted", "confidence", "answer", "energy", "outlier"]
    unsure = table["confidence"] < confidence.median()
    assert 0 < unsure.sum() < len(table)
    assert (table["answer"] == table["predicted"].where(~unsure, "unsure")).all()
    assert (table["outlier"] == 1).all()
    assert [spec.classes[index] for index in submission["Category"]] == table["predicted"].tolist()
    assert capsys.readouterr().out.endswith(
        f"answers.csv: 12 images, {unsure.sum()} unsure, 12 unlike the training images; a submission has a class for "
        "each\n"
    )


@pytest.mark.parametrize(("split", "images"), [("train", 24), ("valid", 12)])
def test_any_split_can_be_predicted(trained, split, images):
    run(split=split)
    assert len(written("submission")) == images


def test_a_network_whose_output_is_not_finite_writes_no_predictions(trained):
    network, spec = load_model(MODEL)
    save_model(MODEL, overflowing(network), spec)
    with pytest.raises(PipelineError, match=r"results/model.safetensors: its output for the test split is not finite"):
        run()
    assert not PREDICTIONS.exists()


def test_probabilities_of_image_files_equal_those_of_the_packed_images(trained):
    run(split="test")
    table = written("probabilities")
    split = PackedDataset(DATASET).split("test")
    entries = {image.path: image.entry for image in read_raw_archive(RAW_ARCHIVE)[1]}
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        files = [Path(archive.extract(entries[source], "unpacked")) for source in split.sources]
    found = predict_files(files, load_models([MODEL]))
    np.testing.assert_allclose(found.probabilities, table[COLUMNS], atol=2e-6)


@pytest.mark.parametrize("method", ["hflip", "views"])
def test_with_test_time_augmentation_calibration_and_thresholds_are_those_of_the_method(trained, capsys, method):
    augment(AugmentParams(**AUGMENT | {"test_views": 3}), seed=1, on_bad_image="error", on_leak="warn")
    run(split="test", tta=method, abstain_precision=0.8)
    dataset, model, spec = open_trained(DATASET, MODEL)
    of_valid, logits = (predict_logits(model, spec, dataset.split(name), "", method) for name in ("valid", "test"))
    calibration = fit_calibration(of_valid.astype(float), dataset.split("valid").labels)
    assert calibration != spec.calibration
    expected = softmax(logits / calibration.temperature, axis=1)
    np.testing.assert_allclose(written("probabilities")[COLUMNS], expected, atol=2e-6)
    answers, best = written("answers"), expected.argmax(1)
    # NaN stands for no probability.
    thresholds = np.array([row[0] for row in calibration.thresholds], float)[best]
    assert ((answers["answer"] != "unsure") == (expected.max(1) >= thresholds)).all()
    np.testing.assert_allclose(answers["energy"], energies(logits), rtol=1e-4)
    assert (answers["outlier"] == (energies(logits) < calibration.energy)).all()
    assert f"for the test split with test-time augmentation ({method});" in capsys.readouterr().out


def test_the_same_method_is_chosen_on_the_valid_split_as_by_evaluate(trained, capsys):
    run(tta="auto")
    dataset, model, spec = open_trained(DATASET, MODEL)
    chosen = choose_tta(model, spec, dataset, dataset.split("test"), "auto", "evaluate")
    logits = predict_logits(model, spec, dataset.split("test"), "", chosen.method)
    expected = softmax(logits / chosen.spec.calibration.temperature, axis=1)
    np.testing.assert_allclose(written("probabilities")[COLUMNS], expected, atol=2e-6)
    assert f" with test-time augmentation ({chosen.method}, chosen on the valid split);" in capsys.readouterr().out


def test_test_time_augmentation_without_views_is_rejected_in_one_line(trained):
    with pytest.raises(PipelineError) as error:
        run(tta="views")
    assert str(error.value) == (
        "params.yaml: predict.tta: got views, but the valid split has no augmented views to average over; set "
        "augment.test_views to 1 or more, or predict.tta to auto or none"
    )
    assert not PREDICTIONS.exists()


def test_classes_may_be_called_as_the_columns_are(trained):
    names = ("Id", "p_Id", "Category")
    rename_classes(*names)
    run()
    table = written("probabilities")
    assert list(table.columns) == ["Id", "p_Id", "p_p_Id", "p_Category"]
    assert written("categories").to_dict("list") == {"Category": [0, 1, 2], "class": list(names)}
    best = table.drop(columns="Id").to_numpy().argmax(axis=1)
    assert best.tolist() == written("submission")["Category"].tolist()


@pytest.mark.parametrize(
    ("classes", "numbers"),
    [
        (("1", "2", "3"), [1, 2, 3]),
        (("00", "01", "10"), [0, 1, 10]),
        (("20", "3", "1"), [20, 3, 1]),
        (("123456789012345678901", "7"), [123456789012345678901, 7]),
        (("1", "01", "2"), [0, 1, 2]),
        (("1", "2", "none"), [0, 1, 2]),
        (("1", "-2"), [0, 1]),
        (("1.0", "2.0"), [0, 1]),
        (("٣", "٤"), [0, 1]),
        (("3²", "4"), [0, 1]),
        (("cat", "dog"), [0, 1]),
    ],
    ids=str,
)
def test_category_is_the_number_that_is_the_name_if_all_names_are_different_numbers_otherwise_the_index(
    classes, numbers
):
    assert categories(classes) == numbers


def test_the_category_of_numbered_classes_is_their_number(trained, capsys):
    rename_classes("003", "1", "20")
    without_outliers()
    run(split="test")
    table, submission = written("probabilities"), written("submission")
    names = table.drop(columns="Id").idxmax(axis=1)
    assert set(names) <= {"p_003", "p_1", "p_20"}
    assert submission["Category"].tolist() == [int(name.removeprefix("p_")) for name in names]
    assert written("categories").to_dict("list") == {"Category": [3, 1, 20], "class": ["003", "1", "20"]}
    assert capsys.readouterr().out.endswith("; Category is the name of the class, which is a number\n")


def test_the_output_says_that_category_is_the_index_and_lists_the_classes(trained, capsys):
    rename_sources("test", *(f"test/{id}.jpg" for id in PackedDataset(DATASET).split("test").ids))
    without_outliers()
    run()
    assert capsys.readouterr().out == (
        "predict: results/predictions/submission.csv: 12 predictions for the test split; Category is the index of the "
        "class (0 blue, 1 green, 2 red; see results/predictions/categories.csv)\n"
    )


def test_ids_that_are_more_than_the_name_of_the_file_are_counted_and_shown(trained, capsys):
    ids = PackedDataset(DATASET).split("test").ids
    rename_sources("test", "a/same.jpg", "b/same.jpg", *(f"{id}.jpg" for id in ids[2:]))
    run()
    assert capsys.readouterr().out.startswith(
        "predict: several files of the test split have the same name, so that 2 Ids are more than the name without its "
        f"extension: {ids[0]}, {ids[1]}\n"
    )
