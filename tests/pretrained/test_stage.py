"""The weights that training starts from: a library's, a file's or an earlier run's, in the names of our network."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.common.paths import PRETRAINED
from pipeline.errors import PipelineError
from pipeline.network.models import build_model, find_head
from pipeline.network.pretrained import Origin, read_pretrained
from pipeline.pretrained.stage import pretrained
from tests.support.models import SPEC

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def bring(name="resnet18", weights=True, image_size=32, stem="default") -> Origin:
    """Run the stage, and return what it says about the weights."""
    pretrained(name, 4, stem, {}, weights, image_size)
    return read_pretrained().origin


def started(name="resnet18", image_size=32, **changes):
    """A network that starts from the file of the stage, and the notes of ``train``."""
    torch.manual_seed(0)
    spec = replace(SPEC, name=name, image_size=image_size, **changes)
    model = build_model(spec)
    return model, read_pretrained().load_into(model, spec.classes)


def assert_refused(line: str, **arguments) -> str:
    with pytest.raises(PipelineError, match=line) as error:
        bring(**arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_weights_the_file_has_no_tensors_and_train_refuses_it(workspace):
    pretrained("classifier", 4, "default", {}, False, 32)
    assert PRETRAINED.stat().st_size < 400
    with pytest.raises(PipelineError, match=r"it has no weights.*dvc repro --force pretrained"):
        read_pretrained()


def test_weights_that_cannot_be_downloaded_are_one_line_with_url_path_and_sha256(tmp_path, monkeypatch):
    # A proxy that refuses connections, so that machines with a network fail in the same way.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    # urllib reads the proxies at its first request.
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    line = assert_refused(r"params.yaml: model.pretrained: the weights of resnet18 cannot be downloaded \(")
    for part in (
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "hub/checkpoints",
        "begins with f37072fd",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [
        ("resnet18", "ResNet18_Weights", 32),
        ("squeezenet1_1", "SqueezeNet1_1_Weights", 32),
        ("googlenet", "GoogLeNet_Weights", 32),
        ("inception_v3", "Inception_V3_Weights", 96),
        ("mnasnet0_5", "MNASNet0_5_Weights", 32),
        ("efficientnet_b0", "EfficientNet_B0_Weights", 32),
    ],
)
def test_weights_in_the_hub_cache_are_loaded_with_a_new_last_layer(workspace, monkeypatch, name, weights, size):
    from torchvision import models

    torch.manual_seed(7)
    options = {"aux_logits": True, "init_weights": False} if "_v3" in name or "google" in name else {}
    state = models.get_model(name, **options).state_dict()
    path = workspace / "hub/checkpoints" / Path(getattr(models, weights).DEFAULT.url).name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    monkeypatch.setenv("TORCH_HOME", str(workspace))
    origin = bring(name, image_size=size)
    # torchvision's own modules of these two convert their input, ours do not.
    expected = ((0.5,) * 3,) * 2 if options else IMAGENET
    assert (origin.mean, origin.std, origin.image_size) == (*expected, 299 if size == 96 else 224)
    model, notes = started(name, size)
    first = next(iter(state))
    assert torch.equal(model.state_dict()[first], state[first])
    assert "the last layer is new, since that of the weights has 1,000 outputs" in notes[-1]
    # Zeros would stay zeros before a ReLU, so that a convolution is initialised as torch does it.
    head = find_head(model)[1].weight
    assert 0.5 < head.abs().max() * head[0].numel() ** 0.5 <= 1 if head.ndim == 4 else not head.any()
    outputs = model(torch.randn(2, 3, size, size))
    assert isinstance(outputs, torch.Tensor)
    assert outputs.shape == (2, 3)


def test_weights_of_another_network_whose_last_layer_has_the_same_name_are_one_line(workspace):
    from torchvision import models

    path = workspace / "weights.pth"
    torch.save(models.efficientnet_b0().state_dict(), path)
    bring("efficientnet_b0", weights=str(path))
    with pytest.raises(PipelineError, match="it is for another network: classifier"):
        started("timm/tf_efficientnet_lite0")


def test_a_file_with_more_tensors_of_the_first_layer_than_a_small_stem_has_is_read(workspace):
    from torchvision import models

    path = workspace / "weights.pth"
    torch.save(models.resnet18().state_dict() | {"conv1.bias": torch.zeros(64)}, path)
    bring(weights=str(path), stem="small")
    model, _ = started(stem="small")
    assert model.conv1.bias is None


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("fc.weight", lambda t: t.to_sparse(), "the tensor fc.weight is sparse or nested; allowed are dense"),
        ("fc.weight", lambda t: t.to(torch.float8_e4m3fn), "the tensor fc.weight is of the type torch.float8_e4m3fn; "),
        ("conv1.weight", lambda t: t > 0, "the tensor conv1.weight is of the type torch.bool; allowed are dense"),
        ("conv1.weight", lambda t: t.to(torch.complex64), "the tensor conv1.weight is of the type torch.complex64; "),
        ("fc.weight", lambda _: torch.tensor(1.0), r"fc.weight is \[\], resnet18 needs \[2, 512\]"),
        (
            "fc.weight",
            lambda _: torch.zeros(1).expand(10**6, 512),
            r"fc.weight is \[1000000, 512\], but the file does not",
        ),
    ],
    ids=["sparse", "float8", "bool", "complex", "one number", "expanded"],
)
def test_a_tensor_that_is_no_array_of_numbers_is_one_line(workspace, name, change, line):
    from torchvision import models

    state = models.resnet18().state_dict()
    path = workspace / "weights.pth"
    torch.save(state | {name: change(state[name])}, path)
    assert_refused(line, weights=str(path))
    assert path.stat().st_size < 10**8


def test_a_checkpoint_that_contains_itself_is_one_line(workspace):
    content: dict = {}
    content["model"] = content
    torch.save(content, workspace / "weights.pth")
    assert_refused("weights.pth has 0 of the 60 weights of resnet18", weights=str(workspace / "weights.pth"))


class Program:
    """Runs a program when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def hub_file(workspace, monkeypatch):
    """The file of resnet18 in torch's hub cache, in which another user may have written it."""
    monkeypatch.setenv("TORCH_HOME", str(workspace))
    (workspace / "hub/checkpoints").mkdir(parents=True)
    return workspace / "hub/checkpoints/resnet18-f37072fd.pth"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("is_path", [True, False])
