"""Stage ``tsne``."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from pipeline.errors import PipelineError
from pipeline.params.tsne import TsneParams
from pipeline.paths import METRICS, PLOTS
from pipeline.stages.tsne import embed, spread, tsne

PARAMS = {"layer": "hidden2", "split": "auto", "max_images": 5000, "pca_components": 50, "perplexity": 30.0}


@pytest.mark.parametrize("layer", ["blocks.2", "hidden1", "output"])
def test_every_layer_can_be_drawn(trained, layer):
    tsne(TsneParams(**{**PARAMS, "layer": layer}), seed=1)
    points = pd.read_csv(PLOTS / "tsne.csv")
    assert list(points.columns) == ["x", "y", "class", "id"]
    assert len(points) == 12
    metrics = json.loads((METRICS / "tsne.json").read_text())
    assert metrics["layer"] == layer
    assert metrics["perplexity"] == pytest.approx(11 / 3, abs=1e-6)
    assert (PLOTS / "tsne.png").stat().st_size > 5_000


def test_an_unknown_layer_is_refused_with_the_layers_there_are(trained):
    with pytest.raises(PipelineError, match=r"tsne.layer: got 'head', allowed are the layers blocks, .*output"):
        tsne(TsneParams(**{**PARAMS, "layer": "head"}), seed=1)


def test_neighbours_stay_neighbours_and_the_same_seed_gives_the_same_picture():
    pixels = load_digits().data[:300].astype(np.float32)
    points, metrics = embed(pixels, TsneParams(**PARAMS), seed=1)
    again, _ = embed(pixels, TsneParams(**PARAMS), seed=1)
    assert metrics["trustworthiness"] > 0.95
    np.testing.assert_array_equal(points, again)


@pytest.mark.parametrize(("count", "most"), [(10, 5), (5, 10), (1000, 999), (1, 10)])
def test_rows_are_spread_evenly_and_never_twice(count, most):
    rows = spread(count, most)
    assert len(rows) == len(set(rows)) == min(count, most)
    assert rows[0] == 0
    assert rows[-1] in (0, count - 1)
