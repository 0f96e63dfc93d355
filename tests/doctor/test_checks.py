"""The lists that the checks know things by agree with the rest of the code."""

import re
from pathlib import Path

from pipeline.doctor import dvc_runs
from pipeline.doctor.device import _has_kernels
from pipeline.machine import VARIABLES
from pipeline.train import checkpoint

PACKAGE = Path(__file__).parent.parent.parent / "pipeline"


def test_every_variable_that_the_code_reads_is_known():
    text = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    read = set(re.findall(r"\b(PIPELINE_[A-Z_]*[A-Z])\b", text))
    assert read == set(VARIABLES)


def test_checkpoints_are_looked_for_where_they_are_written():
    assert checkpoint.FOLDER == dvc_runs.CHECKPOINTS


def test_a_gpu_runs_kernels_of_its_kind_that_are_not_newer_and_any_that_can_be_compiled():
    built = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_90a", "compute_90"]
    assert _has_kernels((8, 0), built)
    assert _has_kernels((8, 9), built)
    assert _has_kernels((9, 0), built)
    assert _has_kernels((12, 0), built)  # from compute_90
    assert not _has_kernels((12, 0), built[:-1])
    assert not _has_kernels((7, 0), built)
    assert not _has_kernels((6, 1), built)