def test_a_file_runs_no_program(hub_file, zipped, is_path):
    torch.save({"conv1.weight": Program()}, hub_file, _use_new_zipfile_serialization=zipped)
    line = f"params.yaml: model.pretrained: {hub_file} contains no usable weights (Weights only load failed"
    assert_refused(re.escape(line), weights=str(hub_file) if is_path else True)
    assert not Path("ran").exists()


def test_another_file_than_the_publishers_is_named(hub_file, capsys):
    torch.save(build_model(replace(SPEC, name="resnet18")).state_dict(), hub_file)
    bring()
    assert f"model.pretrained: warning: {hub_file} is another file than the publisher's" in capsys.readouterr().out


def test_a_file_with_one_tensor_or_half_of_a_file_is_one_line(workspace):
    torch.save({"prototypes": torch.zeros(10, 512)}, "one.pth")
    assert_refused(r"one\.pth has 0 of the 60 weights of resnet18 before its last layer", weights="one.pth")
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "half.safetensors")
    content = Path("half.safetensors").read_bytes()
    Path("half.safetensors").write_bytes(content[: len(content) // 2])
    assert_refused(r"half.safetensors contains no usable weights \(", weights="half.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 damaged", b"<html>log in</html>", b"\xff" * 8 + b"{", None])
def test_a_damaged_file_or_a_pipe_in_the_hub_cache_is_one_line(hub_file, content):
    if content is None:
        os.mkfifo(hub_file)
    else:
        hub_file.write_bytes(content)
    assert_refused(
        rf"params.yaml: model.pretrained: {hub_file} contains no usable weights \(.*\); remove it, so that it is down"
    )
