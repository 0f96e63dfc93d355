"""Git is missing, empty, locked, half merged; and the mends work."""

import subprocess
from pathlib import Path

import pytest

from pipeline.doctor import git
from pipeline.doctor.finding import Status
from tests.doctor.conftest import is_well, look, mend, problem

ALL = (git.program, git.repository, git.commit, git.identity, git.locks, git.unfinished, git.changes, git.history)


def name_user(repository) -> None:
    repository.git("config", "user.name", "Ann")
    repository.git("config", "user.email", "ann@localhost")


def test_a_clean_repository_is_well(repository):
    name_user(repository)
    assert all(is_well(check) for check in ALL)
    (commit,) = look(git.commit)
    assert commit.found.startswith(repository.git("rev-parse", "--short", "HEAD").strip())
    assert commit.found.endswith("on main")


def test_without_git_one_error_says_how_to_get_it(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(Path.cwd()))
    found = [finding for check in ALL for finding in look(check)]
    assert [finding.status for finding in found] == [Status.ERROR]
    assert "apt install git" in found[0].mend


def test_a_folder_that_came_as_a_zip_becomes_a_repository(workspace, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ann@localhost")
    Path("a").write_text("a")
    found = problem(git.repository)
    assert "in no git repository" in found.found
    assert look(git.commit) == []
    mend(found, 3)
    assert is_well(git.repository)
    assert is_well(git.commit)


def test_a_repository_without_a_commit_gets_one(repository):
    name_user(repository)
    repository.git("checkout", "-q", "--orphan", "new")
    found = problem(git.commit)
    assert (found.status, "there is none yet" in found.found) == (Status.ERROR, True)
    mend(found, 2)
    assert is_well(git.commit)


def test_a_detached_head_is_said(repository):
    repository.git("checkout", "-q", "--detach")
    assert look(git.commit)[0].found.endswith("on no branch (detached)")


def test_a_user_without_a_name_gets_one(repository):
    found = problem(git.identity)
    assert found.status == Status.NOTE
    mend(found, 2)
    assert is_well(git.identity)
    assert repository.run("git", "config", "user.name") == "Your Name\n"


def test_a_lock_that_was_left_behind_stops_git_until_it_is_removed(repository):
    Path(".git/index.lock").touch()
    assert subprocess.run(["git", "add", "--all"], capture_output=True).returncode != 0
    found = problem(git.locks)
    assert found.status == Status.ERROR
    mend(found)
    assert is_well(git.locks)


def test_conflict_marks_in_the_lock_file_are_taken_out(repository):
    name_user(repository)
    for branch in ("side", "main"):
        repository.git("checkout", "-q", "-B", branch, "HEAD~0" if branch == "side" else "main")
        repository.write("dvc.lock", f"schema: '2.0'\nstages: {{}}  # {branch}\n")
        repository.commit(branch)
    subprocess.run(["git", "merge", "-q", "side"], capture_output=True)
    assert "<<<<<<<" in Path("dvc.lock").read_text()
    found = problem(git.unfinished)
    assert (found.status, found.found) == (Status.ERROR, "not resolved: dvc.lock")
    mend(found, 3)
    assert not [finding for finding in look(git.unfinished) if finding.status == Status.ERROR]
    assert look(git.unfinished)[0].mend.startswith("`git merge --continue`")
    mend(look(git.unfinished)[0])
    assert is_well(git.unfinished)


def test_results_that_are_not_committed_and_code_that_git_does_not_know(repository):
    name_user(repository)
    repository.dvc("repro", "-q")
    repository.commit("ran")
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    assert look(git.changes)[0].status == Status.OK
    repository.dvc("repro", "-q")
    repository.write("pipeline/new.py", "")
    new, changed = look(git.changes)
    assert "pipeline/new.py" in new.found
    assert changed.found.startswith("dvc.lock is not committed")
    mend(new)
    mend(changed)
    assert is_well(git.changes)


def test_a_shallow_clone_gets_its_history(repository, tmp_path, monkeypatch):
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    found = problem(git.history)
    mend(found)
    assert is_well(git.history)


def test_a_part_of_a_larger_repository_is_said(repository, monkeypatch):
    repository.write("part/dvc.yaml", "stages: {}")
    monkeypatch.chdir("part")
    assert "is a part of the repository" in problem(git.repository).found


def test_no_check_changes_the_index(repository):
    """Where a file's time alone is new, git would write it down."""
    index = Path(".git/index").read_bytes()
    for path in Path().glob("*.*"):
        path.touch()
    for check in ALL:
        look(check)
    assert Path(".git/index").read_bytes() == index


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "less than a minute"), (60, "1 minute"), (7300, "2 hours"), (9e4, "1 day"), (1e6, "11 days")],
)
def test_a_time_span_in_words(seconds, words):
    assert git.age(seconds) == words
