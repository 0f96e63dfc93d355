"""Static quantization of an exported network by onnxruntime: weights and activations as 8-bit integers.

Between the nodes ``QuantizeLinear`` and ``DequantizeLinear`` (QDQ) onnxruntime computes with integers. Each channel of
the weights has a scale of its own; the ranges of the activations are those of the calibration images.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pipeline.errors import PipelineError
from pipeline.network.onnx_file import INPUT

LAYERS = ("Conv", "Gemm", "MatMul")
CALIBRATION_BATCH = 8


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """The calibration images, as onnxruntime asks for them."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(
            pixels[start : start + CALIBRATION_BATCH] for start in range(0, len(pixels), CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The input of the next run; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def write_quantized(source: Path, target: Path, pixels: NDArray[np.uint8]) -> None:
    """Write the quantized network; input, outputs and metadata are those of the source.

    Args:
        source: from stage ``export``.
        target: the file to write.
        pixels: calibration images, ``uint8``, ``(n, image_size, image_size, 3)``.

    Raises:
        PipelineError: the source is quantized already, or has no layer that can be.
    """
    model = onnx.load(source)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # onnxruntime logs a recommendation that does not apply here.
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            model,
            target,
            _Batches(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # With 7 bits for the weights, sums cannot overflow on CPUs without VNNI either: the same on all of them.
            reduce_range=True,
            nodes_to_exclude=_outside(model.graph),
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(level)
    quantized = onnx.load(target)
    onnx.helper.set_model_props(quantized, metadata)
    quantized.doc_string = model.doc_string
    onnx.checker.check_model(quantized, full_check=True)
    target.write_bytes(quantized.SerializeToString(deterministic=True))


def _outside(graph: Any) -> list[str]:
    """The nodes before the first and after the last layer with weights: resizing, normalization and softmax, which are
    cheap, and whose result is the probability, stay as they are."""
    weights = {tensor.name for tensor in graph.initializer}
    layers = [
        number for number, node in enumerate(graph.node) if node.op_type in LAYERS and weights & set(node.input[1:2])
    ]
    if not layers:
        raise PipelineError("quantize: the file has no layer with weights in fp32; give the file that export wrote")
    return [node.name for number, node in enumerate(graph.node) if not layers[0] <= number <= layers[-1]]
