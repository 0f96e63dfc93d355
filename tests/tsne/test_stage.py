"""Stage ``tsne``."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import DATASET, DETAILS, METRICS, MODEL, PLOTS
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.network.inference import predict_logits
from pipeline.network.models import build_model
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import TsneParams
from pipeline.tsne import embedding
from pipeline.tsne.plots import plot_tsne
from pipeline.tsne.stage import tsne
from tests.support.models import SPEC, overflowing
from tests.support.sections import TSNE
from tests.support.tiny_datasets import MEAN, STD, write_dataset

MEASURES = {
    "perplexity",
    "kl_divergence",
    "trustworthiness",
    "neighbour_purity",
    "feature_neighbour_purity",
    "silhouette",
    "feature_silhouette",
}


def draw(**changes):
    tsne(TsneParams(**{**TSNE, **changes}), seed=1)
    return read_results("tsne")


def write_model(**changes):
    """An untrained network: it can still tell colours apart."""
    torch.manual_seed(0)
    spec = replace(SPEC, mean=MEAN, std=STD, **changes)
    model = build_model(spec)
    save_model(MODEL, model.state_dict(), spec)
    return model, spec


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """A dataset of 24 labelled images and a network, in the working folder; few steps of t-SNE."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    monkeypatch.setattr(embedding, "STEPS", 50)
    write_dataset(DATASET, train=30, valid=24, test=6)
    return write_model()


@pytest.fixture
def written(untrained):
    """What the stage writes for two layers."""
    return draw()


def test_a_trained_network_is_drawn(trained):
    metrics = draw()
    assert metrics["images"] == 12
    assert metrics["perplexity"] == pytest.approx(11 / 3, abs=1e-6)
    assert metrics["neighbour_purity"] > 1 / 3


def test_the_results_are_those_of_the_last_layer_and_of_each_layer(written):
    assert {key: written[key] for key in ("split", "layer", "images")} == {
        "split": "valid",
        "layer": "hidden2",
        "images": 24,
    }
    assert list(written["layers"]) == ["blocks.2", "hidden2"]
    assert all(set(layer) == MEASURES for layer in written["layers"].values())
    assert {key: written[key] for key in MEASURES} == written["layers"]["hidden2"]
    assert written["layers"]["blocks.2"] != written["layers"]["hidden2"]


def test_the_metrics_file_contains_only_the_numbers_to_decide_by(written):
    metrics = json.loads((METRICS / "tsne.json").read_text())
    assert metrics == {"purity": written["neighbour_purity"]}


def test_the_table_for_dvc_contains_the_last_layer(written):
    points = pd.read_csv(PLOTS / "tsne.csv", dtype={"id": str})
    assert list(points.columns) == ["x", "y", "class", "id", "predicted_class", "correct"]
    layers = pd.read_csv(PLOTS / "tsne_layers.csv", dtype={"id": str})
    last = layers[layers["layer"] == "hidden2"].reset_index(drop=True)
    for column in ("x", "y", "class", "id", "predicted_class"):
        assert points[column].tolist() == last[column].tolist()


def test_the_table_of_all_layers_has_the_class_and_prediction_of_each_image(written):
    table = pd.read_csv(PLOTS / "tsne_layers.csv", dtype={"id": str})
    assert list(table.columns) == ["layer", "id", "label", "class", "predicted_class", "x", "y"]
    assert table["layer"].tolist() == ["blocks.2"] * 24 + ["hidden2"] * 24
    split = PackedDataset(DATASET).split("valid")
    model, spec = load_model(MODEL)
    predicted = predict_logits(model, spec, split, "test").argmax(1)
    for _, rows in table.groupby("layer"):
        assert rows["id"].tolist() == split.ids
        assert rows["label"].tolist() == split.labels.tolist()
        assert rows["class"].tolist() == [spec.classes[label] for label in split.labels]
        assert rows["predicted_class"].tolist() == [spec.classes[label] for label in predicted]
    points = pd.read_csv(PLOTS / "tsne.csv")
    assert points["correct"].tolist() == (predicted == split.labels).astype(int).tolist()


def test_a_second_run_writes_the_same_bytes(written):
    files = [PLOTS / "tsne.csv", PLOTS / "tsne_layers.csv", PLOTS / "tsne.png"]
    files += [METRICS / "tsne.json", DETAILS / "tsne.json"]
    before = [file.read_bytes() for file in files]
    draw()
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    "layers",
    [("hidden2",), ("blocks.0", "blocks.2", "output"), ("blocks.0", "blocks.1", "flatten", "blocks", "output")],
)
def test_any_layers_are_drawn_in_the_given_order(untrained, layers):
    metrics = draw(layers=layers)
    assert metrics["layer"] == layers[-1]
    assert tuple(metrics["layers"]) == layers
    table = pd.read_csv(PLOTS / "tsne_layers.csv")
    assert tuple(table["layer"].unique()) == layers
    width, height = Image.open(PLOTS / "tsne.png").size
    assert width > height > 500


