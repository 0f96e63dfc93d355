"""Stage ``tsne``: a picture of what the network learned (van der Maaten & Hinton 2008)."""

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from pipeline.files import replacing, write_json
from pipeline.inference import extract_features, open_trained
from pipeline.models import find_layer
from pipeline.params.tsne import TsneParams
from pipeline.paths import DATASET, METRICS, MODEL, PLOTS
from pipeline.plots.scatter import plot_tsne
from pipeline.progress import say


def tsne(params: TsneParams, seed: int) -> None:
    """Write the coordinates, ``results/plots/tsne.csv``, their picture and ``results/metrics/tsne.json``.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, it has no such layer, or no labels.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    layer = find_layer(model, params.layer, "tsne.layer")
    split = dataset.labelled_split(params.split)
    features = extract_features(model, spec, split, "tsne", layer)
    chosen = spread(len(split), params.max_images)
    say(f"tsne: {len(chosen):,} images of the {split.name} split, {features.shape[1]} features of {params.layer}")
    points, metrics = embed(features[chosen], params, seed)
    names = np.array(spec.classes)
    table = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "class": names[split.labels[chosen]]})
    table["id"] = np.array(split.ids, dtype=object)[chosen]
    with replacing(PLOTS / "tsne.csv") as beside:
        table.to_csv(beside, index=False, float_format="%.4f")
    plot_tsne(PLOTS / "tsne.png", table, spec.classes, f"t-SNE of {params.layer}, {split.name} split")
    write_json(METRICS / "tsne.json", {"split": split.name, "layer": params.layer, "images": len(chosen), **metrics})


def spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` rows, evenly spread, so that a split sorted by class keeps all of them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def embed(features: np.ndarray, params: TsneParams, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Place ``(images, features)`` in the plane: principal components first, then t-SNE started from them.

    Returns:
        The coordinates, ``(images, 2)``, and the divergence and trustworthiness (0 to 1, 1 is best) of the picture.
    """
    components = min(params.pca_components, *features.shape)
    reduced = PCA(components, svd_solver="full", random_state=seed).fit_transform(features)
    # Beyond a third of the images t-SNE has no neighbourhoods left to tell apart.
    perplexity = min(params.perplexity, (len(features) - 1) / 3)
    method = TSNE(init="pca", learning_rate="auto", perplexity=perplexity, random_state=seed)
    points = method.fit_transform(reduced)
    neighbours = min(5, (len(features) - 1) // 2)
    return points, {
        "perplexity": perplexity,
        "kl_divergence": float(method.kl_divergence_),
        "trustworthiness": float(trustworthiness(features, points, n_neighbors=neighbours)),
    }
