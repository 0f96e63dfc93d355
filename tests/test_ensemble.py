"""predict --split: several models on a split of the dataset, and whether their mean is better than the best of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

from pipeline.common.dataset import Manifest, PackedDataset
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS, RAW_ARCHIVE
from pipeline.ensemble import cross_fitted_mean, fit_weights, predict_split
from pipeline.errors import PipelineError
from pipeline.evaluate.metrics import compute_metrics
from pipeline.git import git
from pipeline.network.models import build_model
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import PredictParams
from pipeline.predict.files import load_models
from pipeline.predict.stage import predict
from tests.support.commands import run_command
from tests.support.folders import inside_copy
from tests.support.sections import PREDICT

TOP_K = 2
WORKFLOW = "stages: {train: {cmd: echo, outs: [data/dataset, data/raw.zip, results/model.safetensors]}}"


def write_member(name: str, seed: int, **changes) -> Path:
    """A weights file like that of the training, with noise on its weights, and another specification."""
    network, spec = load_model(MODEL)
    torch.manual_seed(seed)
    state = {key: value * (1 + 0.5 * torch.randn_like(value)) for key, value in network.output.state_dict().items()}
    network.output.load_state_dict(state)
    save_model(Path(name), network.state_dict(), replace(spec, **changes))
    return Path(name)


def probabilities(split: str, *models: Path, **options) -> np.ndarray:
    """Those that --output writes."""
    predict_split(split, models, TOP_K, output=Path("out.csv"), **options)
    table = pd.read_csv("out.csv", dtype={"Id": str})
    assert table["Id"].tolist() == PackedDataset(DATASET).split(split).ids
    rows = table.drop(columns="Id").to_numpy()
    return rows / rows.sum(axis=1, keepdims=True)


def edit_index(edit) -> None:
    index = pd.read_csv(DATASET / "index.csv", dtype=str, keep_default_na=False)
    edit(index)
    index.to_csv(DATASET / "index.csv", index=False)
    Manifest.read(DATASET).write(DATASET)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained_folder):
    """A repository with the training as the tag first, another network on the same dataset as the tag other, and as the
    tag fold a run whose training split has the first two images of test and all of valid."""
    from dvc.repo import Repo

    def commit(tag: str) -> None:
        with Repo() as repo:
            repo.commit(force=True)
        git("add", "-A")
        git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "run")
        git("tag", tag)

    with inside_copy(trained_folder, tmp_path_factory.mktemp("runs")) as folder:
        git("init", "-q", "-b", "main")
        Repo.init().close()
        Path(".gitignore").write_text("/photos\n/data\n/results\n")
        Path("dvc.yaml").write_text(WORKFLOW)
        commit("first")
        before = MODEL.read_bytes(), (DATASET / "index.csv").read_bytes()
        write_member(str(MODEL), 1)
        commit("other")

        def exchange(index: pd.DataFrame) -> None:
            moved = (index["split"] == "valid") | (index.groupby("split").cumcount() < 2) & (index["split"] == "test")
            sources = index.loc[moved, "source"].to_numpy()
            rows = index.index[index["split"] == "train"][: len(sources)]
            index.loc[rows, "source"], index.loc[moved, "source"] = sources, index.loc[rows, "source"].to_numpy()

        edit_index(exchange)
        commit("fold")
        MODEL.write_bytes(before[0])
        (DATASET / "index.csv").write_bytes(before[1])
        Manifest.read(DATASET).write(DATASET)
    return folder


def test_weights_have_the_lowest_log_loss_if_each_model_has_explained_one_more_image_alone():
    random = np.random.default_rng(0)
    of_label = random.beta(4, 1, (4, 300)) * np.array([1.0, 0.9, 1.0, 0.4])[:, None]

    def loss(weights: np.ndarray) -> float:
        return float(-(np.log(weights @ of_label).sum() + np.log(weights).sum()) / 300)

    whole = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    found = minimize(loss, np.full(4, 0.25), bounds=[(1e-9, 1)] * 4, constraints=whole, tol=1e-12)
    weights = fit_weights(of_label)
    assert weights.sum() == pytest.approx(1)
    assert loss(weights) <= found.fun + 1e-6
    np.testing.assert_allclose(weights, found.x, atol=0.01)
    assert weights[3] < 0.05 < weights[2]


def test_weights_of_models_that_are_almost_the_same_are_almost_equal_and_a_bad_one_has_a_small_one():
    of_label = np.array([[0.995] * 300, [0.993] * 300, [0.991] * 300])
    assert np.ptp(fit_weights(of_label)) < 0.2
    assert fit_weights(np.array([[0.9] * 300, [0.3] * 300]))[1] < 0.01
    assert np.isfinite(fit_weights(np.zeros((2, 3)))).all()


def test_no_image_influences_its_own_weights():
    random = np.random.default_rng(0)
    members = random.dirichlet(np.ones(3), (2, 40))
    labels = random.integers(0, 3, 40)
    mean = cross_fitted_mean(members, labels)
    np.testing.assert_allclose(mean.sum(axis=1), 1)
    other = np.where(np.arange(40) == 7, (labels + 1) % 3, labels)
    changed = np.abs(cross_fitted_mean(members, other) - mean).max(axis=1) > 1e-9
    assert not changed[7]
    assert changed.any()


def test_the_mean_of_certain_predictions_is_at_most_1():
    certain, labels = np.zeros((3, 200, 2)), np.zeros(200, int)
    certain[:, :, 0] = 1
    random = np.random.default_rng(0)
    for _ in range(20):
        members = np.append(certain, random.dirichlet(np.ones(2), (3, 50)), axis=1)
        assert cross_fitted_mean(members, np.append(labels, np.zeros(50, int))).max() <= 1


def test_one_model_writes_the_files_of_the_stage_predict(trained):
    predict(PredictParams(**PREDICT))
    found = probabilities("test", MODEL, submission=Path("new/submission.csv"))
    assert Path("new/submission.csv").read_bytes() == (PREDICTIONS / "submission.csv").read_bytes()
    expected = pd.read_csv(PREDICTIONS / "probabilities.csv").drop(columns="Id")
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_mean_is_that_of_the_models_each_with_its_own_input(trained):
    larger = replace(load_model(MODEL)[1], image_size=64, resize="crop")
    save_model(Path("larger.safetensors"), build_model(larger).state_dict(), larger)
    models = [MODEL, Path("larger.safetensors"), write_member("b.safetensors", 2)]
    alone = [probabilities("test", model) for model in models]
    np.testing.assert_allclose(probabilities("test", *models), np.mean(alone, axis=0), atol=2e-6)
    assert not np.allclose(alone[0], alone[2], atol=0.01)


def test_the_table_has_the_metrics_of_evaluate_for_each_model_and_the_mean_on_valid_and_the_split(trained, capsys):
    models = [write_member("a.safetensors", 1), write_member("b.safetensors", 2)]
    expected = {}
    for split in ("valid", "test"):
        labels = PackedDataset(DATASET).split(split).labels
        rows = [probabilities(split, model) for model in models]
        expected[split] = [compute_metrics(labels, row, TOP_K) for row in (*rows, np.mean(rows, axis=0))]
    capsys.readouterr()
    predict_split("test", models, TOP_K)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    for split, part in zip(("valid", "test"), out.split(", 12 images\n")[1:], strict=True):
        header, *rows = part.splitlines()[:4]
        names = ["accuracy 95 % interval balanced", f"top {TOP_K}", "precision recall macro F1 log loss Brier ECE"]
        assert header.split() == " ".join(["model", *names]).split()
        for name, row, metrics in zip(["1", "2", "mean"], rows, expected[split], strict=True):
            found_name, accuracy, _, _, _, *others = row.split()
            assert found_name == name
            np.testing.assert_allclose([float(accuracy), *map(float, others)], list(metrics.values()), atol=2e-4)
    best = 1 + max((0, 1), key=lambda k: (expected["valid"][k]["accuracy"], -expected["valid"][k]["log_loss"]))
    assert out.count(f"A is model {best}, the best one on valid, and B the mean:") == 2
    assert out.count("McNemar's test: ") == 2


def test_fitted_weights_are_printed_and_used_and_their_metrics_on_valid_are_cross_fitted(trained, capsys):
    models = [MODEL, write_member("a.safetensors", 1)]
    valid = np.stack([probabilities("valid", model) for model in models])
    labels = PackedDataset(DATASET).split("valid").labels
    weights = fit_weights(valid[:, np.arange(12), labels])
    alone = [probabilities("test", model) for model in models]
    capsys.readouterr()
    found = probabilities("test", *models, fit=True)
    out = capsys.readouterr().out
    for model, weight in zip(models, weights, strict=True):
        assert f"is {model}, weight {weight:.3f}" in out
    np.testing.assert_allclose(found, np.tensordot(weights, alone, axes=1), atol=1e-4)
    assert "The weighted mean is cross-fitted" in out
    row = next(line for line in out.splitlines() if line.startswith("weighted mean"))
    expected = compute_metrics(labels, cross_fitted_mean(valid, labels), TOP_K)
    assert float(row.split()[-3]) == pytest.approx(expected["log_loss"], abs=1e-3)


def test_a_split_without_labels_is_predicted_and_has_no_metrics(trained, capsys):
    def unlabel(index: pd.DataFrame) -> None:
        index.loc[index["split"] == "test", ["label", "class"]] = ""

    edit_index(unlabel)
    predict_split("test", [MODEL], TOP_K, submission=Path("submission.csv"))
    out = capsys.readouterr().out
    assert "predict: the test split has no labels, so that it has no metrics" in out
    assert "valid, 12 images" in out
    assert len(Path("submission.csv").read_text().splitlines()) == 13


def test_run_names_a_revision_whose_model_is_used(runs, monkeypatch):
    monkeypatch.chdir(runs)
    (network, spec), (other, _) = (pair for run in ("run:first", "run:other") for pair in load_models([Path(run)]))
    assert spec == load_model(MODEL)[1]
    torch.testing.assert_close(network.model.state_dict(), load_model(MODEL)[0].state_dict())
    assert not torch.equal(network.model.output.weight, other.model.output.weight)
    with pytest.raises(PipelineError, match=r"^--model: got run:othr, but no commit, .*; there are "):
        load_models([Path("run:othr")])


def test_images_that_a_run_was_trained_on_are_left_out_of_the_metrics(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    predict_split("test", [Path("run:first"), Path("run:other")], TOP_K)
    assert "left out" not in capsys.readouterr().out
    models = [Path("run:first"), Path("run:fold")]
    predict_split("test", models, TOP_K)
    out = capsys.readouterr().out
    assert "predict: 12 of the 12 images of valid are in the train split of a model: they are left out" in out
    assert "predict: 2 of the 12 images of test are in the train split of a model: they are left out" in out
    assert "valid, " not in out
    assert "\ntest, 10 images\n" in out
    assert "the best one on test, and B the mean" in out
    with pytest.raises(PipelineError, match=r"^--fit-weights: needs 10 labelled images or more in the valid"):
        predict_split("test", models, TOP_K, fit=True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("a.png --split test", "--split: got 'test' together with files; leave one of them out"),
        ("--split test --top 2", "--split: got 'test' together with --top; leave one of them out"),
        ("--fit-weights", "--fit-weights: needs --split, the split of the dataset to predict, such as --split test"),
        ("a.png --submission a.csv", "--submission: needs --split, the split of the dataset to predict, such as"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(workspace, arguments, line):
    result = run_command("predict", *arguments.split())
    assert result.code == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "tset"}, "--split: got 'tset', allowed are the splits of data/dataset: train, valid, test"),
        ({"fit": True}, "--fit-weights: got one model, allowed are two or more"),
        ({"submission": Path("a.txt")}, "--submission: got 'a.txt', allowed is the name of a file that ends in .csv"),
        (
            {"submission": Path("a.csv"), "output": Path("new/../a.csv")},
            "--submission: got a.csv, as for --output, allowed is another file",
        ),
        ({"model_files": [Path("none.safetensors")]}, "none.safetensors: no such file"),
        ({"model_files": [Path("seed-1-9b40cb8")]}, "seed-1-9b40cb8: no such file; the model of an experiment, "),
    ],
)
def test_what_cannot_be_predicted_is_one_line(trained, changes, line):
    with pytest.raises(PipelineError) as error:
        predict_split(**{"name": "test", "model_files": [MODEL], "top_k": TOP_K} | changes)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_model_with_other_classes_and_an_archive_of_other_images_are_one_line(trained):
    other = write_member("other.safetensors", 1, classes=("a", "b", "c"))
    with pytest.raises(PipelineError, match=r"^other.safetensors: its classes are a, b, c, those of data/dataset are "):
        predict_split("test", [other], TOP_K)

    def rename(index: pd.DataFrame) -> None:
        index.loc[index.index[-1], "source"] = "renamed"

    edit_index(rename)
    with pytest.raises(PipelineError, match=f"^{RAW_ARCHIVE}: has no image renamed of the test split of data/dataset"):
        predict_split("test", [MODEL], TOP_K)


def test_without_a_dataset_the_line_says_how_to_make_it(workspace):
    with pytest.raises(PipelineError, match=r"^data/dataset/manifest.json: no such file; run dvc repro"):
        predict_split("test", [MODEL], TOP_K)
