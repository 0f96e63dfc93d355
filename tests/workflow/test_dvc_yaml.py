"""dvc.yaml: a stage lists the folders of code that it imports from, and no stage imports another stage."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.code import code_folders
from pipeline.params.schema import DataParams

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# These never change what a stage writes: messages, progress, environment variables, and the schema, which validates.
WITHOUT_EFFECT = {
    "pipeline/cluster.py",
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


# What code that decides an output may import from these modules although it is text, or decides something.
EXCEPTIONS = {
    "pipeline.params.schema.NEAR_DUPLICATES",  # a value of a parameter, which DVC compares
    "pipeline.git.git",  # the report compares with the commit that it names
    "pipeline.machine.crowded",  # a note about the threads
    "pipeline.progress.byte_progress",  # passes the bytes on
    "pipeline.tensorboard.event_log",  # writes the files of TensorBoard
}


def imports_without_effect() -> set[tuple[str, str, str]]:
    """The file, the module and the name of each import of a stage's code from the modules without effect."""
    found = set()
    for folder in {folder for stage in STAGES for folder in code_folders(stage)}:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                module = str(getattr(node, "module", ""))
                if module.startswith("pipeline.") and folders_of({module}) <= WITHOUT_EFFECT:
                    found |= {(str(path), module, alias.name) for alias in node.names}
    return found


def gives_text(definition: ast.stmt) -> bool:
    """Whether a function, or a public method of a class, can return text, which could be written to an output."""
    if isinstance(definition, ast.ClassDef):
        return any(gives_text(node) for node in definition.body if not getattr(node, "name", "_").startswith("_"))
    if not isinstance(definition, ast.FunctionDef):
        return False
    # An annotation in quotes is a text; without one, anything may be returned.
    returned = ast.unparse(definition.returns) if definition.returns else "Any"
    return bool({"str", "bytes", "Any", "object"} & set(re.findall(r"\w+", returned)))


def test_code_that_decides_an_output_takes_no_text_from_modules_without_effect():
    used = imports_without_effect()
    assert len(used) > 50
    assert not EXCEPTIONS - {f"{module}.{name}" for _, module, name in used}
    for path, module, name in used:
        file = (ROOT / module.replace(".", "/")).with_suffix(".py")
        defined = [node for node in ast.parse(file.read_text("utf-8")).body if getattr(node, "name", "") == name]
        if f"{module}.{name}" not in EXCEPTIONS:
            assert defined, f"{path}: {module}.{name} is neither a function nor a class"
            assert not gives_text(defined[0]), f"{path}: {module}.{name} returns text; move it to pipeline/common"


def test_code_that_decides_an_output_uses_only_the_values_of_the_parameters():
    schema = ast.parse((ROOT / "pipeline/params/schema.py").read_text("utf-8"))
    methods = {
        node.name
        for section in schema.body
        if isinstance(section, ast.ClassDef)
        for node in section.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    for folder in {folder for stage in STAGES for folder in code_folders(stage)}:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            assert not methods & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}, path


# At the end of a module, it adds a marker to each text that one of its functions returns.
MARKING = """

def _mark_texts():
    import functools, inspect, sys

    def marked(function):
        @functools.wraps(function)
        def call(*args, **options):
            result = function(*args, **options)
            if type(result) is str:
                return result + "MARKER"
            return [f"{item}MARKER" for item in result] if type(result) is list else result

        return call

    module = sys.modules[__name__]
    for name, function in list(vars(module).items()):
        ours = inspect.isfunction(function) and function.__module__ == __name__
        if ours and f"{__name__}.{name}" not in EXCEPTIONS:
            setattr(module, name, marked(function))


_mark_texts()
"""


@pytest.mark.slow
def test_no_text_of_a_module_without_effect_reaches_an_output(origin, tmp_path):
    clone = origin.clone_with_cache(tmp_path / "clone")
    modules = [clone.folder / name for name in sorted(WITHOUT_EFFECT - {"pipeline/git.py", "pipeline/params"})]
    for path in modules:
        path.write_text(f"{path.read_text('utf-8')}\n\nEXCEPTIONS = {EXCEPTIONS}{MARKING}", "utf-8")
    output = clone.run("dvc", "repro", "--force", "--no-run-cache")
    assert "MARKER" in output
    assert clone.hashes() == origin.hashes()
    assert clone.run("git", "status", "--porcelain", "results", "dvc.lock").split() in ([], ["M", "dvc.lock"])


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
        passed = {f"data.{name}" for name in DataParams.model_fields}
        passed -= {"data.on_bad_image", "data.corrections", "data.pseudo_labels"}
    assert set(STAGES[stage].get("params", [])) == passed


def test_download_reads_no_parameter_that_it_does_not_depend_on():
    text = "".join(path.read_text("utf-8") for path in (ROOT / "pipeline/download").glob("*.py"))
    listed = set(STAGES["download"]["params"])
    assert not any(name in text for name in DataParams.model_fields if f"data.{name}" not in listed)
