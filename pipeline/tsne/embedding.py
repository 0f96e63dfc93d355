"""t-SNE (van der Maaten & Hinton 2008), and measures of what it shows.

The library and its settings were chosen by ``benchmarks/tsne.py``.
"""

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNE, initialization
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pipeline.machine import worker_count
from pipeline.params.schema import TsneParams
from pipeline.progress import progress

NEIGHBOURS = 10
SAMPLE = 5_000
# In threes neighbours are no choice.
FEWEST = 5
EARLY_STEPS, STEPS, STEPS_AT_ONCE = 250, 500, 50
EARLY_EXAGGERATION = 12
# With fewer images the threads wait for each other longer than they work.
WORTH_THREADS = 1_000


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``count`` rows, evenly spread, so that a split sorted by class keeps all of them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def embed(
    features: NDArray[np.float32], params: TsneParams, seed: int, label: str
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Place ``(images, features)`` in the plane: principal components first, then t-SNE started from the first two.

    As Kobak & Berens (2019) and Belkina et al. (2019) advise: 250 steps with an exaggeration of 12 and a learning
    rate of n/12, then 500 with ``params.exaggeration`` and n divided by that. The neighbours are exact ones: unlike
    approximate ones they do not depend on the number of threads, so neither does the result.

    Returns:
        The coordinates, ``float64``, ``(images, 2)``, and the perplexity and the divergence of the picture, in nats.
    """
    components = principal_components(features, params.pca_components, seed)
    # Beyond a third of the images t-SNE has no neighbourhoods left to tell apart.
    perplexity = min(params.perplexity, (len(features) - 1) / 3)
    method = TSNE(
        perplexity=perplexity,
        initialization=first_positions(components, seed),
        neighbors="exact",
        n_jobs=worker_count() if len(features) >= WORTH_THREADS else 1,
        random_state=seed,
    )
    picture = method.prepare_initial(components)
    early = max(EARLY_EXAGGERATION, params.exaggeration)
    factors = [early] * (EARLY_STEPS // STEPS_AT_ONCE) + [params.exaggeration] * (STEPS // STEPS_AT_ONCE)
    for factor in progress(factors, EARLY_STEPS + STEPS, label, unit="steps", step=STEPS_AT_ONCE):
        picture.optimize(STEPS_AT_ONCE, exaggeration=factor, learning_rate=len(features) / factor, inplace=True)
    return np.array(picture), {"perplexity": perplexity, "kl_divergence": float(picture.kl_divergence)}


def principal_components(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float64]:
    """The first ``count`` principal components, ``float64``, ``(images, at most count)``; zeros where all images are
    alike."""
    # The first row taken off, a feature that never changes is exactly 0, and a large mean hides no small difference.
    differences = features.astype(np.float64) - features[0].astype(np.float64)
    count = min(count, *features.shape)
    if not differences.any():
        return np.zeros((len(features), count))
    # Several threads would add up in another order for each number of them.
    with threadpool_limits(1, "blas"):
        components: NDArray[np.float64] = PCA(count, svd_solver="auto", random_state=seed).fit_transform(differences)
    return components


def first_positions(components: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The first two components, scaled to a standard deviation of 1e-4, and a little noise that parts equal images."""
    plane = np.zeros((len(components), 2))
    plane[:, : components.shape[1]] = components[:, :2]
    first: NDArray[np.float64]
    if plane.any():
        first = initialization.jitter(initialization.rescale(plane), random_state=seed)
    else:
        first = initialization.random(len(plane), random_state=seed)
    return first


def measure(features: NDArray[np.float32], points: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Rate a picture, ``(images, 2)``, of ``(images, features)``; each measure is best at 1.

    ``trustworthiness`` (Venna & Kaski 2001, 0 to 1) says how few of the ten nearest neighbours in the picture are
    far away in the features; it knows no labels. ``neighbour_purity`` is the share of an image's ten nearest others
    that have its label, ``silhouette`` (Rousseeuw 1987, -1 to 1) how much nearer its own class is than the next one,
    both in the picture. ``feature_neighbour_purity`` and ``feature_silhouette`` are the same in the features: what
    the network has separated, whatever the picture makes of it, which tears clusters further apart.

    As the memory of trustworthiness grows with the square of the images, all are measured on at most 5,000 of them,
    evenly spread; among fewer than 21 the neighbours are half of the others. No silhouette is given where there is
    one class, or none has two images.
    """
    rows = spread(len(points), SAMPLE)
    features, points, labels = features[rows].astype(np.float64), points[rows], labels[rows]
    near = min(NEIGHBOURS, (len(rows) - 1) // 2)
    with threadpool_limits(1, "blas"):
        measures = {
            "trustworthiness": float(trustworthiness(features, points, n_neighbors=near)),
            "neighbour_purity": neighbour_purity(points, labels, near),
            "feature_neighbour_purity": neighbour_purity(features, labels, near),
        }
        if 2 <= len(np.unique(labels)) < len(labels):
            measures["silhouette"] = float(silhouette_score(points, labels))
            measures["feature_silhouette"] = float(silhouette_score(features, labels))
    return measures


def neighbour_purity(places: NDArray[np.floating], labels: NDArray[np.int64], near: int) -> float:
    """The share of the ``near`` nearest other images that have the same label, over all images of ``(images, ...)``."""
    nearest = NearestNeighbors(n_neighbors=near).fit(places).kneighbors(return_distance=False)
    return float((labels[nearest] == labels[:, None]).mean())
