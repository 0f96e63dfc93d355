"""Occlusion maps."""

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.images.decoding import decode
from pipeline.network.onnx_file import OnnxModel
from pipeline.serve.occlusion import highlighted, occlusion_map


class Corner:
    """A network whose logit of the first class is the brightness of the lower right corner, 4 by 4 pixels."""

    def run(self, outputs, inputs):
        light = inputs["images"][:, -4:, -4:].mean(axis=(1, 2, 3)).astype(np.float32)
        logits = np.stack([light, np.zeros_like(light)], axis=1)
        return np.full_like(logits, 0.5), logits


def test_the_cells_that_the_class_depends_on_are_found():
    model = OnnxModel(Path("model.onnx"), Corner(), "corner", ("a", "b"), 32, "stretch", "area")
    pixels = np.full((32, 32, 3), 50, np.uint8)
    pixels[-4:, -4:] = 250
    cells = occlusion_map(model, pixels)
    assert cells.shape == (8, 8)
    assert cells[-1, -1] == cells.max() == 1
    assert cells[:-2].max() == cells[:, :-2].max() == 0
    picture = decode(highlighted(pixels, cells)).astype(int)
    assert picture[-1, -1].min() > 240
    assert picture[0, 0].max() < 20


def test_an_occlusion_map_ends_at_its_deadline():
    model = OnnxModel(Path("model.onnx"), Corner(), "corner", ("a", "b"), 32, "stretch", "area")
    with pytest.raises(TimeoutError):
        occlusion_map(model, np.zeros((32, 32, 3), np.uint8), deadline=time.monotonic())


def test_a_network_that_does_not_look_at_the_image_has_an_empty_map():
    model = OnnxModel(Path("model.onnx"), Corner(), "corner", ("a", "b"), 32, "stretch", "area")
    assert occlusion_map(model, np.zeros((32, 32, 3), np.uint8)).max() == 0
