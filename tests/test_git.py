"""The one way to call git."""

import subprocess

import pytest

from pipeline.errors import PipelineError
from pipeline.git import git


@pytest.fixture
def repository(workspace):
    subprocess.run(["git", "init", "-q", "-b", "main"], check=True)
    return workspace


def test_output_is_returned_without_white_space_around_it(repository):
    assert git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert git("status", "--porcelain") == ""


def test_git_runs_in_the_folder_that_is_given(repository, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert git("rev-parse", "--show-toplevel", folder=repository) == str(repository.resolve())


def test_environment_of_one_call_is_that_call_s_alone(repository, monkeypatch):
    monkeypatch.delenv("GIT_AUTHOR_NAME", raising=False)
    identity = {f"GIT_AUTHOR_{what}": value for what, value in (("NAME", "Ada"), ("EMAIL", "ada@localhost"))}
    assert git("var", "GIT_AUTHOR_IDENT", **identity).startswith("Ada <ada@localhost> ")
    assert "Ada" not in git("-c", "user.name=Bob", "-c", "user.email=b@localhost", "var", "GIT_AUTHOR_IDENT")


def test_file_names_that_are_not_utf_8_survive(repository):
    name = b"\xff.txt".decode("utf-8", "surrogateescape")
    (repository / name).write_text("")
    assert git("ls-files", "-z", "--others").split("\0")[:-1] == [name]


def test_failure_is_one_line_in_english(repository, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with pytest.raises(PipelineError, match=r"^git rev-parse: fatal: Needed a single revision$"):
        git("rev-parse", "--verify", "nowhere")


def test_failure_without_a_message_names_the_exit_code(repository):
    with pytest.raises(PipelineError, match=r"^git diff: exit code 1$"):
        git("diff", "--no-index", "--quiet", "/dev/null", "/etc/hostname")


def test_a_missing_git_is_one_line(workspace, monkeypatch):
    monkeypatch.setenv("PATH", str(workspace))
    with pytest.raises(PipelineError, match=r"^git is not installed$"):
        git("status")


def test_status_takes_no_lock_on_the_index(repository):
    """Another git at work would fail if a query of ours held the lock."""
    (repository / "a.txt").write_text("a")
    git("add", "a.txt")
    (repository / ".git/index.lock").touch()
    assert git("status", "--porcelain") == "A  a.txt"
