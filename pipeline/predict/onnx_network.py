"""An ONNX file where a weights file is usual, such as the 8-bit copy that ``quantize`` writes."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.network.inference import PixelClassifier
from pipeline.network.models import ModelSpec
from pipeline.network.onnx_file import OnnxModel


class OnnxNetwork(PixelClassifier):
    """Runs an ONNX file on the CPU; input and output are those of ``PixelClassifier``, on its device."""

    def __init__(self, model: OnnxModel) -> None:
        nn.Module.__init__(self)
        self.onnx = model
        self.register_buffer("scale", torch.ones(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits; pixels that are not ``uint8`` are rounded."""
        probabilities, logits = self.onnx.run(images.round().to(torch.uint8).cpu().numpy())
        return torch.from_numpy(probabilities).to(images.device), torch.from_numpy(logits).to(images.device)


def spec_of(model: OnnxModel) -> ModelSpec:
    """The specification; what is inside the file, such as the mean, is that of a network which leaves pixels alone."""
    classes, still = model.classes, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    resizing = model.image_size, model.resize, model.interpolation
    spec = ModelSpec(model.network, 1, 0.0, "default", len(classes), *resizing, classes, *still)
    return replace(spec, calibration=model.calibration)
