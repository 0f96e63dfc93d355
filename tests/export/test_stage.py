"""Stage ``export``."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.common.dataset import PackedDataset
from pipeline.common.file_types import HEAD, Kind, kind_of
from pipeline.common.paths import CARD, DATASET, METRICS, MODEL, ONNX
from pipeline.common.results import write_results
from pipeline.errors import PipelineError
from pipeline.export.stage import export
from pipeline.network.models import build_model
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from pipeline.predict.files import load_models, predict_files
from tests.support.folders import inside_copy
from tests.support.hostile_images import hostile_files, oriented
from tests.support.models import overflowing, spread_logits
from tests.support.sections import AUGMENT, COLOURS, DATA, TRAIN
from tests.support.sections import MODEL as MODEL_PARAMS


def write_evaluation() -> None:
    """The results of ``evaluate`` that the card needs."""
    details = {"split": "test", "images": 12, "temperature": 1.5, "calibrated": {"ece": 0.05}}
    details["interval"] = {"accuracy": {"low": 0.5, "high": 0.9}}
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


@pytest.fixture(scope="module", params=["stretch area", "crop bicubic", "pad bilinear"])
def published(request, trained_folder, tmp_path_factory):
    """A folder with an exported network whose probabilities differ from photo to photo, and the script of its card."""
    with inside_copy(trained_folder, tmp_path_factory.mktemp("published")) as folder:
        _, spec = load_model(MODEL)
        torch.manual_seed(0)
        resize, interpolation = request.param.split()
        spec = replace(spec, resize=resize, interpolation=interpolation)
        model = build_model(spec)
        spread_logits(model, 20)
        save_model(MODEL, model.state_dict(), spec)
        write_evaluation()
        run()
        [script] = re.findall(r"```python\n(.*?)```", CARD.read_text("utf-8"), re.DOTALL)
        (folder / "script.py").write_text(script)
        (folder / "model.onnx").write_bytes(ONNX.read_bytes())
    return folder


def write_photos_of_all_kinds(folder: Path) -> list[Path]:
    """Photos larger and smaller than the input, in all color modes, and all readable files of ``hostile_files``."""
    china = Image.fromarray(load_sample_images().images[0])
    alpha = china.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(china.size))
    deep = np.asarray(china.convert("L")).astype(np.uint16) * 257 + 99
    photos = {
        "photo.jpg": china,
        "cmyk.jpg": china.convert("CMYK"),
        "grey.jpg": china.convert("L"),
        "wide.jpg": china.crop((0, 0, 640, 41)),
        "tall.png": china.crop((300, 0, 319, 427)),
        "small.png": china.crop((100, 100, 120, 125)),
        "alpha.png": alpha,
        "grey alpha.png": alpha.convert("LA"),
        "16 bit.png": Image.fromarray(deep),
        "palette.png": china.quantize(16),
        "black and white.png": china.convert("1"),
        "photo.webp": china,
    }
    for name, photo in photos.items():
        photo.save(folder / name)
    china.quantize(16).save(folder / "clear palette.png", transparency=bytes(range(0, 256, 16)))
    for orientation in range(2, 9):
        china.save(folder / f"turned {orientation}.jpg", exif=oriented(orientation))
    for name, file in hostile_files().items():
        # Pillow reads HEIC only with a plugin, and rejects PNG with large compressed texts.
        alone = kind_of(file.content[:HEAD]) is not Kind.HEIC and not name.startswith("large")
        if file.pixels is not None and alone:
            (folder / name).write_bytes(file.content)
    return sorted(folder.iterdir())


def test_the_script_of_the_card_gives_the_predictions_of_the_pipeline(published, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    files = write_photos_of_all_kinds(tmp_path)
    driver = """
import json, sys
script, found = open("script.py").read(), []
for name in sys.argv[1:]:
    scope = {}
    exec(script.replace('"photo.jpg"', repr(name)), scope)
    found.append(scope["probabilities"][0].tolist())
json.dump(found, open("found.json", "w"))
"""
    command = [sys.executable, "-I", "-c", driver, *map(str, files)]
    subprocess.run(command, cwd=published, capture_output=True, check=True)
    found = np.array(json.loads((published / "found.json").read_text()))
    expected = predict_files(files, load_models([published / MODEL])).probabilities
    assert len(files) > 50
    assert np.ptp(expected, axis=0).max() > 0.5
    difference = np.abs(found - expected).max(axis=1)
    assert {file.name: d for file, d in zip(files, difference, strict=True) if d > 0.005} == {}
    first, second = np.sort(expected, axis=1)[:, :-3:-1].T
    clear = first - second > 0.01
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[clear].all()


def test_the_script_of_the_card_runs_as_it_is_and_prints_the_classes(published, tmp_path):
    for name in ("script.py", "model.onnx"):
        shutil.copy(published / name, tmp_path)
    Image.new("RGB", (90, 60), COLOURS["red"]).save(tmp_path / "photo.jpg", quality=95)
    result = subprocess.run(
        [sys.executable, "-I", "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    shares = dict(line.split(": ") for line in result.stdout.splitlines())
    assert set(shares) == {"blue", "green", "red"}
    assert sum(float(share.rstrip("%")) for share in shares.values()) == pytest.approx(100, abs=0.2)


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
    save_model(MODEL, overflowing(network), spec)
    with pytest.raises(PipelineError, match="differ from torch's by nan"):
        run()
    assert ONNX.read_bytes() == b"old"
    assert not CARD.exists()
