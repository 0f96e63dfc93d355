"""dvc.yaml: a stage lists the folders of code that it imports from, and no stage imports another stage."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.code import code_folders
from pipeline.params.schema import DataParams

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# These never change what a stage writes: messages, progress, environment variables, and the schema, which validates.
WITHOUT_EFFECT = {
    "pipeline/errors.py",
    "pipeline/git.py",
    "pipeline/machine.py",
    "pipeline/processes.py",
    "pipeline/progress.py",
    "pipeline/tensorboard.py",
    "pipeline/params",
}


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; use the full name of the module"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return {name for name in found if name.startswith("pipeline.")}


def folders_of(names: set[str]) -> set[str]:
    """The folders and the top-level modules of the package that contain these modules."""
    parts = {name.split(".")[1] for name in names}
    return {f"pipeline/{part}" if (ROOT / "pipeline" / part).is_dir() else f"pipeline/{part}.py" for part in parts}


def imports_of_folder(folder: str) -> set[str]:
    return folders_of(set().union(*(imported_modules(path) for path in (ROOT / folder).glob("**/*.py"))))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_at_most_four_folders_of_code_including_its_own(stage):
    folders = code_folders(stage)
    assert f"pipeline/{stage}" in folders
    assert len(folders) <= 4
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_imports_only_the_folders_that_it_lists_and_no_other_stage(stage):
    folders = set(code_folders(stage))
    for folder in folders:
        assert imports_of_folder(folder) <= folders | WITHOUT_EFFECT, folder
    assert not folders & {f"pipeline/{other}" for other in STAGES if other != stage}


def test_modules_without_effect_on_results_import_no_stage():
    stages = {f"pipeline/{stage}" for stage in STAGES}
    for name in WITHOUT_EFFECT - {"pipeline/params"}:
        assert not folders_of(imported_modules(ROOT / name)) & stages, name
    assert not imports_of_folder("pipeline/params") & stages


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_package_files_contain_only_a_docstring(path):
    assert [type(node) for node in ast.parse(path.read_text("utf-8")).body] == [ast.Expr]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_its_command_with_the_python_of_the_environment(stage):
    assert STAGES[stage]["cmd"] == f"python -m pipeline {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_the_parameters_that_its_command_passes_on(stage):
    source = (ROOT / "pipeline/cli.py").read_text("utf-8")
    command = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == stage)
    call = next(
        node.value
        for node in command.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "stage"
    )
    passed = {ast.unparse(argument).removeprefix("params.") for argument in call.args}
    if stage == "download":
        # It gets the whole section, but the parameters that only the next stage reads must not make it run again.
        passed = {f"data.{name}" for name in DataParams.model_fields} - {"data.on_bad_image"}
    assert set(STAGES[stage].get("params", [])) == passed


def test_download_reads_no_parameter_that_it_does_not_depend_on():
    text = "".join(path.read_text("utf-8") for path in (ROOT / "pipeline/download").glob("*.py"))
    listed = set(STAGES["download"]["params"])
    assert not any(name in text for name in DataParams.model_fields if f"data.{name}" not in listed)
