"""The workflows of GitHub: the linters pass and find mistakes, and the workflows contain no logic of their own."""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.workflow_steps import FOLDER, run_step, run_steps, workflow

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in FOLDER.glob("*.yml"))
JOBS = [(name, job) for name in NAMES for job in workflow(name)["jobs"]]
LINTERS = re.findall(r"^\t((?:yamllint|check-jsonschema|zizmor) .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def lint(folder, *only):
    """Run the linters of ``make lint`` in a folder and return the output of those that failed."""
    output = ""
    for command in LINTERS:
        if not only or command.split()[0] in only:
            program = Path(sys.executable).parent / command
            result = subprocess.run(["bash", "-c", str(program)], cwd=folder, capture_output=True, text=True)
            output += (result.stdout + result.stderr) if result.returncode else ""
    return output


@pytest.fixture
def checkout(tmp_path):
    """A repository with the files that the linters check."""
    for name in (".yamllint.yaml", ".gitignore", "CITATION.cff", "dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    for path in (ROOT / ".github").rglob("*.yml"):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text("utf-8"), "utf-8")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def test_make_lint_has_five_linters_of_other_files_than_python():
    assert [command.split()[0] for command in LINTERS] == ["yamllint", *["check-jsonschema"] * 3, "zizmor"]


def test_linters_find_nothing(checkout):
    assert lint(checkout) == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "linter", "message"),
    [
        ("ci.yml", "timeout-minutes: 15", "timeout-minutes: soon", "check-jsonschema", "timeout-minutes"),
        ("ci.yml", "  tests:\n    name", "  lint:\n    name", "yamllint", "duplication of key"),
        ("ci.yml", "    permissions:\n      contents: read\n", "    permissions: write-all\n", "zizmor", "permissions"),
        ("ci.yml", "persist-credentials: false", "show-progress: false", "zizmor", "artipacked"),
        ("ci.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1  # v7.0.1", "@v7", "zizmor", "unpinned-uses"),
        (
            "experiment.yml",
            'experiment_report.py "$BASE"',
            "experiment_report.py ${{ github.head_ref }}",
            "zizmor",
            "template-injection",
        ),
        ("experiment.yml", "  pull_request:\n", "  pull_request_target:\n", "zizmor", "dangerous-triggers"),
    ],
)
def test_linters_find_mistakes(checkout, file, old, new, linter, message):
    path = checkout / ".github/workflows" / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    assert message in lint(checkout, linter)


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_scripts_have_valid_syntax_and_no_expressions(name, job):
    for title, script in run_steps(name, job).items():
        assert "${{" not in script, title
        subprocess.run(["bash", "-n", "-c", script], check=True)


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_each_job_sets_its_time_limit_and_its_permissions(name, job):
    assert workflow(name)["permissions"] == {}
    assert workflow(name)["jobs"][job]["timeout-minutes"] <= 120
    assert workflow(name)["jobs"][job]["permissions"]


def test_only_the_job_that_runs_no_code_of_the_branch_has_write_access():
    writing = [(name, job) for name, job in JOBS if "write" in workflow(name)["jobs"][job]["permissions"].values()]
    assert writing == [("experiment", "comment")]
    comment = workflow("experiment")["jobs"]["comment"]
    assert not any("checkout" in step.get("uses", "") for step in comment["steps"])
    # A fork's token is read-only.
    assert "head.repo.full_name == github.repository" in comment["if"]


def test_experiment_workflow_sets_its_shell():
    # The default is bash without pipefail: a list of comments that cannot be read would lead to a second comment.
    assert workflow("experiment")["defaults"]["run"]["shell"] == "bash"


@pytest.mark.parametrize("job", workflow("ci")["jobs"])
def test_ci_runs_targets_of_the_makefile(job):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for script in run_steps("ci", job).values():
        command, target = script.split()[:2]
        assert command == "make"
        assert target in targets


def test_ci_script_runs_what_the_workflow_runs():
    script = (ROOT / ".ci/run").read_text()
    steps = [step for job in ("lint", "tests") for step in run_steps("ci", job).values()]
    assert re.findall(r"^make .*", script, re.MULTILINE) == [re.match(r"make [a-z-]+", step)[0] for step in steps]


def test_long_proofs_run_on_a_schedule_and_on_demand():
    assert {"schedule", "workflow_dispatch"} <= workflow("ci")["on"].keys()
    assert workflow("ci")["jobs"]["long-proofs"]["if"].count("github.event_name") == 2
    assert "make test-all" in str(run_steps("ci", "long-proofs"))


@pytest.mark.parametrize(
    ("audit", "code", "output"),
    [
        ("exit 0", 0, ""),
        ("echo 'diskcache 5.6.3' > \"${@: -1}\"; exit 1", 1, "diskcache 5.6.3\n"),
        ("exit 1", 0, "::warning::The vulnerabilities could not be looked up; run this workflow again later\n"),
    ],
    ids=["nothing found", "a vulnerability", "no answer"],
)
def test_the_audit_fails_for_a_vulnerability_and_not_for_an_outage(tmp_path, monkeypatch, audit, code, output):
    (tmp_path / "pipx").write_text(f"#!/bin/bash\n{audit}\n")
    (tmp_path / "pipx").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    done = run_step(
        run_steps("audit", "dependencies")["Audit"], tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary")
    )
    assert (done.returncode, done.stdout) == (code, output)


def test_uploaded_files_are_outputs_of_stages():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values()
    written = {"params.yaml", "dvc.lock"}
    for stage in stages:
        for entry in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            written.add(entry if isinstance(entry, str) else next(iter(entry)))
    steps = workflow("experiment")["jobs"]["experiment"]["steps"]
    kept = next(step["with"]["path"] for step in steps if step.get("id") == "results").split()
    assert len(kept) == 6
    assert [pattern for pattern in kept if not fnmatch.filter(written, pattern)] == []
