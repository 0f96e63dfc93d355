"""The architectures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.network.models import (
    ConvBlock,
    build_model,
    build_without_data,
    class_logits,
    default_layers,
    find_layer,
    unused_parameters,
)
from tests.support.models import SPEC

ROOT = Path(__file__).parents[2]


def build(**changes) -> nn.Module:
    torch.manual_seed(0)
    return build_model(replace(SPEC, **changes))


def assert_refused(line: str, **changes) -> None:
    with pytest.raises(PipelineError, match=line) as error:
        build(**changes)
    assert "\n" not in str(error.value)


def test_network_of_the_homework_has_12_83_million_parameters():
    model = build(width=64, image_size=128, outputs=11)
    assert sum(weights.numel() for weights in model.parameters()) / 1e6 == pytest.approx(12.83, abs=0.005)


@pytest.mark.parametrize("size", [32, 64, 96, 160, 224])
@pytest.mark.parametrize("outputs", [1, 2, 101])
def test_classifier_takes_any_multiple_of_32_and_any_number_of_classes(size, outputs):
    model = build(image_size=size, outputs=outputs, dropout=0.3)
    result = model(torch.randn(2, 3, size, size))
    assert result.shape == (2, outputs)
    result.square().mean().backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in model.parameters())


@pytest.mark.parametrize("name", ["classifier", "resnet18", "mobilenet_v3_small"])
def test_last_layer_computes_in_fp32_under_autocast(name):
    model, images = build(name=name, image_size=64).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images)
    assert found.dtype == torch.float32
    # More digits than bf16 has, so it is not only converted.
    assert not torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_pooling_before_relu_equals_relu_before_pooling(training):
    torch.manual_seed(0)
    block = ConvBlock(3, 8).train(training)
    conv, norm, pool, relu = block
    nn.init.normal_(norm.weight)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(block(images), pool(relu(norm(conv(images)))))


def test_channels_last_computes_the_same_as_the_default_layout():
    model = build().eval()
    images = torch.randn(2, 3, 32, 32)
    assert model.blocks[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    default = build().to(memory_format=torch.contiguous_format).eval()
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), default(images))


def test_global_seed_decides_the_weights():
    first, again = build().state_dict(), build().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(1)
    other = build_model(SPEC).state_dict()
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_dropout_is_active_only_in_training():
    model, images = build(dropout=0.5), torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 32),
        ("mobilenet_v3_small", 32),
        ("efficientnet_b0", 32),
        ("squeezenet1_1", 32),
        ("shufflenet_v2_x0_5", 32),
        ("mnasnet0_5", 32),
        ("densenet121", 32),
        ("regnet_y_400mf", 32),
        ("googlenet", 32),
        ("inception_v3", 96),
        ("alexnet", 64),
        ("vgg11", 32),
        ("swin_t", 32),
    ],
)
def test_torchvision_models_train_and_predict_at_the_size_of_the_dataset(name, size):
    model = build(name=name, image_size=size)
    images = torch.randn(2, 3, size, size)
    result = model(images)
    assert result.shape == (2, 3)
    functional.cross_entropy(result, torch.tensor([0, 2])).backward()
    assert any(weights.grad.abs().sum() > 0 for weights in model.parameters())
    with torch.no_grad():
        assert model.eval()(images).isfinite().all()


@pytest.mark.parametrize(("stem", "side"), [("default", 8), ("small", 32)])
def test_small_stem_of_a_resnet_keeps_the_resolution(stem, side):
    model, seen = build(name="resnet18", stem=stem), []
    model.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert seen == [(2, 64, side, side)]


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121"])
def test_small_stem_of_other_networks_keeps_more_resolution(name):
    small, default = (build(name=name, stem=stem).features(torch.randn(2, 3, 64, 64)) for stem in ("small", "default"))
    assert small.shape[2] >= 2 * default.shape[2]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("resnet81", "resnet18"), ("clasifier", "classifier"), ("ResNet18", "resnet18"), ("?", "classifier")],
)
def test_unknown_name_is_refused_with_similar_names(name, suggestion):
    line = rf"params.yaml: model.name: got '{re.escape(name)}', allowed are classifier and .* such as .*{suggestion}"
    assert_refused(line, name=name)


@pytest.mark.parametrize("name", ["raft_small", "fcn_resnet50", "quantized_resnet18"])
def test_network_that_does_not_classify_images_is_refused(name):
    assert_refused("params.yaml: model.name: got ", name=name)


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("classifier", ["drop_path_rate 0.2"]),
        ("resnet18", ["width 4", "dropout 0.77", "drop_path_rate 0.2"]),
        ("densenet121", ["width 4", "dropout 0.77", "drop_path_rate 0.2"]),
        ("googlenet", ["width 4", "drop_path_rate 0.2"]),
        ("efficientnet_b0", ["width 4"]),
        ("swin_t", ["width 4"]),
    ],
)
def test_drop_path_rate_and_dropout_take_effect_or_are_named_as_unused(name, unused):
    spec = replace(SPEC, name=name, dropout=0.77, drop_path_rate=0.2)
    model = build_without_data(spec)
    assert unused_parameters(model, spec) == [f"model.{parameter} has no effect on {name}" for parameter in unused]
    used = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert used == (set() if "dropout 0.77" in unused else {0.77})


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "swin_t"])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_drop_path_rate_is_that_of_the_last_block(name, rate):
    model = build_without_data(replace(SPEC, name=name, drop_path_rate=rate))
    found = [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, pytest.approx(rate))


def test_the_dropout_of_densenet_is_one_of_its_arguments():
    model = build(name="densenet121", kwargs={"drop_rate": 0.2})
    assert {module.drop_rate for module in model.modules() if hasattr(module, "drop_rate")} == {0.2}


@pytest.mark.parametrize(
    ("name", "kwargs", "line"),
    [
        ("resnet18", {"weights": "DEFAULT"}, "got 'weights'; allowed for resnet18 are layers, "),
        ("regnet_y_400mf", {"foo": 1}, "got 'foo'; allowed for regnet_y_400mf are stem_width, "),
    ],
)
def test_wrong_kwargs_are_refused_in_one_line(name, kwargs, line):
    for function in (build_model, build_without_data):
        with pytest.raises(PipelineError, match="^params.yaml: model.kwargs: " + line):
            function(replace(SPEC, name=name, kwargs=kwargs))


def test_dropout_0_disables_that_of_torchvision():
    assert {
        module.p for module in build(name="squeezenet1_1", dropout=0.0).modules() if isinstance(module, nn.Dropout)
    } == {0}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("classifier", ("blocks.2", "hidden2")),
        ("resnet18", ("layer2", "avgpool")),
        ("squeezenet1_1", ("features.7", "features")),
        ("mobilenet_v3_small", ("features.6", "classifier.1")),
    ],
)
def test_default_layers_are_the_middle_block_and_the_layer_before_the_last(name, layers):
    assert default_layers(build(name=name)) == layers


@pytest.mark.parametrize("size", [32, 64, 224])
def test_vision_transformer_takes_the_image_size_of_the_dataset(size):
    assert build(name="vit_b_16", image_size=size)(torch.randn(1, 3, size, size)).shape == (1, 3)


def test_small_stem_leaves_a_network_as_it_is_that_keeps_the_resolution_already():
    small, default = (build(name="vgg11", image_size=64, stem=stem).features for stem in ("small", "default"))
    assert [module.extra_repr() for module in small] == [module.extra_repr() for module in default]


def test_class_logits_of_two_or_more_outputs_are_the_outputs():
    outputs = torch.randn(4, 3)
    assert class_logits(outputs) is outputs


def test_layer_is_found_by_its_dotted_name():
    model = build()
    assert find_layer(model, "blocks.1.0", "tsne.layer") is model.blocks[1][0]
    assert find_layer(model, "hidden2", "tsne.layer") is model.hidden2


@pytest.mark.parametrize("name", ["head", "", "blocks.9", "blocks.0.0.weight"])
def test_unknown_layer_is_refused_with_existing_layers(name):
    with pytest.raises(
        PipelineError,
        match=r"params.yaml: tsne.layer: got '.*', allowed are auto and the layers of the network, such as \w+",
    ) as error:
        find_layer(build(), name, "tsne.layer")
    assert "\n" not in str(error.value)
