"""Python, the packages, the variables, the machine, the parameters and the data, wrong in each way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.common.dataset import Manifest
from pipeline.doctor import data, device, machine, parameters, python, variables
from pipeline.doctor.finding import Status
from tests.doctor.conftest import ROOT, is_well, look, mend, problem


@pytest.fixture
def project(workspace):
    """The files that these checks read, without git."""
    for name in ("pyproject.toml", "constraints.txt", "params.yaml"):
        shutil.copy(ROOT / name, name)
    return workspace


def replace(path: str, old: str, new: str) -> None:
    text = Path(path).read_text("utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), "utf-8")


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_this_environment_has_what_the_project_wants(project):
    assert is_well(python.version)
    assert is_well(python.packages)


def test_another_version_of_python_is_refused(project):
    replace("pyproject.toml", '">=3.11,<3.14"', '">=3.99"')
    found = problem(python.version)
    assert (found.status, found.found.endswith("allowed is >=3.99")) == (Status.ERROR, True)


def test_missing_packages_and_wrong_versions_are_named_together(project):
    replace("pyproject.toml", '"tqdm>=4.66,<5"', '"tqdm>=99"')
    replace("pyproject.toml", '"typer>=', '"no-such-package-anywhere>=1", "typer>=')
    found = problem(python.packages)
    assert found.found.startswith("missing: no-such-package-anywhere; wrong version: tqdm 4.")
    assert found.mend == f"`{sys.executable} -m pip install -c constraints.txt -e .`"


def test_versions_that_are_not_the_pinned_ones_are_noted(project):
    Path("constraints.txt").write_text("tqdm==1.0\nnumpy==1.0 ; python_version < '3'\n")
    assert "the last bits may differ: tqdm 4." in problem(python.pins).found


def test_python_of_another_environment_on_path(project, monkeypatch):
    base = Path(sys.base_prefix) / "bin/python3"
    if not base.exists() or sys.prefix == sys.base_prefix:
        pytest.skip("the tests run without a virtual environment")
    script(project / "bin/python", f'#!/bin/sh\nexec {base} "$@"\n')
    monkeypatch.setenv("PATH", f"{project / 'bin'}:/usr/bin:/bin")
    found = problem(python.on_path)
    assert "another environment" in found.found
    command = f"{found.mend.strip('`')} && python -c 'import sys; print(sys.prefix)'"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout.strip() == sys.prefix


def test_no_python_and_a_broken_one_on_path(project, monkeypatch):
    monkeypatch.setenv("PATH", str(project))
    assert "no program python" in problem(python.on_path).found
    script(project / "python", "#!/bin/sh\necho cannot open shared object >&2\nexit 127\n")
    assert problem(python.on_path).found.endswith("does not run: cannot open shared object")


def test_variables_that_are_wrong_or_not_known(project, monkeypatch):
    monkeypatch.setenv("PIPELINE_WORKER", "s3cr3t")
    monkeypatch.setenv("PIPELINE_PROCESSES", "two")
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    unknown, wrong, known = look(variables.settings)
    assert unknown.found.startswith("PIPELINE_WORKER is not known")
    assert unknown.mend == "did you mean PIPELINE_WORKERS? `unset PIPELINE_WORKER`"
    assert wrong.found == "PIPELINE_PROCESSES: got 'two', allowed is a whole number ≥ 1"
    assert wrong.mend == "unset it for 1: `unset PIPELINE_PROCESSES`"
    assert known.found == "PIPELINE_DEVICE=cpu, PIPELINE_PROCESSES=two"
    assert "s3cr3t" not in f"{unknown}{wrong}{known}"


def test_other_variables_are_shown_only_where_they_are_known(project, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    astray, shown = look(variables.others)
    assert astray.mend == "`unset GIT_DIR`"
    assert "CUDA_VISIBLE_DEVICES=''" in shown.found
    assert "s3cr3t" not in shown.found


def test_every_wrong_parameter_has_its_line(project):
    replace("params.yaml", "  epochs: 15 ", "  epochs: abc ")
    replace("params.yaml", "image_size: 32", "image_size: 33")
    found = problem(parameters.valid)
    assert found.status == Status.ERROR
    assert len(found.found.splitlines()) == 2


def test_a_source_that_is_not_there(project):
    replace("params.yaml", "source: digits", "source: folder")
    replace("params.yaml", "location: null", "location: photos")
    assert problem(data.source).found == "data.location: the folder photos does not exist"
    Path("photos").mkdir()
    assert problem(data.source).found == "data.location: the folder photos is empty"
    Path("photos/cats").mkdir()
    assert look(data.source)[0].found == "the folder photos holds 1 folders"
    replace("params.yaml", "source: folder", "source: archive")
    assert problem(data.source).found == "data.location: the archive photos is a folder"


def test_a_dataset_of_modelscope_needs_a_client_or_git_lfs(project, monkeypatch):
    replace("params.yaml", "source: digits", "source: modelscope")
    monkeypatch.setenv("PATH", str(project))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = problem(data.source)
    assert found.status == Status.ERROR
    assert "neither the hub's client nor git-lfs is here" in found.found


def test_damaged_data_is_found_without_reading_it(project):
    Path("data/dataset").mkdir(parents=True)
    Path("data/raw.zip").write_bytes(b"PK")
    assert "data/raw.zip is damaged" in problem(data.raw_archive).found
    assert "holds no packed dataset" in problem(data.dataset).found
    np.save("data/dataset/train.npy", np.zeros((4, 2, 32, 32, 3), np.uint8))
    Manifest(("a", "b"), 32, "crop", (0, 0, 0), (1, 1, 1), {"train": (4, 2, 32, 32, 3)}, "x").write(
        Path("data/dataset")
    )
    assert is_well(data.dataset)
    os.truncate("data/dataset/train.npy", 1000)
    assert problem(data.dataset).found == "data/dataset/train.npy has 1,000 bytes, wanted are 24,576 and a header"


def test_metrics_that_cannot_be_read(project):
    assert problem(data.metrics).status == Status.NOTE
    Path("results/metrics").mkdir(parents=True)
    Path("results/metrics/evaluate.json").write_text("{")
    assert problem(data.metrics).status == Status.ERROR


def test_few_open_files_are_noted_and_raised(project):
    code = "from pipeline.doctor import machine; print(*machine.open_files(None))"
    command = f"ulimit -Sn 256; {sys.executable} -c '{code}'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment).stdout
    assert "at most 256" in output
    assert "`ulimit -n 4096`" in output


def test_more_workers_than_cores_wait(project, monkeypatch):
    monkeypatch.setenv("PIPELINE_WORKERS", "999")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = problem(machine.cores)
    mend(found)
    assert "PIPELINE_WORKERS=" in found.mend


def test_the_limits_of_a_container_count(project, monkeypatch):
    group = project / "group"
    group.mkdir()
    for name, text in {"cpu.max": "150000 100000", "memory.max": "2000000000", "memory.current": "1500000000"}.items():
        (group / name).write_text(text)
    monkeypatch.setattr(machine, "_cgroups", lambda: [group])
    assert machine.cpu_quota() == 1.5
    assert "0.5 GB free of a container's limit of 2.0" in problem(machine.memory).found
    (group / "memory.stat").write_text("inactive_file 900000000\n")
    assert "1.4 GB free" in look(machine.memory)[0].found
    (group / "cpu.max").write_text("max 100000")
    assert machine.cpu_quota() is None


def test_the_disk_of_every_use_is_told_once(project):
    found = look(machine.disks)
    assert sum(finding.found.count("workspace") for finding in found) == 1
    assert all("GB free of" in finding.found for finding in found)


def test_a_device_that_is_not_there(project, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "toaster")
    found = problem(device.device)
    assert found.status == Status.ERROR
    assert found.found.startswith("PIPELINE_DEVICE: got 'toaster'")
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    assert is_well(device.device)
    assert is_well(device.computation)


def test_a_device_that_computes_wrongly_is_told(project, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    right, calls = device._gradients, []
    monkeypatch.setattr(device, "_gradients", lambda place: right(place) * (len(calls) or calls.append(1) or 2))
    assert problem(device.computation).status == Status.ERROR
    monkeypatch.setattr(device, "_gradients", lambda place: right(place) * float("nan"))
    assert problem(device.computation).status == Status.ERROR


def test_a_gpu_that_torch_does_not_use(project, monkeypatch):
    script(project / "bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA T4, 470.82'\n")
    monkeypatch.setenv("PATH", f"{project / 'bin'}:{os.environ['PATH']}")
    (found,) = device._why_no_gpu(["The NVIDIA driver on your system is too old (found version 11040)."], True)
    assert (
        "NVIDIA T4, 470.82 is here, but torch cannot use it: The NVIDIA driver on your system is too old" in found.found
    )
    (found,) = device._why_no_gpu([], False)
    assert found.found.endswith("torch is built without CUDA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (found,) = device._why_no_gpu([], True)
    assert found.mend == "`unset CUDA_VISIBLE_DEVICES`"
    script(project / "bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    (found,) = device._why_no_gpu([], True)
    assert found.status == Status.NOTE
