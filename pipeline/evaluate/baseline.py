"""What the pretrained network is worth before it is trained: scikit-learn's classifiers on its features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from pipeline.common.dataset import PackedDataset, PackedSplit
from pipeline.common.paths import PRETRAINED
from pipeline.common.reading import reading
from pipeline.common.shares import wilson
from pipeline.network.inference import extract_features
from pipeline.network.models import ModelSpec, build_model, default_layers, find_layer
from pipeline.network.pretrained import read_pretrained

# Near the best of both for 5 to 375 food photos per class and the features of EfficientNet-Lite0.
NEIGHBORS, C = 10, 10.0


def has_pretrained_weights() -> bool:
    """Whether ``model.pretrained`` was not false.

    Raises:
        PipelineError: ``data/pretrained.safetensors`` is missing or damaged.
    """
    with reading(PRETRAINED), safe_open(PRETRAINED, "np") as file:
        return bool(list(file.keys()))


def evaluate_baseline(dataset: PackedDataset, spec: ModelSpec, split: PackedSplit) -> dict[str, Any]:
    """Fit a logistic regression and k nearest neighbors to the features of the plain training images.

    The features are those of the layer before the last of ``data/pretrained.safetensors``, scaled to unit length.

    Returns:
        ``logistic_regression`` and ``k_nearest_neighbors``: the accuracy on ``split`` with its 95 % interval.

    Raises:
        PipelineError: the file is missing, damaged or has no weights.
    """
    model = build_model(spec)
    read_pretrained().load_into(model, spec.classes)
    layer = default_layers(model)[-1]
    layers = {layer: find_layer(model, layer, "evaluate.baseline")}

    def features(part: PackedSplit) -> NDArray[np.float32]:
        found, _ = extract_features(model, spec, part, f"evaluate, baseline, {part.name}", layers)
        scaled: NDArray[np.float32] = normalize(found[layer])
        return scaled

    train = dataset.split("train")
    x, judged = features(train), features(split)
    classifiers = {
        "logistic_regression": LogisticRegression(C=C, max_iter=1000),
        "k_nearest_neighbors": KNeighborsClassifier(min(NEIGHBORS, len(x)), weights="distance"),
    }
    return {
        name: _share(classifier.fit(x, train.labels).predict(judged) == split.labels)
        for name, classifier in classifiers.items()
    }


def _share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    low, high = wilson(hits.sum(), len(hits)).tolist()
    return {"accuracy": float(hits.mean()), "interval": {"low": low, "high": high}}
