"""Stage ``predict``."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.augment.stage import augment
from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS, RAW_ARCHIVE
from pipeline.common.raw_archive import read_raw_archive
from pipeline.errors import PipelineError
from pipeline.network.inference import open_trained, predict_probabilities
from pipeline.params.schema import AugmentParams, PredictParams
from pipeline.predict.files import load_models, predict_files
from pipeline.predict.stage import predict
from tests.support.sections import AUGMENT

CLASSES = ["blue", "green", "red"]


def test_submission_has_one_row_per_image_with_its_id_and_most_probable_class(trained):
    predict(PredictParams(split="auto", tta=False))
    submission = pd.read_csv(PREDICTIONS / "submission.csv", dtype={"Id": str})
    probabilities = pd.read_csv(PREDICTIONS / "probabilities.csv", dtype={"Id": str})
    assert list(submission.columns) == ["Id", "Category"]
    assert list(submission["Id"]) == list(probabilities["Id"]) == PackedDataset(DATASET).split("test").ids
    assert list(probabilities.columns) == ["Id", *CLASSES]
    rows = probabilities[CLASSES].to_numpy()
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert (rows.argmax(axis=1) == submission["Category"]).all()


@pytest.mark.parametrize(("split", "images"), [("train", 24), ("valid", 12)])
def test_any_split_can_be_predicted(trained, split, images):
    predict(PredictParams(split=split, tta=False))
    assert len(pd.read_csv(PREDICTIONS / "submission.csv")) == images


def test_probabilities_of_image_files_equal_those_of_the_packed_images(trained):
    predict(PredictParams(split="test", tta=False))
    table = pd.read_csv(PREDICTIONS / "probabilities.csv")
    split = PackedDataset(DATASET).split("test")
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        entries = {image.path: image.entry for image in read_raw_archive(archive)[1]}
        files = [Path(archive.extract(entries[source], "unpacked")) for source in split.sources]
    found = predict_files(files, load_models([MODEL]))
    np.testing.assert_allclose(found.probabilities, table[CLASSES], atol=2e-6)


def test_test_time_augmentation_averages_over_each_image_and_its_views(trained, capsys):
    augment(AugmentParams(**AUGMENT | {"test_views": 3}), seed=1, on_bad_image="error", on_leak="warn")
    predict(PredictParams(split="test", tta=True))
    table = pd.read_csv(PREDICTIONS / "probabilities.csv")
    dataset, model, spec = open_trained(DATASET, MODEL)
    expected = predict_probabilities(model, spec, dataset.split("test"), "test", tta=True)
    np.testing.assert_allclose(table[CLASSES], expected, atol=2e-6)
    assert not np.allclose(expected, predict_probabilities(model, spec, dataset.split("test"), "test"), atol=1e-4)
    assert "each the mean over the image and 3 views" in capsys.readouterr().out


def test_test_time_augmentation_without_views_is_rejected_in_one_line(trained):
    with pytest.raises(PipelineError) as error:
        predict(PredictParams(split="auto", tta=True))
    assert str(error.value) == (
        "params.yaml: predict.tta: got true, but the test split has no augmented views to average over; set "
        "augment.test_views to 1 or more, or predict.tta to false"
    )
    assert not PREDICTIONS.exists()
