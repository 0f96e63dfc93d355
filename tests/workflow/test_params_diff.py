"""Real DVC on params.yaml: what -S writes is read as meant, and dvc params diff shows what changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.params.file import load_params
from tests.support.small_repository import SmallRepository

ROOT = Path(__file__).parents[2]
SECTIONS = "[seed, data, augment, model, train, evaluate, tsne, predict]"
READ = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from pipeline.errors import PipelineError
from pipeline.params.file import load_params
try:
    params = load_params(Path("params.yaml"))
except PipelineError as error:
    sys.exit(f"error: {{error}}")
Path("results/evaluation").mkdir(parents=True, exist_ok=True)
Path("results/evaluation/params.json").write_text(params.model_dump_json())
"""
WORKFLOW = f"""
stages:
  evaluate:
    cmd: python code/stage.py
    deps: [code/stage.py]
    params: {SECTIONS}
    outs: [results/evaluation]
"""


@pytest.fixture
def repository(tmp_path):
    """A repository with one stage, which reads params.yaml as the pipeline does, and writes the values as JSON."""
    repository = SmallRepository(tmp_path)
    repository.write("code/stage.py", READ)
    repository.write("dvc.yaml", WORKFLOW)
    repository.commit("reads params.yaml")
    return repository


def changes(repository):
    """The old and the new value of each parameter in the output of ``dvc params diff --json``."""
    found = json.loads(repository.dvc("params", "diff", "--json"))["params.yaml"]
    return {key: (value["old"], value["new"]) for key, value in found.items()}


def test_values_given_on_the_command_line_are_read_as_meant(repository):
    given = {
        "train.lr=0.00003": 3e-05,
        "train.weight_decay=1e-4": 1e-4,
        "data.source=folder": "folder",
        "data.location='a: b/größe #1'": "a: b/größe #1",
        "data.classes=['Ähre', 'x: y', 'null', '1']": ["Ähre", "x: y", "null", "1"],
        "data.revision=null": None,
        "augment.transforms=[{name: Rotate, limit: [-5, 5]}]": [{"name": "Rotate", "limit": [-5, 5]}],
        "tsne.layers=[hidden1]": ["hidden1"],
        "train.deterministic=false": False,
    }
    repository.dvc("exp", "run", *(part for setting in given for part in ("-S", setting)))
    read = json.loads((repository.folder / "results/evaluation/params.json").read_text())
    for setting, value in given.items():
        section, _, name = setting.partition("=")[0].partition(".")
        assert read[section][name] == value, setting
    assert "# learning rate; the peak" in (repository.folder / "params.yaml").read_text("utf-8")
    shown = changes(repository)
    assert shown["train.lr"] == (0.001, 3e-05)
    assert shown["data.location"] == (None, "a: b/größe #1")


@pytest.mark.parametrize("setting", ["train.lr=fast", "train.epochs=0", "tsne.layers=[a]", "data.source='größe'"])
def test_a_wrong_value_on_the_command_line_is_one_line(repository, setting):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "run", "-S", setting],
        **{"cwd": repository.folder, "env": {**os.environ, "PATH": path}, "capture_output": True, "text": True},
    )
    assert result.returncode
    errors = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("error: params.yaml")]
    key = "train.warmup_epochs" if setting == "train.epochs=1" else setting.partition("=")[0]
    assert [line.split(": ")[2] for line in errors] == [key]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_dvc_changes_a_file_saved_by_a_windows_editor(repository, mark):
    path = repository.folder / "params.yaml"
    path.write_bytes((mark + path.read_text("utf-8").replace("\n", "\r\n")).encode())
    repository.commit("saved by an editor")
    repository.dvc("exp", "run", "-S", "train.lr=0.00003")
    assert load_params(path).train.lr == 3e-05


def test_params_diff_of_a_recipe_names_each_value_that_changed_and_no_other(repository):
    shutil.copytree(ROOT / "recipes", repository.folder / "recipes")
    repository.commit("recipes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    apply = [sys.executable, "-m", "pipeline", "recipe", "apply", "food11"]
    result = subprocess.run(apply, cwd=repository.folder, env=environment, capture_output=True, text=True, check=True)
    shown = changes(repository)
    assert shown.keys() == {line.split(":")[0] for line in result.stdout.splitlines()}
    assert shown["model.width"] == (16, 64)
    assert shown["data.location"] == (None, "Datawhale/LeeDL-HW3-CNN")
    assert shown["train.lr"] == (0.001, 0.0003)
    # DVC shows lists as text.
    assert shown["data.classes"][1].startswith("['Bread', 'Dairy product', ")
    assert shown["augment.transforms"][1] == "[]"
    table = repository.dvc("params", "diff", "--md").splitlines()
    assert [" ".join(line.split()) for line in table if "model.width" in line] == [
        "| params.yaml | model.width | 16 | 64 |"
    ]
    assert len([line for line in table if line.startswith("| params.yaml")]) == len(shown)


def test_experiments_are_shown_with_one_column_per_parameter(repository):
    repository.dvc("exp", "run", "-S", "train.lr=0.00003", "-S", "tsne.layers=[hidden1]")
    heading = repository.dvc("exp", "show", "--csv").splitlines()[0].split(",")
    assert {"seed", "train.lr", "data.classes", "tsne.layers", "augment.transforms"} <= set(heading)
