"""Tests of paths in the repository and in the temporary workspace of an experiment."""

import pwd
from pathlib import Path

import pytest

from pipeline.common.paths import expanded, repository_root, user_path, with_variables
from pipeline.errors import PipelineError


@pytest.fixture
def temporary_workspace(tmp_path, monkeypatch):
    """A folder in which ``dvc exp run --temp`` and ``--queue`` run a stage."""
    folder = tmp_path / "repository/.dvc/tmp/exps/tmpabc"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_in_the_repository_a_location_is_not_changed(workspace):
    assert repository_root() == workspace
    assert user_path("../photos") == Path("../photos")


def test_in_a_temporary_workspace_a_location_is_relative_to_the_repository(temporary_workspace, tmp_path):
    assert repository_root() == tmp_path / "repository"
    assert user_path("../photos").resolve() == tmp_path / "photos"
    assert user_path("/photos") == Path("/photos")


def test_a_tilde_is_the_home_folder_of_the_user_or_of_another_one(workspace, monkeypatch):
    monkeypatch.setenv("HOME", str(workspace / "home"))
    assert user_path("~/photos") == workspace / "home/photos"
    assert user_path("~") == workspace / "home"
    assert user_path("~root/photos") == Path(pwd.getpwnam("root").pw_dir) / "photos"
    assert user_path("photos~/~x") == Path("photos~/~x")


def test_in_a_temporary_workspace_a_tilde_is_the_home_folder_too(temporary_workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_path("~/photos") == tmp_path / "home/photos"


def test_a_home_folder_that_does_not_exist_is_one_line():
    line = "data.location: got ~nobody-here/photos, but there is no home folder ~nobody-here on this machine; "
    with pytest.raises(PipelineError, match=f"^{line}"):
        user_path("~nobody-here/photos")
    with pytest.raises(PipelineError, match=r"^PIPELINE_CACHE: got ~nobody-here, but "):
        expanded("~nobody-here", "PIPELINE_CACHE")


@pytest.mark.parametrize(
    "path",
    ["https://host/a", "Https:/host", "s3://bucket/a", "smb://host", "file:///a", "me:word@host/a", "//me:word@host/a"],
)
def test_a_url_is_no_path(workspace, path):
    with pytest.raises(PipelineError, match=r"PIPELINE_CACHE: got the URL .*, allowed is a path on this machine"):
        expanded(path, "PIPELINE_CACHE")
    for path in ("C:/a", "a/b:c@d", "a@b", "//a/b@c"):
        assert expanded(path, "data.location") == Path(path)


def test_variables_of_a_location_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("PLACE_1", "/mnt/$PLACE_2")
    assert with_variables("$PLACE_1/a.$PLACE_1") == "/mnt/$PLACE_2/a./mnt/$PLACE_2"
    for location in ("a$/b", "cost$", "https://host/a?$filter=x", "$1", "${x}", "$$", "C$"):
        assert with_variables(location) == location


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(monkeypatch, value):
    monkeypatch.delenv("PLACE", raising=False)
    if value is not None:
        monkeypatch.setenv("PLACE", value)
    with pytest.raises(
        PipelineError, match=r"^data.mirrors: the environment variable PLACE is not set; set it: export PLACE="
    ):
        with_variables("https://host/$PLACE", "data.mirrors")
