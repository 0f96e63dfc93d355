"""Stage ``explain``: saliency maps of images of the evaluated split, for the report."""

import base64
import itertools
from io import BytesIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.common.dataset import PackedSplit, evenly_spaced
from pipeline.common.files import write_json
from pipeline.common.paths import DATASET, EVALUATION, MODEL, SALIENCY
from pipeline.common.reading import checked_bytes, reading, with_checksum
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.explain.saliency import Saliency, as_maps
from pipeline.network.device import choose_device
from pipeline.network.inference import open_trained, run_model
from pipeline.network.models import ModelSpec
from pipeline.params.schema import ExplainParams
from pipeline.progress import say

PREDICTIONS = EVALUATION / "predictions.csv"
# The report shows at most this many mistakes, and fewer hits of each class.
MISTAKES, HITS = 1_000, 8


def explain(params: ExplainParams) -> None:
    """Write ``results/saliency.json``: for each image, by its id, the map of its predicted class, and for a mistake
    also that of its true class. A map is base64 of ``side`` × ``side`` bytes, row by row.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, the predictions are missing or of other images,
            Grad-CAM finds no layer, or a map is not finite.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    evaluated = read_results("evaluate")
    with reading(PREDICTIONS):
        content = checked_bytes(PREDICTIONS, evaluated["files"].get(PREDICTIONS.as_posix()))
        columns = ["id", "label", "predicted", "correct", "confidence"]
        images = pd.read_csv(BytesIO(content), usecols=columns, dtype={"id": str}, keep_default_na=False)
    split = dataset.split(evaluated["split"])
    if images["id"].tolist() != list(split.ids):
        raise PipelineError(f"{PREDICTIONS}: has other images than {DATASET}; run dvc repro evaluate")
    chosen = images.iloc[choose_rows(images, params.max_images)]
    wrong = chosen[chosen["correct"] == 0]
    saliency = Saliency(model.to(choose_device()), spec, params.method)
    rows = np.concatenate([chosen.index, wrong.index])
    classes = np.concatenate([chosen["predicted"], wrong["label"]])
    maps = compute_maps(saliency, spec, split, rows, classes)
    of_predicted, of_true = maps[: len(chosen)], maps[len(chosen) :]
    empty = int((of_predicted.max(axis=(1, 2), initial=0) == 0).sum())
    facts = {"method": params.method, "layer": saliency.layer, "side": saliency.side, "split": split.name}
    counts = {"images": len(split), "explained": len(chosen), "empty": empty}
    texts = {"predicted": _by_id(chosen["id"], of_predicted), "true": _by_id(wrong["id"], of_true)}
    write_json(SALIENCY, with_checksum({**facts, **counts, **texts}))
    layer = f" of {saliency.layer}" if saliency.layer else ""
    say(
        f"explain: {params.method}{layer}, {saliency.side}×{saliency.side} cells, for {len(chosen):,} of the "
        f"{len(split):,} images of the {split.name} split"
    )
    if empty:
        say(f"explain: note: for {empty:,} of them no part speaks for the predicted class: their maps are empty")


def choose_rows(images: pd.DataFrame, most: int) -> NDArray[np.int64]:
    """The rows to explain, at most ``most``, ascending: the most confident mistakes, the surest hits of each class,
    and of the other images an evenly spaced sample."""
    ordered = images.sort_values("confidence", ascending=False, kind="stable")
    hits = ordered[ordered["correct"] == 1]
    rank = hits.groupby("predicted").cumcount()
    first = [*ordered.index[ordered["correct"] == 0][:MISTAKES], *rank[rank < HITS].sort_values(kind="stable").index]
    first = first[:most]
    others = np.setdiff1d(np.arange(len(images)), first)
    sample = others[evenly_spaced(len(others), most - len(first))]
    return np.sort(np.concatenate([np.array(first, np.int64), sample]))


def compute_maps(
    saliency: Saliency, spec: ModelSpec, split: PackedSplit, rows: NDArray[np.int64], classes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The map of each row for the class next to it, ``uint8``, ``(rows, side, side)``.

    Raises:
        PipelineError: one of them is not finite.
    """
    if not len(rows):
        return np.zeros((0, saliency.side, saliency.side), np.uint8)
    left = iter(classes.tolist())

    def attribute(model: nn.Module, images: Tensor) -> Tensor:
        targets = list(itertools.islice(left, len(images)))
        return saliency.attribute(images, images.new_tensor(targets).long())

    values = run_model(saliency.model, spec, split, "explain", attribute, rows=rows)
    if not np.isfinite(values).all():
        raise PipelineError(f"{MODEL}: the gradient of its output is not finite; train it with a lower train.lr")
    return as_maps(values)


def _by_id(ids: pd.Series, maps: NDArray[np.uint8]) -> dict[str, str]:
    return {name: base64.b64encode(cells.tobytes()).decode() for name, cells in zip(ids, maps, strict=True)}
