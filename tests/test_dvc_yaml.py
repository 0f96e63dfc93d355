"""dvc.yaml names the modules whose change can change a stage's output: by hand and by Python's own imports.

That it names exactly those which the tool finds is checked in test_generated.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params.data import DataParams
from tools.generate import WITHOUT_EFFECT, needed_modules

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

# Chosen by hand, so that it does not hang on the tool that writes dvc.yaml alone.
KNOWN = {
    "download": {"pipeline/sources/layout.py", "pipeline/fetching/http.py", "pipeline/params/data.py"},
    "augment": {"pipeline/dataset/transforms.py", "pipeline/audit/page.html.jinja", "pipeline/dataset/decoding.py"},
    "train": {"pipeline/training/losses.py", "pipeline/training/schedules.py", "pipeline/params/model.py"},
    "evaluate": {"pipeline/evaluation/metrics.py", "pipeline/plots/confusion.py"},
    "tsne": {"pipeline/evaluation/embedding.py", "pipeline/plots/scatter.py"},
    "predict": {"pipeline/network/inference.py"},
    "export": {"pipeline/export/onnx_model.py", "pipeline/export/model_card.py"},
    "report": {"pipeline/report/page.html.jinja", "pipeline/report/tsne_chart.py"},
    "learning_rates": {"pipeline/descent.py"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_modules_that_it_is_known_to_use_and_on_no_other_stage(stage):
    named = {dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/")}
    assert named >= KNOWN[stage] | {f"pipeline/stages/{stage}.py"}
    assert {name for name in named if name.startswith("pipeline/stages/")} == {f"pipeline/stages/{stage}.py"}
    assert not named & WITHOUT_EFFECT


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_every_module_that_python_imports_for_it(stage):
    code = (
        f"import sys, pipeline.stages.{stage}; print(*[name for name in sys.modules if name.startswith('pipeline.')])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name.replace(".", "/") + ".py" for name in result.stdout.split()}
    loaded = {file for file in files if (ROOT / file).is_file()} - WITHOUT_EFFECT
    assert loaded <= set(STAGES[stage]["deps"])


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_package_files_hold_a_docstring_alone(path):
    assert [type(node) for node in ast.parse(path.read_text("utf-8")).body] == [ast.Expr]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_its_command_with_the_python_of_the_environment(stage):
    assert STAGES[stage]["cmd"] == f"python -m pipeline {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_takes_no_parameters_but_those_its_command_passes_on(stage):
    source = (ROOT / "pipeline/cli.py").read_text("utf-8")
    command = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == stage)
    call = next(
        node.value
        for node in command.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "stage"
    )
    passed = {ast.unparse(argument).removeprefix("params.") for argument in call.args}
    if stage == "download":
        # It gets the whole section, but what only the next stage reads must not make it run again.
        passed = {f"data.{name}" for name in DataParams.model_fields} - set(STAGES["augment"]["params"])
    assert set(STAGES[stage].get("params", [])) == passed


def test_download_reads_no_parameter_that_it_does_not_depend_on():
    modules = [ROOT / name for name in needed_modules("download") if name != "pipeline/params/data.py"]
    text = "".join(module.read_text("utf-8") for module in modules)
    assert not any(name.removeprefix("data.") in text for name in STAGES["augment"]["params"] if "." in name)
