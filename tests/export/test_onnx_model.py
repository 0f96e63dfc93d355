"""The network as ONNX."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.export import onnx_model
from pipeline.export.onnx_model import check_onnx, write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.calibration import Calibration
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec, build_model
from pipeline.network.onnx_file import open_onnx
from tests.support.models import SPEC

ROOT = Path(__file__).parents[2]
PATH = Path("model.onnx")


@pytest.fixture(autouse=True)
def folder(workspace):
    """Every test works in a folder of its own."""


def classifier(seed=0, **changes) -> tuple[PhotoClassifier, ModelSpec]:
    """An untrained network; its batch norms have statistics of images, so that the outputs depend on the input."""
    torch.manual_seed(seed)
    spec = replace(SPEC, **changes)
    model = build_model(spec)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(4, 3, spec.image_size, spec.image_size))
    return photo_classifier(model, spec), spec


def photo_classifier(model: nn.Module, spec: ModelSpec) -> PhotoClassifier:
    return PhotoClassifier(PixelClassifier(model, spec), spec).eval()


def pixels(spec, count=5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, spec.image_size, spec.image_size, 3), np.uint8)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(path, *classifier())
    return path


@pytest.fixture
def written(onnx_file):
    """The network and its specification; its ONNX file is in the working folder."""
    shutil.copy(onnx_file, PATH)
    return classifier()


@pytest.mark.parametrize(
    "changes",
    [{}, {"outputs": 1, "classes": ("no", "yes")}, {"image_size": 64, "dropout": 0.5}],
    ids=["three classes", "one sigmoid output", "dropout"],
)
def test_onnxruntime_agrees_with_the_definition_of_the_network(changes):
    network, spec = classifier(**changes)
    write_onnx(PATH, network, spec)
    images = pixels(spec)
    inputs = (images / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        outputs = network.classifier.model(torch.tensor(inputs.transpose(0, 3, 1, 2), dtype=torch.float32))
    expected = outputs.softmax(1) if spec.outputs > 1 else torch.cat([1 - outputs.sigmoid(), outputs.sigmoid()], 1)
    probabilities, logits = open_onnx(PATH, 1).run(images)
    assert probabilities.shape == logits.shape == (5, len(spec.classes))
    assert np.ptp(probabilities[:, 0]) > 1e-4
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)
    assert max(check_onnx(PATH, network, images).values()) < 1e-4


def test_the_file_has_calibrated_probabilities_and_plain_logits():
    network, spec = classifier(calibration=Calibration(temperature=0.4))
    write_onnx(PATH, network, spec)
    probabilities, logits = open_onnx(PATH, 1).run(pixels(spec))
    np.testing.assert_allclose(probabilities, softmax(logits / 0.4, axis=1), atol=1e-6)
    plain, _ = classifier()
    with torch.no_grad():
        np.testing.assert_allclose(logits, plain(torch.tensor(pixels(spec)))[1], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_any_batch_size_is_possible(written, count):
    _, spec = written
    probabilities, _ = open_onnx(PATH, 1).run(pixels(spec, count))
    assert probabilities.shape == (count, 3)


def test_the_metadata_contain_everything_needed_to_use_the_file():
    calibration = Calibration(0.7, -3.25, ((0.5, None, 0.0, 0.1, 1.0),) * 3)
    network, spec = classifier(classes=("blau", "зелёный", 'r"ed'), resize="crop", calibration=calibration)
    write_onnx(PATH, network, spec)
    model = open_onnx(PATH, 1)
    assert model.calibration == calibration
    session = model.session
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata.pop("classes")) == list(spec.classes)
    assert json.loads(metadata.pop("calibration"))["energy"] == -3.25
    assert metadata == {"image_size": "32", "resize": "crop", "interpolation": "area", "network": "classifier"}
    [given] = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert [(output.name, output.shape) for output in session.get_outputs()] == [
        ("probabilities", ["batch", 3]),
        ("logits", ["batch", 3]),
    ]


@pytest.mark.parametrize(
    "calibration",
    [None, "[]", '{"energy": "low"}', '{"thresholds": [[0, 0, 0, 0, 0]]}', '{"thresholds": [[0], [0], [0]]}'],
)
def test_a_file_without_calibration_or_with_a_wrong_one_is_refused(onnx_file, calibration):
    model = onnx.load(onnx_file)
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != "calibration"}
    onnx.helper.set_model_props(model, metadata | ({"calibration": calibration} if calibration else {}))
    onnx.save(model, PATH)
    with pytest.raises(PipelineError, match=r"^model\.onnx: is not an ONNX file of this pipeline, .*calibration"):
        open_onnx(PATH, 1)


def test_the_file_contains_no_paths_of_this_machine(written):
    content = PATH.read_bytes()
    assert not any(text.encode() in content for text in (".py", "site-packages", str(ROOT), "stack_trace"))


def test_the_same_network_is_written_as_the_same_bytes_without_messages(written, capfd):
    network, spec = written
    write_onnx(Path("again.onnx"), network, spec)
    assert capfd.readouterr() == ("", "")
    assert PATH.read_bytes() == Path("again.onnx").read_bytes()


@pytest.mark.slow
def test_the_same_network_is_written_as_the_same_bytes_in_another_process():
    code = (
        "from pathlib import Path; from pipeline.export.onnx_model import write_onnx; "
        "from tests.export.test_onnx_model import classifier; write_onnx(Path('model.onnx'), *classifier())"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        digests.add(hashlib.sha256(PATH.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "swin_t", "vit_b_16"])
def test_torchvision_networks_agree_with_torch(name):
    network, spec = classifier(name=name, image_size=64)
    write_onnx(PATH, network, spec)
    differences = check_onnx(PATH, network, pixels(spec))
    assert max(differences.values()) < 1e-4
    onnx.checker.check_model(onnx.load(PATH), full_check=True)


def test_a_file_of_another_network_is_rejected(written):
    _, spec = written
    other, _ = classifier(seed=1)
    with pytest.raises(PipelineError, match=r"^model\.onnx: its probabilities differ from torch's by 0\.\d+, allowed"):
        check_onnx(PATH, other, pixels(spec))


def test_a_network_with_output_that_is_not_finite_is_rejected(written):
    network, spec = written
    with torch.no_grad():
        network.classifier.model.output.bias[0] = torch.nan
    with pytest.raises(PipelineError, match=r"differ from torch's by nan"):
        check_onnx(PATH, network, pixels(spec))


class Eigenvalues(nn.Module):
    """A network that ONNX cannot express."""

    def forward(self, images: Tensor) -> Tensor:
        """Return three eigenvalues of each image."""
        return torch.linalg.eigvals(images[:, 0]).real[:, :3]


def test_a_network_that_onnx_cannot_express_is_rejected_in_one_line():
    network = photo_classifier(Eigenvalues(), SPEC)
    with pytest.raises(PipelineError) as error:
        write_onnx(PATH, network, SPEC)
    assert str(error.value).startswith("export: torch ")
    assert "cannot export classifier to ONNX opset 18 (" in str(error.value)
    assert "\n" not in str(error.value)
    assert not PATH.exists()


def test_a_network_too_large_for_one_file_is_rejected_in_one_line(monkeypatch):
    monkeypatch.setattr(onnx_model, "MAX_BYTES", 1000)
    with pytest.raises(PipelineError, match=r"^export: classifier has 0\.0 GiB of weights, allowed in one ONNX file"):
        write_onnx(PATH, *classifier())
