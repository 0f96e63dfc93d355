"""Stage ``tsne``: embed the features of some layers in two dimensions and draw them."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.dataset import PackedDataset, PackedSplit, evenly_spaced
from pipeline.common.files import write_table
from pipeline.common.paths import DATASET, MODEL, PLOTS
from pipeline.common.results import write_results
from pipeline.errors import PipelineError
from pipeline.network.inference import extract_features, open_trained
from pipeline.network.models import default_layers, find_layer
from pipeline.params.schema import TsneParams
from pipeline.plots.style import saved_figure
from pipeline.progress import say
from pipeline.tsne.embedding import MIN_IMAGES, embed, measure
from pipeline.tsne.plots import plot_tsne

TABLE = ["x", "y", "class", "id", "predicted_class", "correct"]
LAYERS_TABLE = ["layer", "id", "label", "class", "predicted_class", "x", "y"]


def tsne(params: TsneParams, seed: int) -> None:
    """Write the coordinates of each layer, ``results/plots/tsne_layers.csv``, those of the last one, ``tsne.csv``,
    the picture of all layers, and the metrics of the last layer with their details.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, it has no such layer, the features are not
            finite, or there are no labels.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    chosen = default_layers(model) if params.layers == "auto" else params.layers
    layers = {name: find_layer(model, name, "tsne.layers") for name in chosen}
    split = _split_with_enough(dataset, params.split)
    if len(split) < MIN_IMAGES:
        return _write_nothing(split, chosen[-1])
    rows = evenly_spaced(len(split), params.max_images)
    features, logits = extract_features(model, spec, split, "tsne", layers, rows)
    images = _describe(split, rows, spec.classes, logits.argmax(axis=1))
    tables, results = {}, {}
    for name, values in features.items():
        _check(name, values)
        say(f"tsne: {len(rows):,} images of the {split.name} split, {values.shape[1]:,} features of {name}")
        points, results[name] = embed(values, params, seed, f"tsne of {name}")
        if results[name]["perplexity"] < params.perplexity:
            perplexity = results[name]["perplexity"]
            say(f"tsne: note: tsne.perplexity is {perplexity:.3g} instead of {params.perplexity:g}: a third of them")
        results[name] |= measure(values, points, split.labels[rows])
        tables[name] = pd.concat([pd.DataFrame(points, columns=["x", "y"]), images], axis=1)
    _write_tables(tables)
    captions = {
        name: f"{name}: {results[name]['neighbour_purity']:.1%} of neighbours have the same class" for name in layers
    }
    plot_tsne(PLOTS / "tsne.png", tables, spec.classes, captions, f"t-SNE, {split.name} split")
    last = results[chosen[-1]]
    details = {"split": split.name, "layer": chosen[-1], "images": len(rows), **last, "layers": results}
    write_results("tsne", {"purity": last["neighbour_purity"]}, details, PLOTS / "tsne_layers.csv")


def _split_with_enough(dataset: PackedDataset, choice: str) -> PackedSplit:
    """The chosen split; train if it has too few images."""
    split = dataset.labelled_split(choice)
    if len(split) >= MIN_IMAGES or split.name == "train":
        return split
    say(
        f"tsne: note: the {split.name} split has {len(split)} images, t-SNE needs {MIN_IMAGES}: it embeds train instead"
    )
    return dataset.split("train")


def _write_nothing(split: PackedSplit, layer: str) -> None:
    """Write all outputs without a point, so that the stages after this one run."""
    line = f"the {split.name} split has {len(split)} images, t-SNE needs {MIN_IMAGES}"
    say(f"tsne: note: {line}: there is nothing to draw")
    write_table(PLOTS / "tsne.csv", pd.DataFrame(columns=TABLE))
    write_table(PLOTS / "tsne_layers.csv", pd.DataFrame(columns=LAYERS_TABLE))
    with saved_figure(PLOTS / "tsne.png", 7, 0.8) as figure:
        figure.suptitle(f"No t-SNE: {line}")
    details = {"split": split.name, "layer": layer, "images": 0, "layers": {}}
    write_results("tsne", {}, details, PLOTS / "tsne_layers.csv")


def _check(layer: str, features: NDArray[np.float32]) -> None:
    """Reject features that are not finite, and warn if they are the same for every image."""
    if not np.isfinite(features).all():
        raise PipelineError(f"{MODEL}: the features of {layer} are not finite; lower train.lr and train again")
    if not np.ptp(features, axis=0).any():
        say(f"tsne: warning: {layer} has the same features for every image, so its picture shows noise")


def _describe(
    split: PackedSplit, rows: NDArray[np.int64], classes: tuple[str, ...], predicted: NDArray[np.int64]
) -> pd.DataFrame:
    """The id, class and prediction of each image, one row per image."""
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


def _write_tables(tables: dict[str, pd.DataFrame]) -> None:
    """Write the points of all layers to one table, and those of the last layer to another one, for DVC's plot."""
    *_, last = tables.values()
    write_table(PLOTS / "tsne.csv", last[TABLE], "%.4f")
    points = pd.concat([table.assign(layer=name) for name, table in tables.items()])
    write_table(PLOTS / "tsne_layers.csv", points[LAYERS_TABLE], "%.4f")
