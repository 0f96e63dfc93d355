"""What to do next: each rule applies to its problem, and not to a small difference."""

import pandas as pd
import pytest

from pipeline.report.advice import (
    advise,
    confused_classes,
    contradictory_labels,
    few_images,
    leaks,
    not_better_than_before,
    other_test_images,
    overfitting,
    still_rising,
    underfitting,
    wide_interval,
)
from pipeline.report.inputs import read_inputs
from tests.support.report_results import write_run

PARAMS = {"augment.preset": "none", "augment.views": 8, "train.mixup_alpha": 0.0}
REGRESSION = {"logistic_regression": {"accuracy": 0.812, "interval": {"low": 0.78, "high": 0.84}}}


def curve(*accuracies):
    return pd.DataFrame({"split": "valid", "accuracy": accuracies})


def pairs(count, share):
    return pd.DataFrame({"class": ["cat"], "predicted_class": ["dog"], "count": [count], "share": [share]})


def classes(**train):
    return [{"class": name, "train": count, "valid": 9} for name, count in train.items()]


@pytest.mark.parametrize(
    ("advice", "words"),
    [
        (leaks(3, 0, False), ("too: 3", "data.on_leak=drop")),
        (leaks(3, 2, False), ("too: 3", "data.groups=near_duplicates")),
        (leaks(3, 2, True), ("too: 3", "into one split of the source")),
        (contradictory_labels(1, 2), ("labels: 3",)),
        (
            overfitting(0.99, 0.8, PARAMS),
            ("99.0%", "80.0%", "model.pretrained", "preset=medium -S train.mixup_alpha=0.2"),
        ),
        (underfitting(0.6, 0.62, 15, 15), ("60.0%", "62.0%", "train.epochs=30")),
        (underfitting(0.6, 0.62, 12, 300), ("60.0%", "after 12 of 300 epochs")),
        (not_better_than_before(0.77, REGRESSION, 5, 0.002), ("77.0%", "81.2%", "train.epochs=10 -S train.lr=0.001")),
        (still_rising(curve(0.5, 0.6, 0.7, 0.8, 0.81, 0.84, 0.86, 0.88), 8), ("82.5%", "87.0%", "train.epochs=16")),
        (other_test_images(0.95, 0.8, 0.84), ("95.0%", "80.0% to 84.0%")),
        (other_test_images(0.7, 0.8, 0.84), ("70.0%",)),
        (few_images(classes(cat=400, dog=400, ant=80), False), ("1 of 3 (ant: 80)", "class_weights=balanced")),
        (few_images(classes(cat=9, dog=12), True), ("2 of 2 (cat: 9, dog: 12)",)),
        (few_images(classes(cat=9, dog=19), False), ("class_weights=balanced",)),
        (confused_classes(pairs(5, 0.1)), ("10% of the images of cat are predicted as dog",)),
        (wide_interval(0.7, 0.85, 60), ("70.0% to 85.0%", "60 images", "folds")),
    ],
)
def test_a_problem_is_reported_with_its_evidence(advice, words):
    text = " ".join(advice)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "advice",
    [
        leaks(0, 0, False),
        contradictory_labels(0, 0),
        overfitting(0.95, 0.91, PARAMS),
        underfitting(0.95, 0.94, 15, 15),
        # That is overfitting, of which longer training would give more.
        underfitting(0.8, 0.6, 15, 15),
        underfitting(0.89, 0.93, 15, 15),
        still_rising(curve(0.5, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9), 8),
        # By chance.
        not_better_than_before(0.79, REGRESSION, 5, 0.002),
        not_better_than_before(0.1, None, 5, 0.002),
        # It stopped before the last epoch, since it did not get better.
        still_rising(curve(0.5, 0.6, 0.7, 0.8, 0.81, 0.84, 0.86, 0.88), 20),
        still_rising(curve(0.5, 0.9), 2),
        other_test_images(0.85, 0.8, 0.84),
        few_images(classes(cat=400, dog=400, ant=120), False),
        few_images([], False),
        confused_classes(pairs(4, 0.2)),
        confused_classes(pairs(50, 0.05)),
        confused_classes(pairs(5, 0.1).head(0)),
        wide_interval(0.9, 0.95, 500),
    ],
)
def test_without_the_problem_nothing_is_reported(advice):
    assert advice is None


def test_weights_are_no_advice_for_classes_that_all_have_few_images():
    advice = few_images(classes(cat=13, dog=13, ant=11), False)
    assert (advice.action, advice.command) == ("Add images of these classes.", "")


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"augment.preset": "medium", "train.mixup_alpha": 0.2}, "dvc exp run -S augment.preset=strong"),
        ({"augment.preset": "strong"}, "dvc exp run -S train.mixup_alpha=0.2"),
        ({"augment.views": 0}, "dvc exp run -S train.mixup_alpha=0.2"),
        ({"augment.preset": "strong", "train.mixup_alpha": 0.8}, ""),
    ],
)
def test_the_command_against_overfitting_augments_more_than_the_run_did(changes, command):
    assert overfitting(0.99, 0.8, PARAMS | changes).command == command


def test_the_rules_read_the_results_of_a_run(workspace):
    write_run(workspace, ("cat", "dog"), 24)
    params = PARAMS | {"model.pretrained": True, "train.epochs": 3, "train.lr": 0.1, "train.class_weights": "balanced"}
    evidence = [advice.evidence.split(":")[0] for advice in advise(read_inputs(), params)]
    assert evidence[:2] == ["Images of valid and test that are in an earlier split, too", "Overfitting"]
