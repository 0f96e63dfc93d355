"""Stage ``evaluate``."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss

from pipeline.augment.stage import augment
from pipeline.common.paths import DATASET, DETAILS, EVALUATION, METRICS, MODEL, PLOTS
from pipeline.common.results import read_results
from pipeline.download.stage import download
from pipeline.errors import PipelineError
from pipeline.evaluate.stage import evaluate, in_words
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import AugmentParams, DataParams, EvaluateParams, ModelParams, TrainParams
from pipeline.train.stage import train
from tests.support.folders import inside_copy
from tests.support.models import overflowing
from tests.support.sections import AUGMENT, DATA, EVALUATE, TRAIN
from tests.support.sections import MODEL as MODEL_PARAMS
from tests.support.tiny_datasets import write_dataset

PICTURES = (
    "confusion_matrix.png",
    "confusion_normalized.png",
    "reliability.png",
    "roc_precision_recall.png",
    "mistakes.png",
)


def run(**changes) -> tuple[dict, pd.DataFrame]:
    """The results and the table of predictions; no library may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(EvaluateParams(**{**EVALUATE, **changes}))
    return read()


def read() -> tuple[dict, pd.DataFrame]:
    text = {"id": str, "class": str, "predicted_class": str}
    return read_results("evaluate"), pd.read_csv(EVALUATION / "predictions.csv", dtype=text)


def train_again(**changes) -> None:
    train(ModelParams(**MODEL_PARAMS), TrainParams(**{**TRAIN, **changes}), seed=1)


@pytest.fixture(scope="module")
def evaluated_folder(tmp_path_factory, trained_folder):
    """A folder with an evaluated network; tests may evaluate it again."""
    with inside_copy(trained_folder, tmp_path_factory.mktemp("evaluated")) as folder:
        run()
    return folder


@pytest.fixture
def evaluated(evaluated_folder, monkeypatch):
    """The results and the table of predictions of an evaluated network, in the working folder."""
    monkeypatch.chdir(evaluated_folder)
    return read()


def test_every_metric_can_be_computed_from_the_table_of_predictions(evaluated):
    metrics, table = evaluated
    assert (metrics["split"], metrics["images"]) == ("test", 12)
    assert list(table.columns) == [
        "id", "source", "label", "class", "predicted", "predicted_class", "correct", "confidence", "loss",
        "calibrated", "energy", "p_blue", "p_green", "p_red",
    ]  # fmt: skip
    probabilities = table[["p_blue", "p_green", "p_red"]].to_numpy()
    # Rounded to six digits, their sum is not exactly 1, as scikit-learn requires.
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    label, predicted = table["label"], table["predicted"]
    assert predicted.tolist() == probabilities.argmax(axis=1).tolist()
    assert metrics["accuracy"] == pytest.approx(accuracy_score(label, predicted), abs=1e-5)
    assert metrics["accuracy"] == pytest.approx(table["correct"].mean(), abs=1e-5)
    assert metrics["macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro"), abs=1e-5)
    assert metrics["brier"] == pytest.approx(brier_score_loss(label, probabilities), abs=1e-4)
    assert metrics["log_loss"] == pytest.approx(log_loss(label, probabilities), abs=1e-4)
    assert metrics["log_loss"] == pytest.approx(table["loss"].mean(), abs=1e-4)
    assert table["class"].tolist() == [["blue", "green", "red"][index] for index in label]
    numbers = [name.partition("_")[2] for name in table["id"]]
    assert table["source"].tolist() == [
        f"{name}/{number}.jpg" for name, number in zip(table["class"], numbers, strict=True)
    ]
    low, high = metrics["interval"]["accuracy"].values()
    assert 0 <= low <= metrics["accuracy"] <= high <= 1
    assert "tta" not in metrics


def test_the_metrics_file_contains_only_the_numbers_to_decide_by(evaluated):
    results, _ = evaluated
    metrics, details = (json.loads((folder / "evaluate.json").read_text()) for folder in (METRICS, DETAILS))
    assert list(metrics) == ["accuracy", "macro_f1", "log_loss"]
    scores = ["balanced_accuracy", "top_2_accuracy", "macro_precision", "macro_recall", "brier", "ece"]
    assert list(details) == [
        "split",
        "images",
        *scores,
        "interval",
        "temperature",
        "calibrated",
        "abstain",
        "files",
        "checksum",
    ]
    del details["checksum"]
    assert metrics | details == results


