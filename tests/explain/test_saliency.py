"""Saliency maps: the layer that Grad-CAM reads, and whether the maps show what decides the class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

from pipeline.errors import PipelineError
from pipeline.explain.saliency import Grid, Saliency, as_maps, find_grid, grid_of
from pipeline.network.models import Classifier, build_model
from tests.support.models import SPEC

METHODS = ("grad_cam", "occlusion")
SIZE = 64
COLOURS = torch.tensor([(1.5, -1, -1), (-1, 1.5, -1), (-1, -1, 1.5)])


def one_coloured_quadrant(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise with a colour in one quadrant, which alone decides the class; images, classes and quadrants."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.7 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    classes, quadrants = (torch.randint(most, (count,), generator=generator) for most in (3, 4))
    half = SIZE // 2
    for image, label, quadrant in zip(images, classes, quadrants.tolist(), strict=True):
        top, left = (half * part for part in divmod(quadrant, 2))
        image[:, top : top + half, left : left + half] += COLOURS[label][:, None, None]
    return images, classes, quadrants


@pytest.fixture(scope="module")
def trained():
    """A classifier that has learned the colours."""
    torch.manual_seed(0)
    model = Classifier(8, 0.0, SIZE, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(40):
        images, classes, _ = one_coloured_quadrant(32, step)
        nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def attributions(model: nn.Module, method: str, images: torch.Tensor, classes: torch.Tensor, size=SIZE) -> np.ndarray:
    with torch.inference_mode():
        return Saliency(model, replace(SPEC, image_size=size), method).attribute(images, classes).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_the_map_lies_where_the_class_is_decided(trained, method):
    images, classes, quadrants = one_coloured_quadrant(24, 1_000)
    assert (trained(images).argmax(1) == classes).all()
    maps = as_maps(attributions(trained, method, images, classes)).astype(float)
    half = maps.shape[1] // 2
    parts = [maps[:, top : top + half, left : left + half].sum(axis=(1, 2)) for top in (0, half) for left in (0, half)]
    shares = np.stack(parts, axis=1) / maps.sum(axis=(1, 2))[:, None]
    assert (shares.argmax(axis=1) == quadrants.numpy()).all()
    assert shares[range(len(shares)), quadrants].mean() > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_the_map_changes_when_the_weights_are_randomised(trained, method):
    """The sanity check of Adebayo et al. 2018: a map that stays shows the image, not what the network learned."""
    images, classes, _ = one_coloured_quadrant(12, 1_000)
    before = attributions(trained, method, images, classes)
    correlations = []
    for seed in range(3):
        torch.manual_seed(seed)
        random = attributions(Classifier(8, 0.0, SIZE, 3).eval(), method, images, classes)
        correlations += [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(before, random, strict=True)]
    assert abs(np.mean(correlations)) < 0.3
    again = attributions(trained, method, images, classes)
    assert np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(before, again, strict=True)]) > 0.99


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "swin":
        return SwinTransformer([2, 2], 24, [2, 2], [2, 4], [4, 4], num_classes=3)
    if name == "vit":
        return VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=3)
    return build_model(replace(SPEC, name=name, image_size=32))


@pytest.mark.parametrize(
    ("name", "size", "layer", "grid"),
    [
        # The last block at which there are four cells per side.
        ("classifier", 32, "blocks.2", Grid(4, "nchw")),
        ("classifier", 128, "blocks", Grid(4, "nchw")),
        ("resnet18", 32, "layer2", Grid(4, "nchw")),
        ("squeezenet1_1", 96, "features", Grid(5, "nchw")),
        ("swin", 32, "features", Grid(8, "nhwc")),
        # Only the class token leaves the last block.
        ("vit", 32, "encoder.layers.encoder_layer_1", Grid(4, "tokens", 1)),
    ],
)
def test_grad_cam_reads_the_last_layer_with_a_feature_map_that_decides_the_output(name, size, layer, grid):
    model = small(name) if size == 32 else build_model(replace(SPEC, name=name, image_size=size))
    assert find_grid(model.eval(), size) == (layer, grid)


def test_adaptive_pooling_and_layers_that_run_twice_are_not_read():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 3, 1, 1)
            self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Linear(4 * 49, 3)

        def forward(self, images):
            return self.head(self.pool(self.relu(self.conv2(self.relu(self.conv1(images))))).flatten(1))

    torch.manual_seed(0)
    assert find_grid(Twice().eval(), 32) == ("conv2", Grid(4, "nchw"))


def test_a_network_whose_units_are_all_off_has_empty_maps():
    model = build_model(SPEC).eval()
    nn.init.constant_(model.hidden1[1].bias, -1e6)
    values = attributions(model, "grad_cam", torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), 32)
    assert not as_maps(values).any()


@pytest.mark.parametrize("name", ["classifier", "resnet18", "swin", "vit"])
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_network_has_a_finite_map_for_each_image_and_is_not_changed(name, method):
    model = small(name).eval()
    for parameter in (parameters := list(model.parameters()))[-2:]:
        nn.init.normal_(parameter)  # a vision transformer starts with zeros
    images = torch.randn(3, 3, 32, 32)
    before = model(images)
    values = attributions(model, method, images, torch.tensor([0, 1, 2]), 32)
    assert values.shape == (3, *[4 if method == "grad_cam" and name != "swin" else 8] * 2)
    assert np.isfinite(values).all()
    assert (np.abs(values).max(axis=(1, 2)) > 0).all()
    torch.testing.assert_close(model(images), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert parameters[0].grad is None


@pytest.mark.parametrize("method", METHODS)
def test_both_classes_of_a_single_output_have_a_map_and_they_are_opposite(method):
    torch.manual_seed(0)
    model = build_model(replace(SPEC, outputs=1, classes=("a", "b"))).eval()
    images = torch.randn(1, 3, 32, 32)
    first, second = (attributions(model, method, images, torch.tensor([index]), 32) for index in (0, 1))
    np.testing.assert_allclose(first, -second, atol=1e-6)
    assert np.abs(first).max() > 0


def test_grad_cam_is_the_gradient_averaged_over_the_cells_times_the_feature_map():
    torch.manual_seed(0)
    model = build_model(SPEC).eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.blocks[:3](images).detach().requires_grad_()
    logits = model.output(model.hidden2(model.hidden1(model.flatten(model.blocks[3:](features)))))
    (gradient,) = torch.autograd.grad(logits[0, 2] + logits[1, 0], features)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(1).detach()
    found = attributions(model, "grad_cam", images, torch.tensor([2, 0]), 32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


def test_a_network_without_a_feature_map_is_refused_and_occlusion_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(PipelineError, match=r"Grad-CAM: the network has no layer with a feature map .*occlusion"):
        Saliency(model, SPEC, "grad_cam")
    values = attributions(model, "occlusion", torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), 32)
    assert values.shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((2, 512, 7, 7), Grid(7, "nchw")),
        ((2, 7, 7, 768), Grid(7, "nhwc")),
        ((2, 197, 768), Grid(14, "tokens", 1)),
        ((2, 201, 384), Grid(14, "tokens", 5)),
        ((2, 196, 384), Grid(14, "tokens")),
        ((2, 768, 196), None),
        ((2, 1, 49, 768), None),
        ((2, 10), None),
    ],
)
def test_the_grid_in_an_output_is_found_by_its_shape(shape, grid):
    assert grid_of(shape) == grid
    if grid:
        output = torch.randn(shape)
        cells = grid.read(output)
        assert cells.shape[2:] == (grid.side, grid.side)
        assert torch.equal(grid.write(cells, output), output)


def test_maps_are_from_0_to_255_and_empty_if_nothing_speaks_for_the_class():
    values = np.array([[[-1, 0.5], [1, 0]], [[-1, -2], [0, 0]]], np.float32)
    assert as_maps(values).tolist() == [[[0, 128], [255, 0]], [[0, 0], [0, 0]]]
