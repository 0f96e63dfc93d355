"""Networks of timm, one of each kind."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.common.reading import with_checksum
from pipeline.errors import PipelineError
from pipeline.export.onnx_model import check_onnx, write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.inference import PixelClassifier, watching
from pipeline.network.models import (
    OutputLayer,
    build_model,
    build_without_data,
    default_layers,
    find_heads,
    find_layer,
    unused_parameters,
)
from pipeline.network.weights import load_model, save_model
from tests.support.models import SPEC

pytest.importorskip("timm")
# Each with its layers for t-SNE. The input of the fourth is cut into windows, whose positions are in no file.
NETWORKS = {
    "test_resnet": ("layer2", "global_pool"),
    "test_vit": ("blocks.2", "fc_norm"),
    "test_convnext": ("stages.2", "head.pre_logits"),
    "test_efficientnet": ("blocks.2", "global_pool"),
    "test_byobnet": ("stages.1", "head.global_pool"),
    "mobilenetv3_small_050": ("blocks.2", "flatten"),
}
SIZE = 64


def spec_of(name: str, **changes):
    return replace(SPEC, name=f"timm/{name}", image_size=SIZE, **changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_saved_and_loaded_and_has_layers_for_tsne(name, tmp_path):
    torch.manual_seed(0)
    spec = spec_of(name, dropout=0.1, drop_path_rate=0.1)
    model, images = build_model(spec), torch.randn(4, 3, SIZE, SIZE)
    assert [type(head) for _, head in find_heads(model)] == [OutputLayer]
    with torch.no_grad():
        for _ in range(3):
            model.train()(images)  # changes the statistics of batch norm
    save_model(tmp_path / "model.safetensors", model.state_dict(), spec)
    loaded, found = load_model(tmp_path / "model.safetensors")
    assert found == spec
    assert torch.equal(loaded(images), model.eval()(images))
    layers = default_layers(loaded)
    assert layers == NETWORKS[name]
    with watching({layer: find_layer(loaded, layer, "tsne.layers") for layer in layers}) as watch, torch.no_grad():
        features, outputs = watch(loaded, images)
    assert [len(values) for values in features] == [4, 4]
    assert outputs.shape == (4, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_exported(name, tmp_path):
    torch.manual_seed(0)
    spec = spec_of(name)
    network = PhotoClassifier(PixelClassifier(build_model(spec).eval(), spec), spec).eval()
    write_onnx(tmp_path / "model.onnx", network, spec)
    pixels = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8).numpy()
    check_onnx(tmp_path / "model.onnx", network, pixels)


def test_tensors_that_are_in_no_file_are_computed_when_it_is_loaded(tmp_path):
    torch.manual_seed(0)
    spec = spec_of("swinv2_cr_tiny_224")
    model = build_model(spec).eval()
    assert {name for name, _ in model.named_buffers()} - model.state_dict().keys()
    save_model(tmp_path / "model.safetensors", model.state_dict(), spec)
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "model.safetensors")[0](images), model(images))


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("timm/test_convnext", ["width 4"]),
        ("timm/test_vit", ["width 4"]),
        ("timm/densenet121", ["width 4", "drop_path_rate 0.2"]),
        ("timm/hrnet_w18_small", ["width 4", "drop_path_rate 0.2"]),
    ],
)
def test_drop_path_rate_and_dropout_take_effect_or_are_named_as_unused(name, unused):
    spec = replace(SPEC, name=name, image_size=SIZE, dropout=0.3, drop_path_rate=0.2)
    lines = [f"model.{parameter} has no effect on {name}" for parameter in unused]
    assert unused_parameters(build_without_data(spec), spec) == lines


@pytest.mark.parametrize("name", ["resnetblur18", "resnet26d", "regnety_002", "efficientnet_b0", "test_convnext"])
def test_activation_replaces_that_of_the_network(name):
    spec = replace(SPEC, name=f"timm/{name}", image_size=SIZE)
    own, new = (build_without_data(replace(spec, activation=value)) for value in ("default", "mish"))
    mish = [sum(isinstance(module, torch.nn.Mish) for module in model.modules()) for model in (own, new)]
    assert mish[0] == 0
    assert mish[1] > 3
    assert own.state_dict().keys() == new.state_dict().keys()


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "hrnet_w18_small"])
def test_a_network_without_a_choice_of_the_activation_refuses_it_in_one_line(name):
    spec = replace(SPEC, name=f"timm/{name}", image_size=SIZE, activation="mish")
    with pytest.raises(PipelineError, match=f"model.activation: got mish, but timm/{name} has no choice of it; set "):
        build_without_data(spec)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm/resnet18d", {"output_stride": 16, "channels": [32, 64, 128, 256]}),
        ("timm/test_vit", {"depth": 2}),
    ],
)
def test_a_network_with_kwargs_is_saved_and_loaded(name, kwargs, tmp_path):
    spec = replace(SPEC, name=name, image_size=SIZE, kwargs=kwargs)
    model = build_model(spec).eval()
    usual = build_without_data(replace(spec, kwargs={}))
    assert sum(map(torch.numel, model.parameters())) < sum(map(torch.numel, usual.parameters()))
    images = torch.randn(1, 3, SIZE, SIZE)
    save_model(tmp_path / "model.safetensors", model.state_dict(), spec)
    loaded, found = load_model(tmp_path / "model.safetensors")
    assert found == spec
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_output_stride_keeps_the_last_features_of_a_resnet_larger():
    sizes = []
    for kwargs in ({}, {"output_stride": 16}):
        model = build_without_data(replace(SPEC, name="timm/resnet18d", image_size=SIZE, kwargs=kwargs))
        sizes.append(model.forward_features(torch.empty(1, 3, SIZE, SIZE, device="meta")).shape[2:])
    assert sizes == [(2, 2), (4, 4)]


def test_kwargs_do_not_change_the_random_weights_of_the_other_layers():
    built = []
    for kwargs in ({}, {"output_stride": 16}):
        torch.manual_seed(0)
        built.append(build_model(replace(SPEC, name="timm/resnet18d", image_size=SIZE, kwargs=kwargs)).state_dict())
    torch.testing.assert_close(*built, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "kwargs", "line"),
    [
        ("timm/resnet18d", {"output_strid": 16}, "got 'output_strid'; allowed for timm/resnet18d are output_stride"),
        ("timm/resnet18d", {"output_stride": 7}, r"timm/resnet18d refuses {'output_stride': 7} \(AssertionError\)"),
        ("timm/resnet18d", {"drop_rate": 0.1}, "got 'drop_rate'; use model.dropout for it"),
        (
            "timm/resnet18d",
            {"checkpoint_path": "a.pth"},
            "got 'checkpoint_path'; allowed for timm/resnet18d are layers, ",
        ),
    ],
)
def test_wrong_kwargs_are_refused_in_one_line(name, kwargs, line):
    for build in (build_model, build_without_data):
        with pytest.raises(PipelineError, match="^params.yaml: model.kwargs: " + line):
            build(replace(SPEC, name=name, image_size=SIZE, kwargs=kwargs))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet5", r"got 'timm/resnet5', allowed after timm/ are 1,\d+ networks of timm .*, such as timm/resnet50"),
        ("resnet50.a9_in1k", r"got 'timm/resnet50.a9_in1k', .* such as timm/resnet50\.a?"),
        ("hf-hub:someone/model", "got 'timm/hf-hub:someone/model', allowed after timm/"),
        ("local-dir:/tmp", "got 'timm/local-dir:/tmp', allowed after timm/"),
        ("", "got 'timm/', allowed after timm/"),
        ("qwen3_vit_88m_enc", "timm/qwen3_vit_88m_enc does not classify images; choose another"),
    ],
)
def test_a_name_that_timm_does_not_have_is_one_line_with_similar_names(name, line):
    with pytest.raises(PipelineError, match=f"params.yaml: model.name: {line}") as error:
        build_without_data(spec_of(name))
    assert "\n" not in str(error.value)


def test_a_tag_of_published_weights_belongs_to_the_name():
    assert build_without_data(spec_of("test_resnet.r160_in1k")).num_classes == 3


def test_without_timm_one_line_says_how_to_install_it(monkeypatch, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, build_model(spec_of("test_resnet")).state_dict(), spec_of("test_resnet"))
    monkeypatch.setitem(sys.modules, "timm", None)
    line = r"timm/test_resnet needs the package timm; install it: pip install .*'.\[timm\]'"
    with pytest.raises(PipelineError, match=f"params.yaml: model.name: {line}"):
        build_model(spec_of("test_resnet"))
    with pytest.raises(PipelineError, match=line):
        load_model(path)


def test_a_weights_file_cannot_name_a_folder_or_a_repository_of_a_hub(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    spec = spec_of("local-dir:/tmp")
    text = json.dumps(with_checksum({**asdict(spec), "weights": "00000000"}))
    save_file({"a": torch.zeros(1)}, path, {"spec": text})
    with pytest.raises(PipelineError, match=r"its metadata are of no network: model.name: got 'timm/local-dir:/tmp'"):
        load_model(path)
