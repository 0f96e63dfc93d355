"""Tests of the metrics and details of a stage."""

import json

import pytest

from pipeline.common.paths import DETAILS, METRICS
from pipeline.common.results import read_results, write_results
from pipeline.errors import PipelineError


def test_results_are_written_to_two_files_and_read_as_one(workspace):
    write_results("train", {"valid_loss": 2 / 3}, {"epochs": 3, "steps": [1, 2]})
    assert json.loads((METRICS / "train.json").read_text()) == {"valid_loss": 0.666667}
    assert json.loads((DETAILS / "train.json").read_text()) == {"epochs": 3, "steps": [1, 2]}
    assert read_results("train") == {"valid_loss": 0.666667, "epochs": 3, "steps": [1, 2]}


@pytest.mark.parametrize(("name", "stage"), [("audit", "augment"), ("train", "train"), ("tsne", "tsne")])
@pytest.mark.parametrize("folder", [METRICS, DETAILS])
def test_a_missing_file_is_reported_with_the_stage_to_run(workspace, name, stage, folder):
    write_results(name, {}, {})
    (folder / f"{name}.json").unlink()
    with pytest.raises(PipelineError) as error:
        read_results(name)
    assert str(error.value) == f"{folder}/{name}.json: no such file; run dvc repro {stage}"


@pytest.mark.parametrize("text", ["", "{", "[]", '[["a", 1]]', "3", "null", '"text"'])
@pytest.mark.parametrize("folder", [METRICS, DETAILS])
def test_a_file_that_is_no_json_object_is_reported(workspace, folder, text):
    write_results("evaluate", {}, {})
    (folder / "evaluate.json").write_text(text)
    with pytest.raises(PipelineError) as error:
        read_results("evaluate")
    assert str(error.value) == f"{folder}/evaluate.json: is not a JSON object; run dvc repro --force evaluate"
