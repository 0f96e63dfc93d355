"""Command ``quantize``: write an 8-bit copy of the exported network, and say what it costs."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.common.dataset import PackedDataset, PackedSplit
from pipeline.common.files import replacing, write_text
from pipeline.common.paths import CARD, DATASET
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.experiments.comparison import Comparison, compare, pair, prediction_table, summary_lines, verdict_lines
from pipeline.export.onnx_model import median_seconds
from pipeline.machine import worker_count
from pipeline.network.device import forward_batch_size
from pipeline.network.inference import check_fits
from pipeline.network.onnx_file import OnnxModel, open_onnx
from pipeline.progress import progress, say
from pipeline.quantize.quantizing import write_quantized

CALIBRATION_IMAGES = 256
BATCH_SIZE = 64


def quantize(source: Path) -> None:
    """Write ``NAME_int8.onnx`` beside an exported network, and ``NAME_int8.md``, its model card.

    The ranges of the activations are those of valid images; both networks are compared on the split that ``evaluate``
    used.

    Raises:
        PipelineError: the file, the dataset or the results of ``evaluate`` are missing, or do not fit each other.
    """
    target = source.with_name(f"{source.stem}_int8.onnx")
    dataset, threads = PackedDataset(DATASET), worker_count()
    model = open_onnx(source, threads)
    check_fits(model, dataset)
    split = dataset.split(read_results("evaluate")["split"])
    pixels = dataset.split("valid").sample(CALIBRATION_IMAGES)
    card = target.with_suffix(".md")
    with replacing(target) as path:
        write_quantized(source, path, pixels)
        small = open_onnx(path, threads)
        tables = [_predictions(each, split, label) for each, label in ((model, "fp32"), (small, "int8"))]
        try:
            comparison = compare(pair(*tables))
        except PipelineError as error:
            raise PipelineError(f"quantize: the {split.name} split: {error}") from None
        sizes = [each.stat().st_size / 1e6 for each in (source, path)]
        write_text(card, _card(source, target, sizes, len(pixels), split, comparison))
    say(f"quantize: {target}: {sizes[1]:.2f} MB instead of {sizes[0]:.2f}, calibrated on {len(pixels):,} valid images")
    lines = [f"A is {source}, B is {target}: {len(split):,} images of the {split.name} split"]
    say("\n".join([*lines, *summary_lines(comparison), *verdict_lines(comparison)]))
    for size in (1, _batch_size(split)):
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        old, new = (1000 * _seconds(each, batch) for each in (model, small))
        times = f"fp32 {old:.2f} ms, int8 {new:.2f} ms, {old / new:.2f} times as fast"
        say(f"quantize: batch of {size} on the CPU with {threads:,} threads: {times} (medians)")
    say(f"quantize: {card} describes it; predict and serve take it as --model {target}")


def _batch_size(split: PackedSplit) -> int:
    return forward_batch_size(torch.device("cpu"), split.images.shape[2], BATCH_SIZE)


def _seconds(model: OnnxModel, batch: NDArray[np.uint8]) -> float:
    return median_seconds(lambda: model.run(batch))


def _predictions(model: OnnxModel, split: PackedSplit, label: str) -> pd.DataFrame:
    """The table for ``pair``."""
    if not split.labelled:
        raise PipelineError(f"quantize: the {split.name} split has no labels; evaluate on another split")
    size = _batch_size(split)
    batches = (model.run(np.array(split.images[start : start + size, 0]))[0] for start in range(0, len(split), size))
    probabilities = np.concatenate(list(progress(batches, len(split), f"quantize: {label}", step=size)))
    return prediction_table(split.sources, split.ids, split.labels, probabilities)


def _card(
    source: Path, target: Path, sizes: list[float], calibrated: int, split: PackedSplit, comparison: Comparison
) -> str:
    """The model card of the source if there is one, and a section about the quantized file."""
    accuracy, loss = comparison.accuracy, comparison.log_loss
    whole = source.parent / CARD.name
    card = f"{whole.read_text('utf-8').rstrip()}\n\n" if whole.is_file() else ""
    return f"""{card}## 8-bit integers

`{target.name}` is `{source.name}` after static quantization by onnxruntime (QDQ, weights of each channel in 7 bits, activations in 8), calibrated on {calibrated:,} valid images. It has {sizes[1] / sizes[0]:.0%} of the size, {sizes[1]:.2f} instead of {sizes[0]:.2f} MB, the same input and the same outputs. On the {comparison.images:,} images of the {split.name} split:

| value | fp32 | int8 | difference | 95 % interval of the difference |
| --- | ---: | ---: | ---: | ---: |
| accuracy | {accuracy.a:.4f} | {accuracy.b:.4f} | {accuracy.difference:+.4f} | {accuracy.low:+.4f} to {accuracy.high:+.4f} |
| log loss | {loss.a:.4f} | {loss.b:.4f} | {loss.difference:+.4f} | {loss.low:+.4f} to {loss.high:+.4f} |

Only fp32 is right on {comparison.only_a_right:,} images, only int8 on {comparison.only_b_right:,} (paired bootstrap; McNemar's test: p = {comparison.p_value:.2g}). All other figures of this card are those of fp32.
"""  # noqa: E501
