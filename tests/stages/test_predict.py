"""Stage ``predict``."""

import numpy as np
import pandas as pd
import pytest

from pipeline.packed import PackedDataset
from pipeline.params.predict import PredictParams
from pipeline.paths import DATASET, PREDICTIONS
from pipeline.stages.predict import predict


def test_submission_has_a_row_an_image_with_its_id_and_most_probable_class(trained):
    predict(PredictParams(split="auto"))
    submission = pd.read_csv(PREDICTIONS / "submission.csv", dtype={"Id": str})
    probabilities = pd.read_csv(PREDICTIONS / "probabilities.csv", dtype={"Id": str})
    assert list(submission.columns) == ["Id", "Category"]
    assert list(submission["Id"]) == list(probabilities["Id"]) == PackedDataset(DATASET).split("test").ids
    assert list(probabilities.columns) == ["Id", "blue", "green", "red"]
    rows = probabilities[["blue", "green", "red"]].to_numpy()
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert (rows.argmax(axis=1) == submission["Category"]).all()


@pytest.mark.parametrize(("split", "images"), [("train", 24), ("valid", 12)])
def test_any_split_can_be_predicted(trained, split, images):
    predict(PredictParams(split=split))
    assert len(pd.read_csv(PREDICTIONS / "submission.csv")) == images
