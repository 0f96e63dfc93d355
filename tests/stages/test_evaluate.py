"""Stage ``evaluate``."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.params.evaluate import EvaluateParams
from pipeline.paths import METRICS, PLOTS
from pipeline.stages.evaluate import compute_metrics, evaluate


def test_metrics_stand_at_the_top_level_and_say_the_split(trained):
    evaluate(EvaluateParams(split="auto", top_k=2))
    metrics = json.loads((METRICS / "evaluate.json").read_text())
    assert metrics["split"] == "test"
    assert metrics["images"] == 12
    confusion = pd.read_csv(PLOTS / "confusion.csv")
    assert set(confusion["actual"]) == {"blue", "green", "red"}
    assert metrics["accuracy"] == pytest.approx((confusion["actual"] == confusion["predicted"]).mean(), abs=1e-6)
    assert list(pd.read_csv(PLOTS / "classes.csv")["images"]) == [4, 4, 4]
    assert (PLOTS / "confusion_matrix.png").stat().st_size > 5_000


def test_a_top_k_as_large_as_the_number_of_classes_is_refused(trained):
    with pytest.raises(PipelineError, match=r"evaluate.top_k: got 3, allowed is less than .* \(3\)"):
        evaluate(EvaluateParams(split="auto", top_k=3))


def test_a_missing_model_says_how_to_make_it(dataset):
    with pytest.raises(PipelineError, match=r"results/model.safetensors: no such file; run dvc repro train"):
        evaluate(EvaluateParams(split="auto", top_k=2))


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_metrics_agree_with_their_definitions(count, images, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, count, images)
    probabilities = random.dirichlet(np.ones(count), images)
    metrics, by_class = compute_metrics(labels, probabilities, tuple(map(str, range(count))), top_k=2)
    predicted = probabilities.argmax(1)
    assert metrics["accuracy"] == pytest.approx(np.mean(predicted == labels))
    best_two = np.argsort(-probabilities, axis=1)[:, :2]
    assert metrics["top_2_accuracy"] == pytest.approx(
        np.mean([label in two for label, two in zip(labels, best_two, strict=True)])
    )
    for index, row in by_class.iterrows():
        hits = np.sum((predicted == index) & (labels == index))
        assert row["precision"] == pytest.approx(hits / max(np.sum(predicted == index), 1))
        assert row["recall"] == pytest.approx(hits / max(np.sum(labels == index), 1))
        assert row["images"] == np.sum(labels == index)
    for name in ("precision", "recall", "f1"):
        assert metrics[f"macro_{name}"] == pytest.approx(by_class[name].mean())


def test_two_classes_can_be_evaluated():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    metrics, _ = compute_metrics(np.array([0, 1, 1]), probabilities, ("a", "b"), top_k=2)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["top_2_accuracy"] == 1.0
