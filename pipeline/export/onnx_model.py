"""The network as an ONNX file, from photos of any size to class probabilities, and its check against torch."""

import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.models import ModelSpec
from pipeline.network.onnx_file import CALIBRATION, INPUT, OUTPUTS, open_onnx

# From 2022: older runtimes support it, and the networks need nothing newer.
OPSET = 18
TOLERANCE = 1e-4
# The limit of one file: protobuf counts bytes in 31 bits.
MAX_BYTES = 2**31 - 1


def write_onnx(path: Path, network: PhotoClassifier, spec: ModelSpec) -> None:
    """Export a network on the CPU to ONNX, for photos and batches of any size; the same network is the same bytes.

    The file's metadata contain ``classes`` (a JSON list), ``calibration`` (a JSON object), ``image_size``, ``resize``,
    ``interpolation`` and ``network``.

    Raises:
        PipelineError: torch cannot express the network in ONNX, or it is too large for one file.
    """
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > MAX_BYTES:
        raise PipelineError(
            f"export: {spec.name} has {size / 2**30:.1f} GiB of weights, allowed in one ONNX file are 2; choose a "
            "smaller model.name"
        )
    model = _exported(network, spec)
    _strip(model)
    # The oldest version with these operators, so that older runtimes can read the file.
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    metadata = {
        CALIBRATION: json.dumps(asdict(spec.calibration)),
        "classes": json.dumps(spec.classes, ensure_ascii=False),
        "image_size": str(spec.image_size),
        "interpolation": spec.interpolation,
        "network": spec.name,
        "resize": spec.resize,
    }
    onnx.helper.set_model_props(model, metadata)
    model.doc_string = (
        f"{INPUT}: RGB pixels, uint8, (n, height, width, 3), of any size. {OUTPUTS[0]}, {OUTPUTS[1]}: "
        f"float32, (n, {len(spec.classes)}). The metadata have the classes in order, and limits for answers."
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _exported(network: PhotoClassifier, spec: ModelSpec) -> onnx.ModelProto:
    # torch.export would treat a batch of one as a constant, and equal sides as one.
    example = torch.zeros(2, spec.image_size + 2, spec.image_size + 1, 3, dtype=torch.uint8)
    sizes = {axis: torch.export.Dim(name, min=1) for axis, name in enumerate(("batch", "height", "width"))}
    # The messages of torch, onnxscript and onnx_ir are not for the user.
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                network.eval(),
                (example,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={INPUT: sizes},
                verbose=False,
            )
        assert program is not None  # only without dynamo
        return program.model_proto
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise PipelineError(
            f"export: torch {torch.__version__} cannot export {spec.name} to ONNX opset {OPSET} ({reason}); choose "
            "another model.name"
        ) from None
    finally:
        logging.disable(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove references to the source code with paths of this machine: the file would differ between machines."""
    graph = model.graph
    for part in [*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info, graph]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    # The local version, such as +cu128 or +cpu, differs between machines.
    model.producer_version = model.producer_version.partition("+")[0]


@torch.inference_mode()
def check_onnx(
    path: Path, network: PhotoClassifier, pixels: NDArray[np.uint8], batch_size: int = 64
) -> dict[str, float]:
    """Compare an ONNX file with the network in torch, both in fp32 on the CPU: all images in batches, one alone, and
    one in two other sizes.

    Args:
        path: the ONNX file.
        network: on the CPU.
        pixels: ``uint8``, ``(n, image_size, image_size, 3)``.
        batch_size: images at once.

    Returns:
        The largest absolute difference for each of ``OUTPUTS``.

    Raises:
        PipelineError: probabilities differ by more than ``TOLERANCE``, or logits by more than ``TOLERANCE`` times the
            largest logit, if that is above 1.
    """
    session = open_onnx(path, torch.get_num_threads()).session
    differences = dict.fromkeys(OUTPUTS, 0.0)
    one = pixels[:1]
    # Their resized pixels are whole numbers without rounding, so that no last bit decides between two of them.
    larger, smaller = one.repeat(3, axis=1).repeat(3, axis=2), one[:, :1, :1]
    batches = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]
    for batch in (*batches, one, larger, smaller):
        expected = [output.numpy() for output in network(torch.tensor(batch))]
        for name, ours, theirs in zip(OUTPUTS, expected, session.run(OUTPUTS, {INPUT: batch}), strict=True):
            difference = float(np.abs(ours - theirs).max())
            # The negation also catches NaN.
            if not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
                raise PipelineError(
                    f"{path}: its {name} differ from torch's by {difference:.2g}, allowed is {TOLERANCE:.0e}; "
                    "try another version of torch or onnxscript"
                )
            differences[name] = max(differences[name], difference)
    return differences


@torch.inference_mode()
def time_onnx(path: Path, network: PhotoClassifier, pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Median seconds that onnxruntime and torch take for one batch ``pixels``, on the CPU."""
    model, images = open_onnx(path, torch.get_num_threads()), torch.tensor(pixels)
    return median_seconds(lambda: model.run(pixels)), median_seconds(lambda: network(images))


def median_seconds(work: Callable[[], object], least: int = 3, most: int = 30, seconds: float = 2.0) -> float:
    """The median of at least ``least`` runs, for up to ``seconds``, after a first one that is not counted."""
    work()
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < seconds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
