"""dvc.yaml names every module whose change can change a stage's output, and no other."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params.data import DataParams

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

# These can change what a stage says on the way, never what it writes.
WITHOUT_EFFECT = {
    "pipeline/errors.py",
    "pipeline/machine.py",
    "pipeline/progress.py",
    "pipeline/tensorboard.py",
    "pipeline/training_progress.py",
}


def imported_modules(path: Path) -> set[Path]:
    """The modules inside ``pipeline/`` that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what a module needs"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        for name in names:
            if name.split(".")[0] != "pipeline":
                continue
            file = ROOT / (name.replace(".", "/") + ".py")
            package = ROOT / name.replace(".", "/") / "__init__.py"
            found |= {candidate for candidate in (file, package) if candidate.exists()}
    return found


def needed_modules(stage: str) -> set[str]:
    """Every module that a stage's own module reaches, relative to the root."""
    waiting, seen = [ROOT / f"pipeline/stages/{stage}.py"], set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported_modules(path)
    # A template lies beside the module that fills it in.
    seen |= {template for path in list(seen) for template in path.parent.glob("*.jinja")}
    names = {path.relative_to(ROOT).as_posix() for path in seen}
    # A package's own file holds a docstring alone, which the test below makes sure of.
    return {name for name in names if not name.endswith("__init__.py")} - WITHOUT_EFFECT


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_exactly_the_modules_it_reaches(stage):
    named = {dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/")}
    assert named == needed_modules(stage)


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
