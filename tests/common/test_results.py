"""Tests of the metrics and details of a stage."""

import json
from pathlib import Path

import pytest

from pipeline.common.paths import DETAILS, METRICS
from pipeline.common.results import read_results, write_results
from pipeline.errors import PipelineError


def test_results_are_written_to_two_files_and_read_as_one(workspace):
    Path("a.csv").write_text("x\n1\n")
    write_results("train", {"valid_loss": 2 / 3}, {"epochs": 3, "steps": (1, 2)}, Path("a.csv"))
    assert json.loads((METRICS / "train.json").read_text()) == {"valid_loss": 0.666667}
    details = {"epochs": 3, "steps": [1, 2], "files": {"a.csv": "a4d03c15"}}
    assert json.loads((DETAILS / "train.json").read_text()) == {**details, "checksum": "cd336ecf"}
    assert read_results("train") == {"valid_loss": 0.666667, **details}


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
def test_a_file_that_is_no_json_object_is_reported_with_the_commands_that_restore_it(workspace, folder, text):
    write_results("evaluate", {}, {})
    path = folder / "evaluate.json"
    path.write_text(text)
    with pytest.raises(PipelineError) as error:
        read_results("evaluate")
    restore = "git checkout" if folder == METRICS else "dvc checkout --force"
    assert str(error.value).startswith(f"{path}: cannot be used (")
    assert str(error.value).endswith(f"); run {restore} {path}, or dvc repro --force evaluate")


def test_metrics_and_details_of_different_runs_are_refused(workspace):
    write_results("evaluate", {"accuracy": 0.5}, {"split": "test"})
    old = (METRICS / "evaluate.json").read_text()
    write_results("evaluate", {"accuracy": 0.6}, {"split": "test"})
    (METRICS / "evaluate.json").write_text(old)
    with pytest.raises(PipelineError, match="its checksum is wrong, or it is from another run than its metrics"):
        read_results("evaluate")


def test_line_ends_that_git_has_converted_are_no_damage(workspace):
    write_results("evaluate", {"accuracy": 0.5}, {"split": "test"})
    path = METRICS / "evaluate.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_results("evaluate")["accuracy"] == 0.5
