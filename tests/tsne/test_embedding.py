"""t-SNE and the metrics of its pictures."""

import os
import subprocess
import sys

import numpy as np
import pytest
from openTSNE import TSNEEmbedding
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score

from pipeline import progress as progress_module
from pipeline.common.dataset import evenly_spaced
from pipeline.params.schema import TsneParams
from pipeline.tsne import embedding
from pipeline.tsne.embedding import (
    MIN_IMAGES,
    embed,
    first_positions,
    measure,
    neighbour_purity,
    principal_components,
)
from tests.support.sections import TSNE

PARAMS = TsneParams(**TSNE)


@pytest.fixture
def quick(monkeypatch):
    """Few steps, for what does not need a good picture."""
    monkeypatch.setattr(embedding, "EARLY_STEPS", 50)
    monkeypatch.setattr(embedding, "STEPS", 50)


def blobs(images=120, features=16, classes=3, apart=8.0, seed=0):
    """Gaussian classes, ``float32``, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    return (random.normal(0, apart, (classes, features))[labels] + random.normal(0, 1, (images, features))).astype(
        np.float32
    ), labels


def test_neighbours_stay_neighbours_and_the_same_seed_gives_the_same_picture():
    digits = load_digits()
    pixels, labels = digits.data[:200].astype(np.float32), digits.target[:200]
    points, about = embed(pixels, PARAMS, 1, "test")
    again, _ = embed(pixels, PARAMS, 1, "test")
    np.testing.assert_array_equal(points, again)
    assert about["perplexity"] == 30
    assert 0 < about["kl_divergence"] < 1
    measures = measure(pixels, points, labels)
    assert measures["trustworthiness"] > 0.95
    assert measures["neighbour_purity"] > 0.85


@pytest.mark.parametrize(("factor", "early"), [(1.0, 12), (4.0, 12), (20.0, 20)])
def test_the_steps_are_those_that_the_authors_recommend(monkeypatch, factor, early):
    """Belkina et al. 2019: learning rate n/12 while the exaggeration is 12."""
    calls = []
    optimize = TSNEEmbedding.optimize

    def spy(self, n_iter, **settings):
        calls.append((n_iter, settings["exaggeration"], settings["learning_rate"]))
        return optimize(self, 1, **settings)

    monkeypatch.setattr(TSNEEmbedding, "optimize", spy)
    embed(blobs(240)[0], PARAMS.model_copy(update={"exaggeration": factor}), 1, "test")
    assert [steps for steps, *_ in calls] == [50] * 15
    assert {call[1:] for call in calls[:5]} == {(early, 240 / early)}
    assert {call[1:] for call in calls[5:]} == {(factor, 240 / factor)}


def test_exaggeration_makes_clusters_tighter():
    """Böhm, Berens & Kobak 2022."""
    features, labels = blobs(150, apart=2.0)
    plain, tight = (
        embed(features, PARAMS.model_copy(update={"exaggeration": factor}), 1, "test")[0] for factor in (1.0, 8.0)
    )
    assert silhouette_score(tight, labels) > silhouette_score(plain, labels) + 0.05


def test_the_initial_positions_are_the_first_two_components_scaled_down():
    features, _ = blobs()
    components = principal_components(features, 5, 1)
    start = first_positions(components, 1)
    assert start[:, 0].std() == pytest.approx(1e-4, rel=0.02)
    for axis in range(2):
        assert abs(np.corrcoef(start[:, axis], components[:, axis])[0, 1]) > 0.99


@pytest.mark.parametrize("shape", [(60, 7), (60, 200), (400, 30)])
def test_the_components_are_those_of_the_singular_value_decomposition(shape):
    # A large mean must not cost precision.
    features = np.random.default_rng(0).normal(1e4, 1, shape)
    components = principal_components(features, 5, 1)
    left, values, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(components), np.abs((left * values)[:, :5]), atol=1e-4 if shape[1] < 200 else 2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_picture_does_not_depend_on_the_threads(monkeypatch, quick, threads):
    features, _ = blobs(400, 24)
    # Duplicates: their order among the neighbours is arbitrary.
    features = np.concatenate([features, features[:100]])
    monkeypatch.setattr(embedding, "MIN_IMAGES_FOR_THREADS", len(features) + 1)
    alone, _ = embed(features, PARAMS, 1, "test")
    monkeypatch.setattr(embedding, "MIN_IMAGES_FOR_THREADS", 1)
    monkeypatch.setenv("PIPELINE_WORKERS", str(threads))
    np.testing.assert_array_equal(embed(features, PARAMS, 1, "test")[0], alone)


@pytest.mark.slow
def test_the_picture_does_not_depend_on_the_process_or_its_threads():
    """1,200 images use Barnes-Hut, 10,000 use interpolation."""
    script = """if True:
        import hashlib
        from pipeline.tsne import embedding
        from tests.tsne.test_embedding import PARAMS, blobs
        embedding.EARLY_STEPS = embedding.STEPS = embedding.STEPS_AT_ONCE = 10
        for images in (1_200, 10_000):
            features, labels = blobs(images, 60)
            points, _ = embedding.embed(features, PARAMS, 1, "test")
            print(hashlib.sha256(points).hexdigest(), embedding.measure(features[:300], points[:300], labels[:300]))
    """
    outputs = set()
    for threads in ("1", "2"):
        settings = {"OMP_NUM_THREADS": threads, "PIPELINE_WORKERS": threads, "OMP_WAIT_POLICY": "passive"}
        run = subprocess.run([sys.executable, "-c", script], env=os.environ | settings, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize("images", [*range(MIN_IMAGES, 16), 31, 91])
def test_few_images_have_a_picture_and_metrics(quick, images):
    features, labels = blobs(images)
    points, about = embed(features, PARAMS, 1, "test")
    assert points.shape == (images, 2)
    assert np.isfinite(points).all()
    assert about["perplexity"] == min(30, (images - 1) / 3)
    measures = measure(features, points, labels)
    assert {0 <= value <= 1 for name, value in measures.items() if "silhouette" not in name} == {True}


@pytest.mark.parametrize(
    "features",
    [
        np.full((30, 8), 0.1, np.float32),
        np.zeros((30, 8), np.float32),
        np.repeat(blobs(2)[0], 15, axis=0),
        np.concatenate([np.zeros((29, 8), np.float32), np.ones((1, 8), np.float32)]),
        blobs(30, features=1)[0],
        blobs(30, features=2)[0],
        blobs(30)[0] * 1e15,
        blobs(30)[0] * 1e-15,
    ],
    ids=["constant", "zero", "two distinct", "one outlier", "one feature", "two features", "huge", "tiny"],
)
@pytest.mark.filterwarnings("error")
def test_degenerate_features_have_a_picture(features):
    points, about = embed(features, PARAMS, 1, "test")
    assert np.isfinite(points).all()
    assert np.isfinite(about["kl_divergence"])
    assert len(np.unique(points, axis=0)) > 1
    assert np.isfinite(list(measure(features, points, np.arange(30) % 3).values())).all()


def test_equal_images_are_next_to_each_other():
    features, _ = blobs(60)
    points, _ = embed(np.concatenate([features, features[:5]]), PARAMS, 1, "test")
    apart = np.linalg.norm(points[:5] - points[60:], axis=1)
    assert apart.max() < 0.2 * np.ptp(points)


def test_the_metrics_agree_with_their_definitions():
    features, labels = blobs(90, apart=2.0)
    points = features[:, :2].astype(np.float64)
    measures = measure(features, points, labels)
    assert measures["trustworthiness"] == pytest.approx(trustworthiness(features, points, n_neighbors=10))
    assert measures["silhouette"] == pytest.approx(silhouette_score(points, labels))
    assert measures["feature_silhouette"] == pytest.approx(silhouette_score(features.astype(np.float64), labels))
    for name, places in (("neighbour_purity", points), ("feature_neighbour_purity", features)):
        distances = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        nearest = distances.argsort(axis=1)[:, :10]
        assert measures[name] == pytest.approx(np.mean(labels[nearest] == labels[:, None]))


def test_a_perfect_picture_has_the_best_metrics_and_a_shuffled_one_has_not():
    features, labels = blobs(90, features=2, apart=30.0)
    perfect = measure(features, features.astype(np.float64), labels)
    assert perfect["trustworthiness"] == perfect["neighbour_purity"] == 1
    assert perfect["silhouette"] == perfect["feature_silhouette"] > 0.8
    shuffled = measure(features, np.random.default_rng(0).permutation(features), labels)
    assert shuffled["trustworthiness"] < 0.7
    assert shuffled["neighbour_purity"] == pytest.approx(1 / 3, abs=0.1)
    assert shuffled["silhouette"] < 0.1
    assert shuffled["feature_neighbour_purity"] == 1


@pytest.mark.parametrize(
    ("labels", "purity"),
    [
        (np.zeros(12, int), 1.0),
        (np.arange(12), 0.0),
        # The only image of its class has no neighbour of its class, and is one of the five nearest of five others.
        (np.array([1] + [0] * 11), (5 * 4 + 6 * 5) / 60),
    ],
    ids=["one class", "one class per image", "one image apart"],
)
def test_classes_of_any_size_have_metrics(labels, purity):
    # The nearest neighbours are the ones before it.
    line = 2.0 ** np.arange(12)[:, None] * [1.0, 0.1]
    measures = measure(line, line, labels)
    assert ("silhouette" in measures) == (len(set(labels)) == 2)
    assert measures["neighbour_purity"] == measures["feature_neighbour_purity"] == pytest.approx(purity)


@pytest.mark.parametrize(("places", "purity"), [([0, 1, 2.5, 10, 11, 12.5], 1), ([0, 1, 10, 2.5, 11, 12.5], 1 / 2)])
def test_purity_is_the_share_of_neighbours_of_the_same_class(places, purity):
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert neighbour_purity(np.array(places, float)[:, None], labels, 1) == pytest.approx(purity)


def test_many_images_are_measured_on_an_evenly_spaced_sample(monkeypatch):
    monkeypatch.setattr(embedding, "SAMPLE", 40)
    features, labels = blobs(100)
    points = features[:, :2].astype(np.float64)
    rows = evenly_spaced(100, 40)
    assert measure(features, points, labels) == measure(features[rows], points[rows], labels[rows])


def test_progress_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    embed(blobs(30)[0], PARAMS, 1, "tsne of hidden2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tsne of hidden2: 50 of 750 steps")
    assert len(lines) == 15