def test_every_table_and_picture_is_written(evaluated):
    _, table = evaluated
    confusion = pd.read_csv(PLOTS / "confusion.csv")
    assert (confusion["actual"] == table["class"]).all()
    assert (confusion["predicted"] == table["predicted_class"]).all()
    classes = pd.read_csv(PLOTS / "classes.csv")
    assert classes["images"].tolist() == [4, 4, 4]
    assert (classes["recall_low"] <= classes["recall"]).all()
    pairs = pd.read_csv(PLOTS / "confused_pairs.csv")
    assert pairs["count"].sum() == (table["correct"] == 0).sum()
    assert list(pairs.columns) == ["class", "predicted_class", "count", "share"]
    assert set(pd.read_csv(PLOTS / "reliability.csv")["probabilities"]) == {"plain", "calibrated"}
    assert list(pd.read_csv(PLOTS / "roc.csv").columns) == ["class", "fpr", "tpr"]
    assert list(pd.read_csv(PLOTS / "precision_recall.csv").columns) == ["class", "recall", "precision"]
    assert all((PLOTS / picture).stat().st_size > 5_000 for picture in PICTURES)


def test_the_same_model_gives_the_same_bytes(evaluated):
    files = [
        METRICS / "evaluate.json",
        DETAILS / "evaluate.json",
        *EVALUATION.iterdir(),
        *PLOTS.glob("*.csv"),
        *(PLOTS / name for name in PICTURES),
    ]
    before = [file.read_bytes() for file in files]
    shutil.rmtree(EVALUATION)
    run()
    assert [file.read_bytes() for file in files] == before


def test_the_temperature_comes_from_the_weights_file_and_is_cross_fitted_on_the_valid_split(dataset):
    train_again(epochs=1)
    on_test, _ = run()
    on_valid, table = run(split="valid")
    temperature = load_model(MODEL)[1].calibration.temperature
    assert on_test["temperature"] == on_valid["temperature"] == pytest.approx(temperature, abs=1e-6) != 1
    labels, logits = table["label"].to_numpy(), np.log(table[["p_blue", "p_green", "p_red"]].to_numpy())
    # Fitted on the same images, the loss would be too low.
    fitted = log_loss(labels, softmax(logits / temperature, axis=1))
    assert on_valid["calibrated"]["log_loss"] > fitted + 1e-5
    assert on_valid["calibrated"].keys() == {"log_loss", "brier", "ece"}


def test_calibrated_probabilities_and_energies_are_in_the_table_and_decide_the_risk_coverage_curve(dataset):
    train_again(epochs=1)
    results, table = run()
    logits = np.log(table[["p_blue", "p_green", "p_red"]].to_numpy())
    expected = softmax(logits / results["temperature"], axis=1).max(axis=1)
    np.testing.assert_allclose(table["calibrated"], expected, rtol=1e-4)
    assert results["calibrated"] != {name: results[name] for name in ("log_loss", "brier", "ece")}
    assert table["energy"].notna().all()
    curve = pd.read_csv(PLOTS / "risk_coverage.csv")
    assert list(curve.columns) == ["confidence", "coverage", "accuracy"]
    assert curve["accuracy"].iloc[-1] == pytest.approx(results["accuracy"], abs=1e-5)
    assert curve["confidence"].iloc[0] == pytest.approx(table["calibrated"].max(), abs=1e-5)
    assert 0 <= results["abstain"]["aurc"] <= 1
    assert results["abstain"]["precision_0.8"].keys() == {"coverage", "accuracy"}


def test_without_resamples_only_shares_of_images_have_intervals(trained):
    metrics, _ = run(bootstrap=0)
    assert list(metrics["interval"]) == ["accuracy", "top_2_accuracy"]
    assert pd.read_csv(PLOTS / "classes.csv")["recall_low"].notna().all()


def test_metrics_with_test_time_augmentation_are_added_to_the_plain_ones(photos, capsys):
    download(DataParams(**DATA))
    augment(AugmentParams(**{**AUGMENT, "test_views": 2}), seed=1, on_bad_image="error", on_leak="warn")
    train_again(epochs=1)
    plain, table = run()
    both, same_table = run(tta="views")
    assert table.equals(same_table)
    tta = both.pop("tta")
    assert both == plain
    assert tta["method"] == "views"
    assert tta["log_loss"] != plain["log_loss"]
    own = {"method", "valid", "change", "summary"}
    assert tta.keys() - own == plain.keys() - {"split", "images", "abstain", "files"}
    for change in (tta["change"], tta["valid"]["views"]["change"]):
        assert all(one["low"] <= one["difference"] <= one["high"] for one in change.values())
    gain = 100 * (tta["accuracy"] - plain["accuracy"])
    assert tta["change"]["accuracy"]["difference"] == pytest.approx(gain / 100)
    assert f" {gain:+.2f} points (95 %" in tta["summary"]
    assert f"evaluate: {tta['summary']}\n" in capsys.readouterr().out

    chosen = run(tta="auto", split="valid")[0]["tta"]
    losses = {name: row["log_loss"] for name, row in chosen["valid"].items()}
    assert list(losses) == ["none", "hflip", "five_crop", "ten_crop", "views"]
    assert chosen["method"] == min(losses, key=losses.get)


