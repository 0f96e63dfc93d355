"""Files of the project agree with each other: versions, commands, paths, packages."""

import ast
import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from tests.support.workflow_steps import workflow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
GUIDES = ("README.md", "CONTRIBUTING.md")
# Folders that commands create, which the guides may name beside those of the repository.
CREATED = {".venv", ".nox", "htmlcov", "data", "results", "dvc_plots", ".checkpoints"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def supported() -> list[str]:
    """The minor versions of Python 3 that requires-python allows."""
    allowed = SpecifierSet(PROJECT["requires-python"])
    return [f"3.{minor}" for minor in range(50) if f"3.{minor}.99" in allowed]


def code_of(name: str) -> list[str]:
    """The code of a guide: the lines of its code blocks, and text between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```\w*\n.*?^```", "", text_of(name), flags=re.MULTILINE | re.DOTALL)
    return [*"\n".join(blocks).splitlines(), *re.findall(r"`([^`\n]+)`", prose)]


def test_this_python_is_supported():
    assert f"3.{sys.version_info.minor}" in supported()


def test_classifiers_name_the_supported_pythons():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert named == supported()


def test_nox_tests_the_supported_pythons():
    versions = re.search(r"^PYTHONS = (\[.*\])$", text_of("noxfile.py"), re.MULTILINE)[1]
    assert ast.literal_eval(versions) == supported()


def test_workflow_tests_the_supported_pythons():
    assert workflow("ci")["jobs"]["tests"]["strategy"]["matrix"]["python"] == supported()


def test_each_job_uses_a_supported_python():
    for name in ("ci", "experiment"):
        for job in workflow(name)["jobs"].values():
            versions = [step["with"].get("python-version") for step in job["steps"] if "with" in step]
            fixed = [version for version in versions if version and "matrix" not in version]
            assert set(fixed) <= set(supported())


def test_dev_container_uses_a_supported_python():
    lines = [line for line in text_of(".devcontainer/devcontainer.json").splitlines() if line.strip()[:2] != "//"]
    version = re.search(r"python:(3\.\d+)-", json.loads("\n".join(lines))["image"])[1]
    assert version in supported()
    assert f"PYTHON=python{version}" in text_of(".devcontainer/set-up")


@pytest.mark.parametrize("name", [*GUIDES, "Makefile"])
def test_guides_name_the_first_and_the_last_supported_python(name):
    assert re.findall(r"Python (3\.\d+) to (3\.\d+)", text_of(name))[0] == (supported()[0], supported()[-1])


def test_makefile_and_pyproject_allow_the_same_pythons():
    first, end = re.search(r"\((\d, \d+)\) <= sys\.version_info < \((\d, \d+)\)", text_of("Makefile")).groups()
    assert PROJECT["requires-python"] == f">={first.replace(', ', '.')},<{end.replace(', ', '.')}"


def test_linters_check_for_the_first_supported_python():
    tools = tomllib.loads(text_of("pyproject.toml"))["tool"]
    assert tools["ruff"]["target-version"] == f"py{supported()[0].replace('.', '')}"
    assert tools.get("mypy", {}).get("python_version", supported()[0]) == supported()[0]


@pytest.mark.parametrize("name", [*GUIDES, ".pre-commit-config.yaml", ".yamllint.yaml"])
def test_each_named_target_of_the_makefile_exists(name):
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    code = code_of(name) if name.endswith(".md") else re.findall(r"`([^`\n]+)`", text_of(name))
    named = {target for line in code for target in re.findall(r"(?:^|\$ |&& )make ([a-z-]+)", line)}
    assert named
    assert named <= targets


def test_each_target_of_the_makefile_is_phony():
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.search(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)[1].split()) == targets


def test_each_session_of_nox_that_is_named_exists():
    functions = {node.name for node in ast.parse(text_of("noxfile.py")).body if isinstance(node, ast.FunctionDef)}
    named = re.findall(r"nox -s ([a-z]+)", text_of("CONTRIBUTING.md") + text_of("noxfile.py"))
    assert named
    assert set(named) <= functions


def test_changelog_begins_with_the_version():
    assert re.search(r"^## \[([^\]]+)\]", text_of("CHANGELOG.md"), re.MULTILINE)[1] == PROJECT["version"]


def test_citation_has_the_version_and_the_licence():
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["title"] == PROJECT["name"]
    assert PROJECT["license"] in text_of("LICENSE").splitlines()[0]


@pytest.mark.parametrize("name", GUIDES)
def test_each_named_path_exists(name):
    named = {word.rstrip("/") for code in code_of(name) for word in re.findall(r"(?<![\w./:$-])[\w.-]+/[\w./-]*", code)}
    known = {path.name for path in ROOT.iterdir()}
    # Other words with a slash are owners on a hub, units, or examples of the reader's own files.
    paths = {path for path in named if path.split("/")[0] in known | CREATED}
    assert paths
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert {path for path in missing if path.split("/")[0] not in CREATED} == set()


def test_architecture_names_each_folder_of_the_package():
    folders = [path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")]
    assert folders
    assert [folder for folder in folders if f"{folder}/" not in text_of("docs/architecture.md")] == []


def test_readme_names_each_stage():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert [stage for stage in stages if f"| `{stage}` |" not in text_of("README.md")] == []


def requirements(without: str = "") -> list[Requirement]:
    extras = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra != without]
    return [Requirement(line) for group in [PROJECT["dependencies"], *extras] for line in group]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_each_dependency_is_pinned_to_a_version_that_it_allows(requirement):
    if requirement.name == PROJECT["name"]:
        assert requirement.extras <= set(PROJECT["optional-dependencies"])
        return
    pins = {}
    for line in text_of("constraints.txt").splitlines():
        name, _, version = line.partition(" ;")[0].partition("==")
        pins[canonicalize_name(name)] = version.strip()
    assert Version(pins[canonicalize_name(requirement.name)]) in requirement.specifier


def imported_packages() -> set[str]:
    """The top-level names that the modules of the package import, at their top or in a function."""
    names = set()
    for path in ROOT.glob("pipeline/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"pipeline", "_typeshed"}


def test_each_package_that_the_code_imports_is_a_declared_dependency():
    # Of DVC, and starlette of FastAPI.
    parts = {"configobj", "dvc-data", "scmrepo", "starlette"}
    declared = {canonicalize_name(requirement.name) for requirement in requirements(without="dev")} | parts
    distributions = importlib.metadata.packages_distributions()
    imported = imported_packages()
    assert {"torch", "cv2", "modelscope_hub", "psutil"} <= imported
    missing = {name for name in imported if not {canonicalize_name(d) for d in distributions[name]} & declared}
    assert not missing


def test_each_linter_is_also_a_hook():
    hooks = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    entries = [hook["entry"] for hook in hooks]
    recipes = re.search(r"^lint:.*?\n\n", text_of("Makefile"), re.MULTILINE | re.DOTALL)[0] + "\tmypy\n"
    for command in re.findall(r"^\t(.*)$", recipes, re.MULTILINE):
        words = [word for word in command.split() if "/" not in word and word not in (".", ".github", "CITATION.cff")]
        assert any(entry.startswith(" ".join(words)) for entry in entries), command


def test_hooks_fetch_nothing():
    config = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert {hook["language"] for hook in config["repos"][0]["hooks"]} == {"unsupported"}


def commands(text: str) -> list[str]:
    """The code blocks without their comments."""
    blocks = re.findall(r"^```\w*\n.*?^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r" +# .*$", "", block, flags=re.MULTILINE) for block in blocks]


def links(text: str) -> set[str]:
    """The links and pictures of a page."""
    return set(re.findall(r"\]\(([^)]+)\)", text))


def test_chinese_readme_has_the_commands_links_and_pictures_of_the_english_one():
    english, chinese = (text_of(name) for name in ("README.md", "README.zh-CN.md"))
    assert commands(english) == commands(chinese)
    assert links(english) - {"README.zh-CN.md"} == links(chinese) - {"README.md"}
    headings_and_rows = re.compile(r"^(#+|\|) ", re.MULTILINE)
    assert headings_and_rows.findall(english) == headings_and_rows.findall(chinese)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_links_and_pictures_of_a_page_exist(page):
    for target in links(page.read_text("utf-8")):
        path, _, _ = target.partition("#")
        if path and "://" not in path:
            assert (page.parent / path).exists(), target
