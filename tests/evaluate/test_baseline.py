"""The classifiers of scikit-learn on the features of the pretrained network."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import DATASET, MODEL, PRETRAINED
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.evaluate.stage import evaluate
from pipeline.network.models import build_model
from pipeline.network.pretrained import Origin, write_pretrained
from pipeline.network.weights import load_model
from pipeline.params.schema import EvaluateParams
from tests.support.folders import inside_copy
from tests.support.sections import EVALUATE


@pytest.fixture
def trained(trained_folder, tmp_path):
    with inside_copy(trained_folder, tmp_path / "copy"):
        yield


def run() -> dict:
    evaluate(EvaluateParams(**EVALUATE | {"baseline": True, "bootstrap": 0}))
    return read_results("evaluate")


def test_they_are_fitted_to_the_training_images_and_judged_on_the_evaluated_split(trained, capsys):
    _, spec = load_model(MODEL)
    torch.manual_seed(5)
    network = build_model(spec).eval()
    weights = {name: tensor.contiguous().numpy() for name, tensor in network.state_dict().items()}
    write_pretrained(PRETRAINED, Origin(source="a.pth"), weights)

    def features(split):
        pixels = torch.from_numpy(np.array(split.images[:, 0])).permute(0, 3, 1, 2) / 255
        inputs = (pixels - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)
        with torch.no_grad():
            blocks = network.flatten(network.blocks(inputs))
            return normalize(network.hidden2(network.hidden1(blocks)).numpy())

    train, test = (PackedDataset(DATASET).split(name) for name in ("train", "test"))
    found = run()["baseline"]
    for name, classifier in {
        "logistic_regression": LogisticRegression(C=10, max_iter=1000),
        "k_nearest_neighbors": KNeighborsClassifier(10, weights="distance"),
    }.items():
        accuracy = classifier.fit(features(train), train.labels).score(features(test), test.labels)
        assert found[name]["accuracy"] == pytest.approx(accuracy)
        assert found[name]["interval"]["low"] <= accuracy <= found[name]["interval"]["high"]
    assert f"accuracy {found['logistic_regression']['accuracy']:.4f} of logistic regression" in capsys.readouterr().out


def test_without_pretrained_weights_there_is_a_note_so_that_the_same_parameters_train_from_scratch(trained, capsys):
    write_pretrained(PRETRAINED, Origin(), {})
    assert "baseline" not in run()
    assert "note: evaluate.baseline has no effect, since model.pretrained is false" in capsys.readouterr().out


def test_a_missing_file_is_one_line(trained):
    PRETRAINED.unlink(missing_ok=True)
    with pytest.raises(PipelineError, match=r"^data/pretrained\.safetensors: no such file; run dvc repro"):
        run()