@pytest.mark.parametrize(
    ("split", "chosen", "low", "high", "effect"),
    [
        ("test", True, 0.002, 0.028, "brings +1.50 points (95 % interval +0.20 to +2.80) on test; log loss -0.0200. "),
        ("test", False, -0.001, 0.028, "makes no difference to the accuracy beyond chance: +1.50 points (95 % inte"),
        ("valid", True, -0.02, -0.01, "costs +1.50 points (95 % interval -2.00 to -1.00) on valid; log loss -0.02"),
    ],
)
def test_the_summary_says_whether_test_time_augmentation_helps(split, chosen, low, high, effect):
    change = {"accuracy": {"difference": 0.015, "low": low, "high": high}, "log_loss": {"difference": -0.02}}
    summary = in_words(split, {"method": "hflip", "change": change}, chosen)
    assert summary.startswith(f"Test-time augmentation (hflip) {effect}")
    assert summary.endswith(" It was chosen on these images.") == (split == "valid")
    assert summary.endswith(" It was chosen on valid.") == (split == "test" and chosen)


def test_without_a_gain_on_the_valid_split_test_time_augmentation_is_left_off(trained, capsys):
    network, spec = load_model(MODEL)
    # The same logits for every image.
    constant = {name: values * ("output" not in name) for name, values in network.state_dict().items()}
    save_model(MODEL, constant, spec)
    tta = run(tta="auto")[0]["tta"]
    assert tta.keys() == {"method", "valid", "summary"}
    assert tta["method"] == "none"
    assert tta["summary"].endswith("valid, hflip, five_crop, ten_crop do not lower the log loss. It is left off.")
    assert f"evaluate: {tta['summary']}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("test_views", "split", "key"), [(0, "auto", "test_views"), (1, "train", "views")])
def test_views_are_needed_on_the_valid_and_on_the_evaluated_split(photos, test_views, split, key):
    download(DataParams(**DATA))
    changes = {"views": 0, "test_views": test_views}
    augment(AugmentParams(**{**AUGMENT, **changes}), seed=1, on_bad_image="error", on_leak="warn")
    train_again(epochs=1)
    with pytest.raises(PipelineError, match=rf"tta: got views, but .* no augmented views .*; set augment.{key} to 1"):
        run(tta="views", split=split)
    assert not EVALUATION.exists()


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_two_classes_can_be_evaluated(photos, loss):
    shutil.rmtree(photos / "red")
    download(DataParams(**DATA))
    augment(AugmentParams(**AUGMENT), seed=1, on_bad_image="error", on_leak="warn")
    train_again(loss=loss)
    metrics, table = run()
    assert metrics["top_2_accuracy"] == 1
    assert "top_2_accuracy" not in metrics["interval"]
    np.testing.assert_allclose(table["p_blue"] + table["p_green"], 1, atol=1e-5)
    assert metrics["brier"] == pytest.approx(np.mean((table["p_green"] - table["label"]) ** 2), abs=1e-5)
    assert all((PLOTS / picture).exists() for picture in PICTURES)


@pytest.mark.parametrize("images", [1, 2])
def test_a_split_of_few_images_without_some_classes_can_be_evaluated(workspace, images):
    write_dataset(Path(DATASET), train=24, valid=images)
    train_again(epochs=1)
    metrics, table = run()
    assert (metrics["split"], len(table)) == ("valid", images)
    assert pd.read_csv(PLOTS / "classes.csv")["recall"].isna().sum() == 3 - images
    assert "NaN" not in (DETAILS / "evaluate.json").read_text()


def test_a_top_k_as_large_as_the_number_of_classes_is_lowered_with_a_note(trained, capsys):
    metrics, _ = run(top_k=3)
    assert "top_2_accuracy" in metrics
    assert "top_3_accuracy" not in metrics
    assert "evaluate: note: with 3 classes, evaluate.top_k is 2 instead of 3" in capsys.readouterr().out


def test_a_missing_model_is_reported_with_the_command_that_makes_it(dataset):
    with pytest.raises(PipelineError, match=r"results/model.safetensors: no such file; run dvc repro train"):
        run()


def test_a_network_with_output_that_is_not_finite_is_rejected(trained):
    model, spec = load_model(MODEL)
    save_model(MODEL, overflowing(model), spec)
    with pytest.raises(
        PipelineError, match=r"output for the test split is not finite; train it with a lower train\.lr"
    ):
        run()


def test_too_few_resamples_are_rejected():
    with pytest.raises(ValueError, match="bootstrap"):
        EvaluateParams(**{**EVALUATE, "bootstrap": 20})
