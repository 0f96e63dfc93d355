"""t-SNE (van der Maaten & Hinton 2008), and metrics of its pictures.

The library and its settings were chosen with ``benchmarks/tsne.py``.
"""

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNE, initialization
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pipeline.common.dataset import evenly_spaced
from pipeline.machine import worker_count
from pipeline.params.schema import TsneParams
from pipeline.progress import progress

NEIGHBOURS = 10
SAMPLE = 5_000
# With fewer images, every other image is a neighbour.
MIN_IMAGES = 5
EARLY_STEPS, STEPS, STEPS_AT_ONCE = 250, 500, 50
EARLY_EXAGGERATION = 12
# With fewer images, threads take longer than one alone.
MIN_IMAGES_FOR_THREADS = 1_000


def embed(
    features: NDArray[np.float32], params: TsneParams, seed: int, label: str
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Embed ``(images, features)`` in 2-D: t-SNE of the principal components, initialised by the first two.

    As Kobak & Berens (2019) and Belkina et al. (2019) recommend: 250 steps with exaggeration 12 and learning rate
    n/12, then 500 with ``params.exaggeration`` and n divided by it. The nearest neighbours are exact: unlike
    approximate ones, they do not depend on the number of threads, and neither does the result.

    Returns:
        The coordinates, ``float64``, ``(images, 2)``; the perplexity, and the Kullback-Leibler divergence in nats.
    """
    components = principal_components(features, params.pca_components, seed)
    # A perplexity above a third of the images would make every neighbourhood the whole dataset.
    perplexity = min(params.perplexity, (len(features) - 1) / 3)
    method = TSNE(
        perplexity=perplexity,
        initialization=first_positions(components, seed),
        neighbors="exact",
        n_jobs=worker_count() if len(features) >= MIN_IMAGES_FOR_THREADS else 1,
        random_state=seed,
    )
    embedding = method.prepare_initial(components)
    early = max(EARLY_EXAGGERATION, params.exaggeration)
    factors = [early] * (EARLY_STEPS // STEPS_AT_ONCE) + [params.exaggeration] * (STEPS // STEPS_AT_ONCE)
    for factor in progress(factors, EARLY_STEPS + STEPS, label, unit="steps", step=STEPS_AT_ONCE):
        embedding.optimize(STEPS_AT_ONCE, exaggeration=factor, learning_rate=len(features) / factor, inplace=True)
    return np.array(embedding), {"perplexity": perplexity, "kl_divergence": float(embedding.kl_divergence)}


def principal_components(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float64]:
    """The first ``count`` principal components, ``float64``, ``(images, at most count)``; zeros if all images are
    the same."""
    # Without the first row, a constant feature is exactly 0, and a large mean costs no precision.
    differences = features.astype(np.float64) - features[0].astype(np.float64)
    count = min(count, *features.shape)
    if not differences.any():
        return np.zeros((len(features), count))
    # The order of summation, and so the last bits, would depend on the number of threads.
    with threadpool_limits(1, "blas"):
        components: NDArray[np.float64] = PCA(count, svd_solver="auto", random_state=seed).fit_transform(differences)
    return components


def first_positions(components: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The first two components, scaled to a standard deviation of 1e-4, with noise that separates equal images."""
    plane = np.zeros((len(components), 2))
    plane[:, : components.shape[1]] = components[:, :2]
    first: NDArray[np.float64]
    if plane.any():
        first = initialization.jitter(initialization.rescale(plane), random_state=seed)
    else:
        first = initialization.random(len(plane), random_state=seed)
    return first


def measure(features: NDArray[np.float32], points: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Rate an embedding, ``(images, 2)``, of ``(images, features)``; the best value of each metric is 1.

    ``trustworthiness`` (Venna & Kaski 2001, 0 to 1) is high if few of the ten nearest neighbours in the embedding are
    far away in the features; it does not use the labels. ``neighbour_purity`` is the share of an image's ten nearest
    neighbours that have its label, ``silhouette`` (Rousseeuw 1987, -1 to 1) says how much closer its own class is than
    the closest other one, both in the embedding. ``feature_neighbour_purity`` and ``feature_silhouette`` are the same
    in the features: what the network has separated; t-SNE moves clusters further apart.

    The memory for trustworthiness grows with the square of the number of images, so at most 5,000, evenly spaced,
    are measured. With fewer than 21 images, half of the others are the neighbours. There is no silhouette if there is
    only one class, or no class has two images.
    """
    rows = evenly_spaced(len(points), SAMPLE)
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


def neighbour_purity(points: NDArray[np.floating], labels: NDArray[np.int64], near: int) -> float:
    """The share of the ``near`` nearest other images that have the same label, over all images, ``(images, ...)``."""
    nearest = NearestNeighbors(n_neighbors=near).fit(points).kneighbors(return_distance=False)
    return float((labels[nearest] == labels[:, None]).mean())
