"""Stage ``export``: export the network to ONNX and write its model card."""

import numpy as np
import torch

from pipeline.common.files import replacing, write_text
from pipeline.common.paths import CARD, DATASET, MODEL, ONNX
from pipeline.common.results import read_results
from pipeline.export.model_card import Run, model_card
from pipeline.export.onnx_model import OPSET, TOLERANCE, check_onnx, time_onnx, write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.device import forward_batch_size
from pipeline.network.inference import PixelClassifier, open_trained
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from pipeline.progress import say

CHECKED_IMAGES = 256
LARGEST_BATCH = 64


def export(data: DataParams, augment: AugmentParams, model: ModelParams, train: TrainParams, seed: int) -> None:
    """Write ``results/model.onnx``, checked against torch on valid images, and ``results/model_card.md``.

    The parameters are only for the card; the network and its classes come from the weights file.

    Raises:
        PipelineError: the model or the results of a stage are missing, the network cannot be exported to ONNX, or the
            probabilities of the file differ from torch's.
    """
    dataset, network, spec = open_trained(DATASET, MODEL)
    results = [read_results(name) for name in ("audit", "train", "evaluate")]
    run = Run(spec, data, augment, model, train, seed, *results)
    classifier = PhotoClassifier(PixelClassifier(network, spec), spec).eval()
    pixels = dataset.split("valid").sample(CHECKED_IMAGES)
    batch_size = forward_batch_size(torch.device("cpu"), spec.image_size, LARGEST_BATCH)
    with replacing(ONNX) as path:
        write_onnx(path, classifier, spec)
        differences = check_onnx(path, classifier, pixels, batch_size)
    write_text(CARD, model_card(run, OPSET, TOLERANCE, len(pixels)))
    largest = ", ".join(f"{difference:.1e} in {name}" for name, difference in differences.items())
    say(f"export: {ONNX} agrees with torch on {len(pixels):,} valid images; largest differences: {largest}")
    # Only printed: in a file, times would change the hash of a DVC output.
    for size in (1, batch_size):
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        ours, theirs = (1000 * seconds for seconds in time_onnx(ONNX, classifier, batch))
        say(f"export: batch of {size} on the CPU: onnxruntime {ours:.2f} ms, torch {theirs:.2f} ms (medians)")
    say(f"export: {CARD} describes the model")
