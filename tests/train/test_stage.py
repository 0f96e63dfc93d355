"""Stage ``train``."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from pipeline.common.dataset import evenly_spaced
from pipeline.common.paths import DATASET, DETAILS, LIVE, METRICS, MODEL, PLOTS
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.network.calibrating import fit_calibration
from pipeline.network.inference import open_trained, predict_logits
from pipeline.network.weights import load_model
from pipeline.params.schema import ModelParams, TrainParams
from pipeline.processes import stop_signals
from pipeline.train import stage, trainer
from pipeline.train.stage import train
from tests.support.sections import MODEL as MODEL_PARAMS
from tests.support.sections import TRAIN


def run(**changes) -> str:
    train(ModelParams(**MODEL_PARAMS), TrainParams(**{**TRAIN, **changes}), seed=changes.pop("seed", 1))
    return hashlib.sha256(MODEL.read_bytes()).hexdigest()


def test_network_learns_to_tell_colours_apart(dataset):
    run(epochs=10)
    metrics, details = (json.loads((folder / "train.json").read_text()) for folder in (METRICS, DETAILS))
    assert list(metrics) == ["best_epoch", "train_loss", "valid_loss", "valid_accuracy"]
    assert metrics["valid_accuracy"] >= 0.9
    counts = ["epochs", "steps", "parameters", "train_accuracy", "plain_train_accuracy"]
    others = ["train_gradient_norm", "valid_cross_entropy"]
    assert list(details) == [*counts, *others, "device", "precision", "batch", "files", "checksum"]
    assert len(details["batch"]["targets"]) == 8
    assert (details["epochs"], details["steps"]) == (10, 30)


def test_accuracy_on_training_images_is_that_of_the_saved_network_without_augmentation(dataset, monkeypatch):
    monkeypatch.setattr(stage, "TRAINING_IMAGES", 11)
    run(epochs=6, mixup_alpha=1.0, color_jitter=1.0, ema_decay=0.5)
    opened, model, spec = open_trained(DATASET, MODEL)
    split = opened.split("train")
    rows = evenly_spaced(len(split), 11)
    right = (predict_logits(model, spec, split, "test").argmax(1) == split.labels)[rows]
    assert read_results("train")["plain_train_accuracy"] == right.mean()
    assert len(rows) == 11


def test_two_runs_give_the_same_bytes(dataset):
    assert run() == run()


def test_a_run_of_the_last_layer_on_its_inputs_writes_everything_and_the_same_bytes_again(dataset, capsys):
    digests = [run(freeze_epochs=3) for _ in range(2)]
    assert digests[0] == digests[1]
    assert capsys.readouterr().out.count("trained on its inputs, which are computed once") == 2
    assert (PLOTS / "train_batch.png").exists()
    assert len(pd.read_csv(PLOTS / "steps.csv")) == 9


def test_ctrl_c_ends_the_computation_of_the_inputs_of_the_last_layer_at_once(dataset, monkeypatch):
    ended = []

    def head_inputs(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        ended.append(True)
        return "the test goes on"

    monkeypatch.setattr(trainer, "head_inputs", head_inputs)
    with pytest.raises(KeyboardInterrupt), stop_signals():  # as the command does
        run(freeze_epochs=3)
    assert not ended


@pytest.mark.parametrize(("steps", "said"), [(0, True), (4, False)])
def test_a_batch_size_above_the_number_of_images_is_said_unless_each_image_is_in_a_batch_again(
    dataset, capsys, steps, said
):
    run(epochs=1, batch_size=64, min_steps_per_epoch=steps)
    assert ("train.batch_size is 24, the number of training images" in capsys.readouterr().out) == said


def test_best_epoch_is_kept_and_training_stops_when_patience_ends(dataset):
    run(epochs=40, patience=2)
    metrics = read_results("train")
    assert metrics["epochs"] == metrics["best_epoch"] + 2
    accuracy = pd.read_csv(LIVE / "plots/metrics/valid/accuracy.tsv", sep="\t")["accuracy"]
    assert accuracy.idxmax() + 1 <= metrics["best_epoch"]
    assert accuracy.max() == pytest.approx(metrics["valid_accuracy"], abs=1e-6)


def test_every_step_is_logged_with_loss_gradient_norm_and_learning_rate(dataset):
    run()
    steps = pd.read_csv(PLOTS / "steps.csv")
    assert list(steps["step"]) == list(range(1, 10))
    assert (steps[["loss", "gradient_norm", "lr"]] > 0).all(axis=None)


def test_weights_file_contains_the_specification_of_the_network(dataset):
    run()
    _, spec = load_model(MODEL)
    assert (spec.name, spec.width, spec.image_size, spec.classes) == ("classifier", 4, 32, ("blue", "green", "red"))
    assert all(0 < value < 1 for value in spec.mean + spec.std)


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "patience": 1}])
def test_weights_file_contains_the_calibration_of_its_own_probabilities_on_the_validation_split(dataset, changes):
    run(**changes)
    packed, model, spec = open_trained(DATASET, MODEL)
    valid = packed.split("valid")
    logits = predict_logits(model, spec, valid, "test").astype(float)
    assert spec.calibration == fit_calibration(logits, valid.labels)
    assert spec.calibration.temperature != 1


def test_loss_that_is_not_finite_stops_the_run_with_advice_and_without_results(dataset):
    with pytest.raises(PipelineError, match=r"loss is (nan|inf) in step .* try a lower train.lr"):
        run(optimizer="sgd", lr=1e6, clip_norm=0.0, epochs=20)
    assert not MODEL.exists()
    assert not (METRICS / "train.json").exists()


def test_missing_dataset_is_reported_with_the_command_that_makes_it(workspace):
    with pytest.raises(PipelineError, match=r"data/dataset/manifest.json: no such file; run dvc repro augment"):
        run()


def test_repository_without_a_commit_is_reported(dataset, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    with pytest.raises(PipelineError, match="no commit yet"):
        run()
