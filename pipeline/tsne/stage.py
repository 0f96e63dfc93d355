"""Stage ``tsne``: pictures of what the layers of the network learned."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.dataset import PackedSplit
from pipeline.common.files import replacing, write_json
from pipeline.common.paths import DATASET, METRICS, MODEL, PLOTS
from pipeline.errors import PipelineError
from pipeline.network.inference import extract_features, open_trained
from pipeline.network.models import find_layer
from pipeline.params.schema import TsneParams
from pipeline.progress import say
from pipeline.tsne.embedding import FEWEST, embed, measure, spread
from pipeline.tsne.plots import plot_tsne


def tsne(params: TsneParams, seed: int) -> None:
    """Write the coordinates of each layer, ``results/plots/tsne_layers.csv``, those of the last one, ``tsne.csv``
    beside it, the picture of all and ``results/metrics/tsne.json``.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, it lacks a layer, a layer gives no numbers, or
            there are no labels or hardly any images.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    layers = {name: find_layer(model, name, "tsne.layers") for name in params.layers}
    split = dataset.labelled_split(params.split)
    rows = chosen_rows(split, params.max_images)
    features, logits = extract_features(model, spec, split, "tsne", layers, rows)
    images = described(split, rows, spec.classes, logits.argmax(axis=1))
    tables, metrics = {}, {}
    for name, values in features.items():
        check_numbers(name, values)
        say(f"tsne: {len(rows):,} images of the {split.name} split, {values.shape[1]:,} features of {name}")
        points, metrics[name] = embed(values, params, seed, f"tsne of {name}")
        metrics[name] |= measure(values, points, split.labels[rows])
        tables[name] = pd.concat([pd.DataFrame(points, columns=["x", "y"]), images], axis=1)
    write_tables(tables)
    captions = {
        name: f"{name}: {metrics[name]['neighbour_purity']:.1%} of neighbours share the class" for name in layers
    }
    plot_tsne(PLOTS / "tsne.png", tables, spec.classes, captions, f"t-SNE, {split.name} split")
    about = {"split": split.name, "layer": params.layers[-1], "images": len(rows)}
    write_json(METRICS / "tsne.json", {**about, **metrics[params.layers[-1]], "layers": metrics})


def chosen_rows(split: PackedSplit, most: int) -> NDArray[np.int64]:
    """The rows of the images that are drawn.

    Raises:
        PipelineError: they are too few.
    """
    if len(split) < FEWEST:
        raise PipelineError(
            f"{DATASET}: the {split.name} split has {len(split)} images, t-SNE needs {FEWEST}; set tsne.split to train"
        )
    return spread(len(split), most)


def check_numbers(layer: str, features: NDArray[np.float32]) -> None:
    """Refuse what no distance can be taken of, and tell of a layer that sees no difference between the images.

    Raises:
        PipelineError: some features are infinite or not a number.
    """
    if not np.isfinite(features).all():
        raise PipelineError(
            f"{MODEL}: {layer} gives values that are infinite or not a number; lower train.lr and train again"
        )
    if not np.ptp(features, axis=0).any():
        say(f"tsne: warning: {layer} gives the same for every image, so its picture shows noise")


def described(
    split: PackedSplit, rows: NDArray[np.int64], classes: tuple[str, ...], predicted: NDArray[np.int64]
) -> pd.DataFrame:
    """What is known of each image, a row an image."""
    names, labels = np.array(classes, dtype=object), split.labels[rows]
    return pd.DataFrame(
        {
            "class": names[labels],
            "id": np.array(split.ids, dtype=object)[rows],
            "label": labels,
            "predicted_class": names[predicted],
            "correct": (labels == predicted).astype(int),
        }
    )


def write_tables(tables: dict[str, pd.DataFrame]) -> None:
    """Write the points of all layers, and once more those of the last one, for DVC's scatter plot."""
    layered = pd.concat([table.assign(layer=name) for name, table in tables.items()])
    columns = {
        "tsne.csv": ["x", "y", "class", "id", "predicted_class", "correct"],
        "tsne_layers.csv": ["layer", "id", "label", "class", "predicted_class", "x", "y"],
    }
    for file, table in (("tsne.csv", list(tables.values())[-1]), ("tsne_layers.csv", layered)):
        with replacing(PLOTS / file) as beside:
            table[columns[file]].to_csv(beside, index=False, float_format="%.4f")
