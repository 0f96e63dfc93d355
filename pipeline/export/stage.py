"""Stage ``export``: the network as ONNX, and its model card."""

import numpy as np
from numpy.typing import NDArray

from pipeline.common.dataset import PackedSplit
from pipeline.common.files import replacing, write_text
from pipeline.common.paths import CARD, DATASET, METRICS, MODEL, ONNX
from pipeline.export.model_card import Run, model_card, read_metrics
from pipeline.export.onnx_model import OPSET, TOLERANCE, check_onnx, time_onnx, write_onnx
from pipeline.network.inference import PixelClassifier, open_trained
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from pipeline.progress import say

CHECKED_IMAGES = 256
TIMED_BATCHES = (1, 64)


def export(data: DataParams, augment: AugmentParams, model: ModelParams, train: TrainParams, seed: int) -> None:
    """Write ``results/model.onnx``, checked against torch on valid images, and ``results/model_card.md``.

    The parameters are for the card to state; the network and its classes come from the weights file.

    Raises:
        PipelineError: there is no model or no metrics file, the network cannot be written as ONNX, or the file gives
            other probabilities than torch.
    """
    dataset, network, spec = open_trained(DATASET, MODEL)
    audit, training, evaluation = (read_metrics(METRICS / f"{name}.json") for name in ("audit", "train", "evaluate"))
    run = Run(spec, data, augment, model, train, seed, audit, training, evaluation)
    classifier = PixelClassifier(network, spec).eval()
    pixels = _some_images(dataset.split("valid"))
    with replacing(ONNX) as beside:
        write_onnx(beside, classifier, spec)
        differences = check_onnx(beside, classifier, pixels)
    write_text(CARD, model_card(run, OPSET, TOLERANCE, len(pixels)))
    largest = ", ".join(f"{difference:.1e} in {name}" for name, difference in differences.items())
    say(f"export: {ONNX} agrees with torch on {len(pixels):,} valid images; the largest differences: {largest}")
    # Printed alone: in a file that DVC caches a time would change its hash.
    for size in TIMED_BATCHES:
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        onnx, torch = (1000 * seconds for seconds in time_onnx(ONNX, classifier, batch))
        say(f"export: batch of {size} on the CPU: onnxruntime {onnx:.2f} ms, torch {torch:.2f} ms (medians)")
    say(f"export: {CARD} describes the model")


def _some_images(split: PackedSplit) -> NDArray[np.uint8]:
    """Plain images spread evenly over a split, ``uint8``, ``(n, image_size, image_size, 3)``, n up to
    ``CHECKED_IMAGES``."""
    rows = np.linspace(0, len(split) - 1, min(len(split), CHECKED_IMAGES)).round().astype(int)
    return np.array(split.images[rows, 0])
