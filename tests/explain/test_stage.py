"""The stage ``explain``."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.common.dataset import Manifest, PackedDataset
from pipeline.common.paths import DATASET, EVALUATION, MODEL, SALIENCY
from pipeline.common.reading import checked
from pipeline.errors import PipelineError
from pipeline.evaluate.stage import evaluate
from pipeline.explain.saliency import Saliency, as_maps
from pipeline.explain.stage import choose_rows, explain
from pipeline.network.batches import Batches
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import EvaluateParams, ExplainParams
from tests.support.commands import run_command
from tests.support.models import overflowing
from tests.support.sections import EVALUATE


@pytest.fixture
def evaluated(trained, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    evaluate(EvaluateParams(**EVALUATE))


def read() -> dict:
    return checked(SALIENCY.read_text("utf-8"))


def maps_of(texts: dict[str, str], side: int) -> np.ndarray:
    return np.stack([np.frombuffer(base64.b64decode(text), np.uint8).reshape(side, side) for text in texts.values()])


@pytest.mark.usefixtures("evaluated")
@pytest.mark.parametrize("method", ["grad_cam", "occlusion"])
def test_each_image_has_the_map_of_its_predicted_class_and_a_mistake_also_that_of_its_true_class(method, capsys):
    explain(ExplainParams(method=method, max_images=100))
    table = pd.read_csv(EVALUATION / "predictions.csv", dtype={"id": str})
    found = read()
    split = PackedDataset(DATASET).split("test")
    assert list(found["predicted"]) == table["id"].tolist()
    wrong = table[table["correct"] == 0]
    assert list(found["true"]) == wrong["id"].tolist()
    model, spec = load_model(MODEL)
    batches = Batches(split, spec.mean, spec.std, torch.device("cpu"))
    (images, labels), *others = batches.in_order(len(split))
    assert not others
    saliency = Saliency(model, spec, method)
    expected = as_maps(saliency.attribute(images, torch.tensor(table["predicted"])).numpy()).astype(int)
    assert np.abs(maps_of(found["predicted"], found["side"]) - expected).max() <= 1
    if len(wrong):
        expected = as_maps(saliency.attribute(images[wrong.index], labels[wrong.index]).numpy()).astype(int)
        assert np.abs(maps_of(found["true"], found["side"]) - expected).max() <= 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"explain: {method}")]
    assert f"cells, for {len(split)} of the {len(split)} images of the test split" in lines[-1]


@pytest.mark.usefixtures("trained")
def test_a_photo_whose_name_pandas_takes_for_a_missing_value_is_explained(monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    index = pd.read_csv(DATASET / "index.csv", dtype=str, keep_default_na=False)
    index.loc[(index["split"] == "test") & (index["row"] == "0"), "id"] = "NA"
    index.to_csv(DATASET / "index.csv", index=False)
    Manifest.read(DATASET).write(DATASET)
    evaluate(EvaluateParams(**EVALUATE))
    explain(ExplainParams(method="grad_cam", max_images=100))
    assert "NA" in read()["predicted"]


@pytest.mark.usefixtures("evaluated")
def test_the_same_run_gives_the_same_bytes():
    explain(ExplainParams(method="grad_cam", max_images=5))
    before = SALIENCY.read_bytes()
    assert len(read()["predicted"]) == 5
    explain(ExplainParams(method="grad_cam", max_images=5))
    assert SALIENCY.read_bytes() == before


def test_mistakes_come_first_then_the_surest_hits_of_each_class_then_an_even_sample():
    images = pd.DataFrame(
        {
            "predicted": [0, 0, 0, 1, 1, 1] * 10,
            "correct": [1, 1, 1, 1, 1, 0] * 10,
            "confidence": np.linspace(0.1, 0.9, 60),
        }
    )
    wrong = np.flatnonzero(images["correct"] == 0)
    assert choose_rows(images, 10).tolist() == wrong.tolist()
    assert choose_rows(images, 3).tolist() == wrong[-3:].tolist()
    # The surest hit of both classes.
    assert set(choose_rows(images, 12)) == {*wrong, 56, 58}
    assert choose_rows(images, 60).tolist() == choose_rows(images, 1_000).tolist() == list(range(60))
    assert len(set(choose_rows(images, 40))) == 40


@pytest.mark.usefixtures("evaluated")
def test_predictions_of_another_dataset_and_missing_ones_are_refused():
    (EVALUATION / "predictions.csv").write_text("id,label,predicted,correct,confidence\n")
    with pytest.raises(PipelineError, match=r"predictions\.csv: cannot be used \(its checksum is wrong\).*evaluate"):
        explain(ExplainParams(method="grad_cam", max_images=5))
    (EVALUATION / "predictions.csv").unlink()
    with pytest.raises(PipelineError, match=r"predictions\.csv: no such file; run dvc repro evaluate"):
        explain(ExplainParams(method="grad_cam", max_images=5))
    assert not SALIENCY.exists()


@pytest.mark.usefixtures("evaluated")
def test_maps_that_are_not_finite_are_refused():
    model, spec = load_model(MODEL)
    save_model(MODEL, overflowing(model), spec)
    with pytest.raises(PipelineError, match=r"^results/model\.safetensors: the gradient of its output is not finite"):
        explain(ExplainParams(method="occlusion", max_images=5))
    assert not SALIENCY.exists()


def test_options_without_images_are_refused(workspace):
    result = run_command("explain", "--method", "occlusion")
    assert (result.code, result.stderr) == (
        1,
        "error: explain: options need images or folders, such as python -m pipeline explain photos\n",
    )
    assert not Path("results").exists()
