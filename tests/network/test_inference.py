"""Running a trained network over a packed split."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss

from pipeline.common.dataset import PackedDataset
from pipeline.errors import PipelineError
from pipeline.network.batches import Batches
from pipeline.network.calibrating import fit_calibration
from pipeline.network.device import forward_batch_size
from pipeline.network.inference import check_fits, choose_tta, extract_features, predict_logits
from pipeline.network.models import build_model, find_layer
from pipeline.network.tta import METHODS, variants
from tests.support.models import SPEC
from tests.support.tiny_datasets import MEAN, STD, write_dataset, write_split

SPEC = replace(SPEC, mean=MEAN, std=STD)


@pytest.fixture
def split(tmp_path):
    """One image more than a batch contains."""
    batch_size = forward_batch_size(torch.device("cpu"), SPEC.image_size)
    return write_split(tmp_path, images=batch_size + 1, copies=2)


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")


def build(**changes):
    torch.manual_seed(0)
    spec = replace(SPEC, **changes)
    return build_model(spec), spec


def inputs(split):
    """The plain images, normalised by the definition."""
    pixels = (split.images[:, 0] / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)


@pytest.mark.parametrize("outputs", [3, 1])
def test_probabilities_are_those_of_the_network_and_sum_to_1(split, outputs):
    model, spec = build(outputs=outputs, dropout=0.5)
    probabilities = softmax(predict_logits(model, spec, split, "test"), axis=1)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    with torch.no_grad():
        logits = model.eval()(inputs(split))
    expected = logits.softmax(1) if outputs > 1 else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", ["hflip", "five_crop", "ten_crop", "views"])
def test_test_time_augmentation_averages_the_logits_of_all_variants(split, method):
    model, spec = build()
    given = inputs(split)[-2:]
    shown = variants(given, method)
    if method == "views":
        pixels = (split.images[-2:, 1] / 255 - np.array(MEAN)) / np.array(STD)
        shown.append(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32))
    with torch.no_grad():
        expected = np.mean([model.eval()(images).numpy() for images in shown], axis=0)
    logits = predict_logits(model, spec, split, "test", method)
    np.testing.assert_allclose(logits[-2:], expected, atol=1e-5)
    assert not np.allclose(logits, predict_logits(model, spec, split, "test"), rtol=1e-4)


class Colours(torch.nn.Module):
    """Classifies by the mean colour; ``disturb`` adds to the logits what it finds in the normalised images."""

    def __init__(self, disturb):
        super().__init__()
        self.disturb = disturb

    def forward(self, images):
        return images.mean((2, 3))[:, [2, 1, 0]] + self.disturb(images)


def asymmetry(images):
    left, right = images.chunk(2, dim=-1)
    return 8 * (left - right).mean((2, 3))


def corner(images):
    """Noise whose mean over crops is closer to 0."""
    return images[:, :, :2, :2].mean((2, 3)) - images.mean((2, 3))


@pytest.mark.parametrize(("disturb", "expected"), [(asymmetry, {"hflip", "ten_crop"}), (corner, {"ten_crop"})])
def test_the_method_with_the_lowest_log_loss_on_the_valid_split_is_chosen(tmp_path, disturb, expected):
    dataset = write_dataset(tmp_path, train=4, valid=60, test=5)
    network = Colours(disturb)
    chosen = choose_tta(network, SPEC, dataset, dataset.split("test"), "auto", "evaluate")
    labels = dataset.split("valid").labels
    losses = {name: log_loss(labels, probabilities) for name, probabilities in chosen.valid.items()}
    assert list(losses) == list(METHODS)
    assert min(losses, key=losses.get) == chosen.method
    assert chosen.method in expected
    logits = predict_logits(network, SPEC, dataset.split("valid"), "test", chosen.method).astype(float)
    assert chosen.spec == replace(SPEC, calibration=fit_calibration(logits, labels))
    np.testing.assert_allclose(softmax(logits / chosen.spec.calibration.temperature, 1), chosen.valid[chosen.method])


def test_nothing_is_chosen_if_only_the_image_itself_is_informative(tmp_path):
    dataset = write_dataset(tmp_path, train=4, valid=60)
    pixels = np.load(tmp_path / "valid.npy")
    with_corner = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    with_corner[:, :, :4, :4] = pixels[:, :, :4, :4]
    np.save(tmp_path / "valid.npy", with_corner)
    dataset.manifest.write(tmp_path)
    dataset = PackedDataset(tmp_path)
    network = Colours(lambda images: 4 * images[:, [2, 1, 0], :4, :4].mean((2, 3)))
    chosen = choose_tta(network, SPEC, dataset, dataset.split("valid"), "auto", "evaluate")
    assert (chosen.method, chosen.spec) == ("none", SPEC)
    assert list(chosen.valid) == list(METHODS)


def test_a_given_method_is_compared_with_none_and_none_needs_no_images(tmp_path):
    dataset = write_dataset(tmp_path, train=4, valid=9)
    valid, network = dataset.split("valid"), Colours(corner)
    assert list(choose_tta(network, SPEC, dataset, valid, "hflip", "predict").valid) == ["none", "hflip"]
    none = choose_tta(network, SPEC, dataset, valid, "none", "predict")
    assert (none.method, none.spec, none.valid) == ("none", SPEC, {})
    with pytest.raises(PipelineError, match=r"predict.tta: got views, but the valid split has no augmented views"):
        choose_tta(network, SPEC, dataset, valid, "views", "predict")


def features_of(model, spec, split, layer, rows=None):
    """The features of one layer."""
    features, _ = extract_features(model, spec, split, "test", {layer: find_layer(model, layer, "tsne.layers")}, rows)
    return features[layer]


def test_features_of_a_convolution_are_averaged_over_space(split):
    model, spec = build()
    features = features_of(model, spec, split, "blocks.1.0")
    with torch.no_grad():
        maps = model.blocks[1][0](model.blocks[0](inputs(split)))
    np.testing.assert_allclose(features, maps.mean((2, 3)).numpy(), atol=1e-5)


def test_features_of_a_linear_layer_are_not_changed_by_the_relu_after_it(split):
    model, spec = build()
    features = features_of(model, spec, split, "hidden2.1")
    with torch.no_grad():
        expected = model.hidden2[1](model.hidden1(model.flatten(model.blocks(inputs(split)))))
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
    assert features.min() < 0


@pytest.mark.parametrize("layer", ["blocks.0.2", "blocks.4", "flatten", "hidden1", "output"])
def test_features_of_every_layer_have_one_row_per_image(split, layer):
    model, spec = build()
    features = features_of(model, spec, split, layer)
    assert features.ndim == 2
    assert len(features) == len(split)
    assert features.std(0).max() > 0


@pytest.mark.parametrize("outputs", [3, 1])
def test_one_pass_computes_the_features_of_all_layers_and_the_logits(split, outputs):
    model, spec = build(outputs=outputs)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    names = ["hidden2", "blocks.1", "output"]
    layers = {name: find_layer(model, name, "tsne.layers") for name in names}
    features, logits = extract_features(model, spec, split, "test", layers)
    # Two batches.
    assert len(passes) == 2
    assert list(features) == names
    for name in names:
        np.testing.assert_array_equal(features[name], features_of(model, spec, split, name))
    np.testing.assert_array_equal(logits, predict_logits(model, spec, split, "test"))
    assert logits.shape[1] == max(2, outputs)


def test_only_the_given_rows_are_run(split):
    model, spec = build()
    rows = np.array([0, 3, 7, 200, len(split) - 1])
    some = features_of(model, spec, split, "hidden2", rows)
    np.testing.assert_allclose(some, features_of(model, spec, split, "hidden2")[rows], atol=1e-6)
    seen = []
    model.register_forward_hook(lambda module, images, _: seen.append(len(images[0])))
    features_of(model, spec, split, "hidden2", rows)
    assert seen == [5]


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_removed_even_after_an_error(split, fails):
    model, spec = build()
    layers = {"hidden1": model.hidden1, "blocks": model.blocks}
    handle = model.output.register_forward_pre_hook(lambda *_: 1 / 0) if fails else None
    if fails:
        with pytest.raises(ZeroDivisionError):
            extract_features(model, spec, split, "test", layers)
        handle.remove()
    else:
        extract_features(model, spec, split, "test", layers)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "size", "layer", "features"),
    [
        ("resnet18", 32, "layer1", 64),
        # This layer is called twice in each block.
        ("resnet18", 32, "layer2.0.relu", 128),
        # Its feature maps are (n, h, w, channels).
        ("swin_t", 64, "features.1", 96),
        # Its sequences are (n, tokens, channels).
        ("vit_b_16", 32, "encoder.layers.encoder_layer_0", 768),
    ],
)
def test_features_of_torchvision_models_are_one_per_channel(tmp_path, name, size, layer, features):
    model, spec = build(name=name, image_size=size)
    split = write_split(tmp_path, images=5, size=size)
    assert features_of(model, spec, split, layer).shape == (5, features)


@pytest.mark.parametrize(
    ("name", "size", "layer", "message"),
    [
        ("googlenet", 64, "aux1", "the network does not run aux1"),
        ("vit_b_16", 32, "encoder.layers.encoder_layer_0.self_attention", "self_attention does not return a tensor"),
    ],
    ids=["is not run", "returns a tuple"],
)
def test_layer_without_features_is_refused_by_its_name(tmp_path, name, size, layer, message):
    model, spec = build(name=name, image_size=size)
    if name == "googlenet":
        # As in the pretrained network.
        model.aux1 = torch.nn.Identity()
    split = write_split(tmp_path, images=2, size=size)
    with pytest.raises(PipelineError, match=f"params.yaml: tsne.layers: .*{message}; choose another layer"):
        features_of(model, spec, split, layer)


def test_layer_that_divides_the_images_into_windows_is_refused(split):
    model, spec = build()
    # Two rows per image inside, one row per image at the end, as in swin_t.
    windows = torch.nn.Sequential(torch.nn.Unflatten(1, (2, -1)), torch.nn.Flatten(0, 1))
    model.hidden1.append(windows).append(torch.nn.Unflatten(0, (-1, 2))).append(torch.nn.Flatten(1))
    with pytest.raises(
        PipelineError, match=r"params.yaml: tsne.layers: hidden1.3 does not return one row per image; choose"
    ):
        features_of(model, spec, split, "hidden1.3")


def test_dataset_with_the_classes_and_the_size_of_the_network_is_accepted(tmp_path):
    check_fits(SPEC, write_dataset(tmp_path, train=4))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"classes": 4},
            "contains blue, green, red, white at 32 pixels, the model was trained on blue, green, red at 32",
        ),
        (
            {"size": 64},
            "contains blue, green, red at 64 pixels, the model was trained on blue, green, red at 32",
        ),
    ],
)
def test_dataset_with_other_classes_or_another_size_is_refused(tmp_path, change, line):
    with pytest.raises(PipelineError, match=line):
        check_fits(SPEC, write_dataset(tmp_path, train=4, **change))


def test_same_classes_in_another_order_are_refused_with_their_names(tmp_path):
    spec = replace(SPEC, classes=("red", "green", "blue"))
    with pytest.raises(PipelineError, match=r"run dvc repro") as error:
        check_fits(spec, write_dataset(tmp_path, train=4))
    assert "contains blue, green, red at 32 pixels, the model was trained on red, green, blue" in str(error.value)


def test_images_that_are_stored_larger_than_the_input_are_resized_first(tmp_path):
    model, spec = build()
    split = write_split(tmp_path, 6, 1, size=2 * SPEC.image_size)
    pixels = Batches(split, spec.mean, spec.std, torch.device("cpu"), size=spec.image_size).in_order(6)
    with torch.inference_mode():
        [expected] = [model.eval()(images).numpy() for images, _ in pixels]
    np.testing.assert_allclose(predict_logits(model, spec, split, "test"), expected, atol=1e-5)
