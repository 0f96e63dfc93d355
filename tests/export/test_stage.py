"""Stage ``export``."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import CARD, DATASET, METRICS, MODEL, ONNX
from pipeline.common.results import write_results
from pipeline.errors import PipelineError
from pipeline.export.stage import export
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from tests.support.folders import inside_copy
from tests.support.sections import AUGMENT, COLOURS, DATA, TRAIN
from tests.support.sections import MODEL as MODEL_PARAMS


def write_evaluation() -> None:
    """The results of ``evaluate`` that the card needs."""
    details = {"split": "test", "images": 12, "temperature": 1.5, "calibrated": {"ece": 0.05}}
    write_results("evaluate", {"accuracy": 0.75, "macro_f1": 0.5, "ece": 0.1}, details)


def run() -> None:
    sections = (AugmentParams(**AUGMENT), ModelParams(**MODEL_PARAMS), TrainParams(**TRAIN))
    export(DataParams(**DATA), *sections, seed=1)


@pytest.fixture(scope="module")
def exported_folder(tmp_path_factory, trained_folder):
    """A folder in which a trained network was exported."""
    with inside_copy(trained_folder, tmp_path_factory.mktemp("exported")) as folder:
        write_evaluation()
        run()
    return folder


@pytest.fixture
def exported(exported_folder, monkeypatch):
    """The working folder is the one with the exported network."""
    monkeypatch.chdir(exported_folder)


def test_two_exports_write_the_same_bytes_that_agree_with_torch_and_describe_this_run(exported, capsys):
    first = [path.read_bytes() for path in (ONNX, CARD)]
    run()
    assert [path.read_bytes() for path in (ONNX, CARD)] == first
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"export: results/model\.onnx agrees with torch on 12 valid images; largest differences: "
        r"\d\.\de-\d\d in probabilities, \d\.\de-\d\d in logits",
        next(line for line in lines if "agrees" in line),
    )
    times = [line for line in lines if "onnxruntime" in line]
    assert [line.split(" on the CPU")[0] for line in times] == ["export: batch of 1", "export: batch of 64"]
    onnx.checker.check_model(onnx.load(ONNX), full_check=True)
    card = CARD.read_text("utf-8")
    counts = {name: shape[0] for name, shape in PackedDataset(DATASET).manifest.shapes.items()}
    assert f"{counts['train']} train, {counts['valid']} valid, {counts['test']} test images" in card
    assert "| accuracy | 0.7500 |" in card
    assert str(Path.cwd()) not in card


def test_the_snippet_of_the_card_needs_only_the_onnx_file_and_a_photo(exported, tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", CARD.read_text("utf-8"), re.DOTALL)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.onnx").write_bytes(ONNX.read_bytes())
    Image.new("RGB", (90, 60), COLOURS["red"]).save(alone / "photo.jpg", quality=95)
    result = subprocess.run([sys.executable, "-I", "-c", code], cwd=alone, capture_output=True, text=True, check=True)
    shares = dict(line.split(": ") for line in result.stdout.splitlines())
    assert set(shares) == {"blue", "green", "red"}
    network, spec = load_model(MODEL)
    pixel = (np.array(COLOURS["red"]) / 255 - spec.mean) / spec.std
    image = torch.tensor(pixel, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(image).softmax(1)[0]
    for name, probability in zip(spec.classes, expected.tolist(), strict=True):
        assert float(shares[name].rstrip("%")) / 100 == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize("name", ["audit", "train", "evaluate"])
def test_without_the_results_of_a_stage_nothing_is_written(trained, name):
    write_evaluation()
    (METRICS / f"{name}.json").unlink()
    with pytest.raises(PipelineError, match=rf"^results/metrics/{name}\.json: no such file; run dvc repro"):
        run()
    assert not ONNX.exists()


def test_a_file_that_disagrees_does_not_replace_the_old_one(trained):
    write_evaluation()
    ONNX.write_bytes(b"old")
    network, spec = load_model(MODEL)
    state = network.state_dict()
    state["output.bias"][0] = torch.nan
    save_model(MODEL, state, spec)
    with pytest.raises(PipelineError, match="differ from torch's by nan"):
        run()
    assert ONNX.read_bytes() == b"old"
    assert not CARD.exists()
