"""Python, its packages, the variables, the device, memory and disks, each wrong in its own way."""

import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.doctor import environment
from pipeline.doctor.finding import ERROR, NOTE, OK
from pipeline.doctor.report import run_check
from pipeline.machine import VARIABLES
from tests.support.doctor import is_ok, problem

PACKAGE = Path(environment.__file__).parents[1]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_every_variable_that_the_code_reads_is_known():
    text = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    assert set(re.findall(r"\b(PIPELINE_[A-Z_]*[A-Z])\b", text)) == set(VARIABLES)


def test_this_environment_is_ok(project, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert is_ok(environment.programs_on_path)
    assert all(finding.status != ERROR for finding in run_check(environment.packages))


def test_python_of_another_environment_on_path_is_an_error_and_the_fix_activates_this_one(project, monkeypatch):
    base = Path(sys.base_prefix) / "bin/python3"
    if not base.exists() or sys.prefix == sys.base_prefix:
        pytest.skip("the tests run without a virtual environment")
    script(project / "bin/python", f'#!/bin/sh\nexec {base} "$@"\n')
    monkeypatch.setenv("PATH", f"{project / 'bin'}:/usr/bin:/bin")
    found = problem(environment.programs_on_path)
    assert "belongs to another environment" in found.found
    command = f"{found.fix.strip('`')} && python -c 'import sys; print(sys.prefix)'"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout.strip() == sys.prefix


def test_no_python_and_a_broken_one_on_path_are_errors(project, monkeypatch):
    monkeypatch.setenv("PATH", str(project))
    assert "there is no python on PATH" in problem(environment.programs_on_path).found
    script(project / "python", "#!/bin/sh\necho cannot open shared object >&2\nexit 127\n")
    assert problem(environment.programs_on_path).found.endswith("does not run: cannot open shared object")


def test_missing_packages_are_errors_and_versions_other_than_the_pinned_ones_notes(project):
    constraints = Path("constraints.txt").read_text("utf-8").replace("tqdm==", "tqdm==0.")
    Path("constraints.txt").write_text(constraints, "utf-8")
    found = problem(environment.packages)
    assert (found.status, "the last bits may differ: tqdm 4." in found.found) == (NOTE, True)
    text = Path("pyproject.toml").read_text("utf-8")
    Path("pyproject.toml").write_text(text.replace('"typer>=', '"no-such-package-anywhere>=1", "typer>='), "utf-8")
    found = problem(environment.packages)
    assert (found.status, found.found) == (ERROR, "missing: no-such-package-anywhere")
    assert found.fix.endswith("-m pip install -c constraints.txt -e .`")


def test_a_complaint_of_pip_check_about_this_project_is_an_error(project, monkeypatch):
    folder = project / "site/image_classification_pipeline-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {environment.PROJECT}\nVersion: 1\nRequires-Dist: none\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(project / "site"))
    found = problem(environment.conflicts)
    assert found.status == ERROR
    assert f"{environment.PROJECT} 1 requires none, which is not installed." in found.found


def test_variables_with_unknown_names_or_wrong_values_are_errors_and_only_known_ones_are_shown(project, monkeypatch):
    for name, value in {
        "PIPELINE_WORKER": "s3cr3t",
        "PIPELINE_PROCESSES": "two",
        "PIPELINE_DEVICE": "cpu",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "HTTPS_PROXY": "http://ann:s3cr3t@proxy:3128",
        "GIT_DIR": "/elsewhere",
    }.items():
        monkeypatch.setenv(name, value)
    other, unknown, wrong, shown = run_check(environment.variables)
    assert (other.status, other.fix) == (NOTE, "`unset GIT_DIR`")
    assert unknown.found.startswith("PIPELINE_WORKER is unknown and has no effect")
    assert unknown.fix == "did you mean PIPELINE_WORKERS? `unset PIPELINE_WORKER`"
    assert wrong.found == "PIPELINE_PROCESSES: got 'two', allowed is a whole number from 1 to 1,024"
    assert wrong.fix == "unset it for 1: `unset PIPELINE_PROCESSES`"
    for text in ("PIPELINE_DEVICE=cpu, PIPELINE_PROCESSES=two", "HTTPS_PROXY=http://***@proxy:3128"):
        assert text in shown.found
    assert "s3cr3t" not in f"{other}{unknown}{wrong}{shown}"


def test_a_device_that_does_not_exist_or_computes_wrong_gradients_is_an_error(project, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "toaster")
    found = problem(environment.device)
    assert (found.status, found.found.startswith("PIPELINE_DEVICE: got 'toaster'")) == (ERROR, True)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    assert run_check(environment.device)[0].status == OK
    right = environment._gradients
    for factor in (2, float("nan")):
        factors = iter((1, factor))
        monkeypatch.setattr(environment, "_gradients", lambda device, factors=factors: right(device) * next(factors))
        assert "gradients differ" in run_check(environment.device)[0].found


def test_a_gpu_that_torch_does_not_use_is_reported(project, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch uses the GPU")
    script(project / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA T4 (UUID: GPU-123)'\n")
    monkeypatch.setenv("PATH", f"{project / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = problem(environment.torch_build)
    assert (found.status, "GPUs: GPU 0: NVIDIA T4; torch cannot use them" in found.found) == (ERROR, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert problem(environment.torch_build).fix == "`unset CUDA_VISIBLE_DEVICES`"
    script(project / "bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert problem(environment.torch_build).status == NOTE


def test_the_memory_limit_of_a_container_counts(project, monkeypatch):
    monkeypatch.setattr("pipeline.machine.CONTROL_GROUPS", project)
    for name, text in {"memory.max": "2000000000", "memory.current": "1500000000"}.items():
        (project / name).write_text(text)
    assert problem(environment.memory).found.startswith("0.5 GB free of 2.0; ")
    (project / "memory.stat").write_text("inactive_file 900000000\n")
    assert run_check(environment.memory)[0].found.startswith("1.4 GB free of 2.0; ")


def test_each_disk_is_listed_once_with_its_uses_and_little_space_is_reported(project, monkeypatch):
    found = run_check(environment.disks)
    for use in ("workspace", "temporary files", "downloads", "DVC's cache"):
        assert sum(finding.found.count(use) for finding in found) == 1
    usage = namedtuple("usage", ["total", "used", "free"])
    for free, status in {9e8: NOTE, 1e8: ERROR}.items():
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: usage(1e10, 1e10 - free, free))
        assert run_check(environment.disks)[0].status == status