def test_the_rows_of_a_layer_do_not_depend_on_the_others(untrained):
    together = draw(layers=("blocks.2", "hidden2"))
    assert draw(layers=("hidden2",))["layers"]["hidden2"] == together["layers"]["hidden2"]


def test_at_most_max_images_are_drawn_evenly_spaced(untrained):
    assert draw(max_images=10)["images"] == 10
    ids = pd.read_csv(PLOTS / "tsne.csv", dtype={"id": str})["id"].tolist()
    assert len(ids) == 10
    assert (ids[0], ids[-1]) == ("0000", "0023")


def test_a_network_with_one_output_for_two_classes_is_drawn(untrained):
    write_dataset(DATASET, classes=2, valid=24)
    write_model(classes=("blue", "green"), outputs=1)
    metrics = draw(layers=["output"])
    assert metrics["neighbour_purity"] > 0.5
    assert set(pd.read_csv(PLOTS / "tsne.csv")["predicted_class"]) <= {"blue", "green"}


def test_five_images_are_drawn_and_with_fewer_those_of_train(untrained):
    write_dataset(DATASET, valid=5)
    assert draw()["images"] == 5
    write_dataset(DATASET, train=24, valid=4)
    assert (draw()["split"], draw()["images"]) == ("train", 24)


def test_without_a_split_of_five_images_the_outputs_have_no_points(untrained):
    write_dataset(DATASET, train=4, valid=4)
    results = draw()
    assert (results["images"], results["layers"]) == (0, {})
    assert json.loads((METRICS / "tsne.json").read_text()) == {}
    assert len(pd.read_csv(PLOTS / "tsne_layers.csv")) == len(pd.read_csv(PLOTS / "tsne.csv")) == 0
    assert (PLOTS / "tsne.png").is_file()


def test_auto_draws_the_middle_block_and_the_layer_before_the_last(untrained):
    assert list(draw(layers="auto")["layers"]) == ["blocks.2", "hidden2"]


def test_a_dead_layer_is_drawn_with_a_warning(untrained, capsys):
    model, spec = untrained
    torch.nn.init.zeros_(model.hidden2[1].weight)
    save_model(MODEL, model.state_dict(), spec)
    draw()
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warnings == ["tsne: warning: hidden2 has the same features for every image, so its picture shows noise"]


def test_features_that_are_not_finite_are_rejected_in_one_line(untrained):
    model, spec = untrained
    save_model(MODEL, overflowing(model), spec)
    with pytest.raises(PipelineError, match="the features of hidden2 are not finite") as error:
        draw()
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_layer_is_rejected_with_the_layers_of_the_network(untrained):
    with pytest.raises(
        PipelineError, match=r"tsne.layers: got 'head', allowed are auto and the layers of the network, such as \w+"
    ):
        draw(layers=["hidden2", "head"])


def test_a_split_without_labels_is_rejected(untrained):
    with pytest.raises(PipelineError, match="the test split has no labels"):
        draw(split="test")


@pytest.mark.parametrize(
    ("layers", "says"), [(["hidden2", "output", "hidden2"], "contains 'hidden2' twice"), ([], "contains no layer")]
)
def test_a_duplicate_layer_or_none_is_rejected(layers, says):
    with pytest.raises(ValidationError, match=says):
        TsneParams(**{**TSNE, "layers": layers})


@pytest.mark.parametrize(("count", "named"), [(1, True), (11, True), (60, True), (61, False), (1000, False)])
@pytest.mark.filterwarnings("error")
def test_class_names_of_any_script_are_in_the_legend_if_they_are_not_too_many(tmp_path, count, named):
    classes = ("_寿司 $x_1$", *(f"class {number}, of a long name" for number in range(1, count)))
    points = np.random.default_rng(0).normal(size=(count, 2))
    table = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "label": range(count)})
    plot_tsne(tmp_path / "a.png", {"hidden2": table}, classes, {"hidden2": "hidden2"}, "t-SNE")
    plot_tsne(tmp_path / "b.png", {"hidden2": table}, ("s", *classes[1:]), {"hidden2": "hidden2"}, "t-SNE")
    assert ((tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()) is named
