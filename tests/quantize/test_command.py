"""Command ``quantize``."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import CARD, DATASET, METRICS, MODEL, ONNX
from pipeline.common.results import write_results
from pipeline.errors import PipelineError
from pipeline.experiments import comparison
from pipeline.export.onnx_model import write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.inference import PixelClassifier
from pipeline.network.onnx_file import open_onnx
from pipeline.network.weights import load_model
from pipeline.predict.files import load_models, predict_files
from pipeline.quantize.command import quantize
from pipeline.quantize.quantizing import write_quantized
from tests.support.commands import run_command
from tests.support.folders import inside_copy

INT8 = Path("results/model_int8.onnx")


@pytest.fixture(scope="module")
def quantized_folder(tmp_path_factory, trained_folder):
    """A folder in which a trained network was exported and quantized."""
    with inside_copy(trained_folder, tmp_path_factory.mktemp("quantized")) as folder:
        network, spec = load_model(MODEL)
        write_onnx(ONNX, PhotoClassifier(PixelClassifier(network, spec), spec).eval(), spec)
        write_results("evaluate", {"accuracy": 0.5}, {"split": "test"})
        CARD.write_text("# The card\n", "utf-8")
        (folder / "result.json").write_text(json.dumps(vars(run_command("quantize"))), "utf-8")
    return folder


@pytest.fixture
def quantized(quantized_folder, monkeypatch):
    """The working folder is the one with the quantized network."""
    monkeypatch.chdir(quantized_folder)


def test_weights_are_8_bit_integers_and_resizing_and_softmax_are_not(quantized):
    graph = onnx.load(INT8).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    of_layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    assert len(of_layers) == 8
    assert {kinds[dequantized[node.input[1]].input[0]] for node in of_layers} == {onnx.TensorProto.INT8}
    # One scale for each channel of the weights.
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert sizes[dequantized[of_layers[0].input[1]].input[1]] == [4]
    operations = [node.op_type for node in graph.node]
    first, last = (operations.index("QuantizeLinear"), len(operations) - 1 - operations[::-1].index("DequantizeLinear"))
    assert "MatMul" in operations[:first]
    assert operations[-1] == "Softmax"
    assert last < len(operations) - 1


def test_input_outputs_and_metadata_are_those_of_the_source(quantized):
    old, new = (open_onnx(path, 1) for path in (ONNX, INT8))
    assert replace(new, path=ONNX, session=old.session) == old
    assert old.calibration.energy is not None
    photos = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    assert [output.shape for output in new.run(photos)] == [(3, 3), (3, 3)]


def test_the_quantized_network_predicts_nearly_the_same(quantized):
    images = np.array(PackedDataset(DATASET).split("test").images[:, 0])
    (old, logits), (new, others) = (open_onnx(path, 1).run(images) for path in (ONNX, INT8))
    assert np.abs(new - old).max() < 0.05
    assert 0 < np.abs(others - logits).max() < 0.1 * np.ptp(logits)


def test_files_are_predicted_with_test_time_augmentation_as_by_the_network(quantized):
    files = []
    for row, pixels in enumerate(PackedDataset(DATASET).split("test").images[:4, 0]):
        files.append(Path(f"{row}.png"))
        Image.fromarray(pixels).save(files[-1])
    network, exported = (predict_files(files, load_models([path]), method="ten_crop") for path in (MODEL, ONNX))
    # Crops of the exported network's pixels are rounded.
    np.testing.assert_allclose(exported.probabilities, network.probabilities, atol=0.01)
    np.testing.assert_allclose(exported.energies, network.energies, rtol=0.01)


def test_the_same_images_give_the_same_bytes(quantized, tmp_path):
    images = np.array(PackedDataset(DATASET).split("valid").images[:, 0])
    write_quantized(ONNX, tmp_path / "again.onnx", images)
    assert (tmp_path / "again.onnx").read_bytes() == INT8.read_bytes()


def test_a_quantized_network_is_not_quantized_again(quantized):
    result = run_command("quantize", "--model", str(INT8))
    assert (result.code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: quantize: the file has no layer with weights in fp32; give the file that")
    assert not INT8.with_stem(f"{INT8.stem}_int8").exists()


def test_accuracy_with_its_interval_size_and_speed_are_reported(quantized):
    result = json.loads(Path("result.json").read_text("utf-8"))
    assert (result["code"], result["stderr"]) == (0, "")
    output = result["stdout"]
    small, large = INT8.stat().st_size / 1e6, ONNX.stat().st_size / 1e6
    assert f"{INT8}: {small:.2f} MB instead of {large:.2f}, calibrated on 12 valid images" in output
    assert re.search(
        r"^accuracy +\d+\.\d\d% +\d+\.\d\d% +[+-]\d\.\d\d points +[+-]\d+\.\d\d to [+-]\d+\.\d\d$", output, re.M
    )
    assert len(re.findall(r"batch of \d+ on the CPU with .*, \d+\.\d\d times as fast \(medians\)$", output, re.M)) == 2
    card = INT8.with_suffix(".md").read_text("utf-8")
    assert card.startswith("# The card\n\n## 8-bit integers\n")
    assert re.search(
        r"\| accuracy \| \d\.\d{4} \| \d\.\d{4} \| [+-]\d\.\d{4} \| [+-]\d\.\d{4} to [+-]\d\.\d{4} \|", card
    )
    # A card is published: no times, and no paths of this machine.
    assert "ms" not in card.split()
    assert str(Path.cwd()) not in card


def test_a_split_that_is_too_small_to_compare_on_leaves_the_earlier_files(quantized_folder, tmp_path, monkeypatch):
    with inside_copy(quantized_folder, tmp_path / "copy"):
        earlier = INT8, INT8.with_suffix(".md")
        for path in earlier:
            path.write_text("earlier")
        monkeypatch.setattr(comparison, "FEWEST_IMAGES", 1_000)
        with pytest.raises(PipelineError, match=r"^quantize: the test split: 12 images cannot show a difference"):
            quantize(ONNX)
        assert [path.read_text() for path in earlier] == ["earlier"] * 2


@pytest.mark.parametrize("missing", [ONNX, DATASET / "manifest.json", METRICS / "evaluate.json"], ids=str)
def test_without_a_file_that_it_needs_nothing_is_written(quantized_folder, tmp_path, missing):
    with inside_copy(quantized_folder, tmp_path / "copy"):
        INT8.unlink()
        missing.unlink()
        result = run_command("quantize")
        assert result.code == 1
        assert result.stderr.startswith("error: ")
        assert "run dvc repro" in result.stderr
        assert result.stderr.count("\n") == 1
        assert not INT8.exists()
