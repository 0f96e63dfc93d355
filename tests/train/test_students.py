"""Each number of docs/students.md that a training gives, on the digits as the page says."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.augment.stage import augment
from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import DATASET
from pipeline.common.yaml_file import read_yaml
from pipeline.download.stage import download
from pipeline.network.inference import predict_logits
from pipeline.network.models import build_model
from pipeline.params.schema import AugmentParams, DataParams, ModelParams, TrainParams
from pipeline.train.distributed import ProcessGroup
from pipeline.train.stage import open_trainer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/students.md").read_text("utf-8")
PARAMS = read_yaml(ROOT / "params.yaml")
SGD = {"optimizer": "sgd", "lr": 0.05}
PLAIN = {"label_smoothing": 0.0}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Packs the digits with a number of views; returns the dataset."""
    folder = tmp_path_factory.mktemp("digits")

    @cache
    def pack(views: int) -> PackedDataset:
        (folder / str(views)).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / str(views))
            download(DataParams(**PARAMS["data"]))
            augment(AugmentParams(**PARAMS["augment"] | {"views": views}), PARAMS["seed"], "error", "warn")
            return PackedDataset(DATASET.absolute())

    return pack


def trainer_of(dataset: PackedDataset, seed: int, **changes):
    params = TrainParams(**PARAMS["train"] | changes)
    return open_trainer(dataset, ModelParams(**PARAMS["model"]), params, seed, torch.device("cpu"), ProcessGroup())


def trained(dataset: PackedDataset, seed: int = PARAMS["seed"], **changes) -> dict[str, float]:
    """Train with changed parameters; return the row of the best epoch, and the accuracy on the test split."""
    trainer, spec = trainer_of(dataset, seed, **changes)
    history = trainer.fit(lambda: None, lambda row: None)
    model = build_model(spec)
    model.load_state_dict(history.best_state)
    test = dataset.split("test")
    hits = predict_logits(model, spec, test, "test").argmax(1) == np.asarray(test.labels)
    return {**history.best, "accuracy": float(hits.mean())}


def first_gradient_norm(dataset: PackedDataset, **changes) -> float:
    trainer, _ = trainer_of(dataset, PARAMS["seed"], **changes, epochs=1)
    trainer.fit(lambda: None, lambda row: None)
    return trainer.history.step_rows()[0, 2].item()


def said(pattern: str) -> list[float]:
    """The numbers in the only place of the page that matches."""
    (match,) = re.finditer(pattern, PAGE.replace("\n", " "))
    return [float(number) for number in match.groups()]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam"])
def test_the_table_of_the_optimizers(digits, optimizer):
    found = trained(digits(8), optimizer=optimizer)
    train_loss, valid_loss, accuracy = said(rf"\| `{optimizer}`[^|]*\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|")
    # On another CPU the last bits differ, and with them an image or two.
    assert found["train_loss"] == pytest.approx(train_loss, rel=0.1)
    assert found["valid_loss"] == pytest.approx(valid_loss, rel=0.2)
    assert found["accuracy"] == pytest.approx(accuracy, abs=0.012)


@pytest.mark.slow
def test_sgd_needs_a_larger_learning_rate(digits):
    (accuracy,) = said(r"`-S train.optimizer=sgd -S train.lr=0.05` its accuracy is ([\d.]+\d)")
    assert trained(digits(8), **SGD)["accuracy"] == pytest.approx(accuracy, abs=0.012)


@pytest.mark.slow
def test_the_squared_error_starts_with_a_small_gradient_and_learns_slowly_with_sgd(digits):
    norms = said(r"norm of the first step is ([\d.]+) with cross-entropy and ([\d.]+) with the squared error")
    accuracies = said(r"after 15 epochs the accuracy is ([\d.]+) and ([\d.]+\d)")
    (with_adam,) = said(r"with it, the squared error reaches ([\d.]+) on the valid split")
    data, losses = digits(8), ({}, {"loss": "mse"})
    assert [first_gradient_norm(data, **SGD, **PLAIN, **loss) for loss in losses] == pytest.approx(norms, rel=0.02)
    found = [trained(data, **SGD, **PLAIN, **loss)["accuracy"] for loss in losses]
    assert found == pytest.approx(accuracies, abs=0.03)
    assert trained(data, **PLAIN, loss="mse")["valid_accuracy"] == pytest.approx(with_adam, abs=0.012)


@pytest.mark.slow
def test_the_moving_average_of_three_epochs_is_about_as_good_as_the_weights(digits):
    (averaged,) = said(r"That gave ([\d.]+) after 3 epochs")
    (weights,) = said(r"and the weights themselves ([\d.]+\d)\.")
    for decay, expected in ((0.95, averaged), (0.0, weights)):
        found = [trained(digits(1), seed, epochs=3, ema_decay=decay)["accuracy"] for seed in (1, 2, 3)]
        assert np.mean(found) == pytest.approx(expected, abs=0.02)
