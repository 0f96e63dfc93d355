"""Tests of which code decides a result."""

import pytest

from pipeline.common.code import ROOT, code_digest, code_folders

DVC_YAML = """
stages:
  train: {deps: [pipeline/train, pipeline/common, data/dataset]}
  report: {deps: [pipeline/report, pipeline/common, results/live]}
"""


@pytest.fixture
def repository(tmp_path):
    """A ``dvc.yaml`` with the code and data of two stages."""
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    for name in ("pipeline/train/stage.py", "pipeline/report/stage.py", "pipeline/common/a/b.py", "data/dataset/x.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    return tmp_path


def test_folders_are_those_listed_in_dvc_yaml_without_data(repository):
    assert code_folders("train", root=repository) == ["pipeline/common", "pipeline/train"]
    assert code_folders("train", "report", root=repository) == ["pipeline/common", "pipeline/report", "pipeline/train"]
    assert "pipeline/train" in code_folders("train")
    assert all((ROOT / folder).is_dir() for folder in code_folders("train"))


@pytest.mark.parametrize(
    "name", ["pipeline/report/stage.py", "data/dataset/x.npy", "pipeline/train/__pycache__/stage.pyc", "dvc.yaml"]
)
def test_digest_does_not_depend_on_other_files(repository, name):
    digest = code_digest("train", root=repository)
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("2" if name != "dvc.yaml" else DVC_YAML + "# a comment")
    assert code_digest("train", root=repository) == digest


@pytest.mark.parametrize("name", ["pipeline/train/stage.py", "pipeline/common/a/b.py", "pipeline/train/page.jinja"])
def test_digest_depends_on_the_content_of_each_file(repository, name):
    digests = {code_digest("train", root=repository)}
    for text in ("2", "3"):
        (repository / name).write_text(text)
        digests.add(code_digest("train", root=repository))
    assert len(digests) == 3


def test_digest_depends_on_paths(repository):
    digest = code_digest("train", root=repository)
    (repository / "pipeline/train/stage.py").rename(repository / "pipeline/train/other.py")
    assert code_digest("train", root=repository) != digest
