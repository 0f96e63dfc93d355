"""Git, the parameters, the data and DVC, each broken in its own way; the printed fixes work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.doctor import project as checks
from pipeline.doctor.finding import ERROR, NOTE
from pipeline.doctor.report import run_check
from pipeline.source.stage import source
from pipeline.train.checkpoint import checkpoint_path
from tests.support.doctor import apply_fix, is_ok, problem

PROJECT_CHECKS = (checks.git_repository, checks.changes, checks.parameters, checks.checkpoints)
DVC_CHECKS = (checks.dvc_doctor, checks.dvc_lock, checks.experiments, checks.stages)


def contents(folder: Path) -> dict[str, int]:
    """The files of a repository by their modification times, without DVC's own temporary files."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "tmp" not in path.parts]
    return {str(path): path.stat().st_mtime_ns for path in paths if path.name != "index"}


def test_a_repository_that_ran_is_ok_and_no_check_changes_it(repository):
    index = Path(".git/index").read_bytes()
    for path in Path().glob("*.*"):
        path.touch()  # git would note the new times in its index
    before = contents(repository.folder)
    for check in (*PROJECT_CHECKS, *DVC_CHECKS):
        assert is_ok(check), check
    assert contents(repository.folder) == before
    assert Path(".git/index").read_bytes() == index


@pytest.mark.parametrize(
    ("broken_by", "status", "found", "fixes"),
    [
        ("rm -rf .git", ERROR, "this folder is in no git repository", 3),
        ("git checkout -q --orphan new", ERROR, "there is no commit yet, which dvc exp run needs", 2),
        ("git config --unset user.name", NOTE, "git has no user.name, which git commit, ", 1),
        ("touch .git/index.lock", ERROR, ".git/index.lock exists, so git add and git commit fail", 1),
        ("git config --global --unset safe.directory", ERROR, "git does not trust this folder, because ", 1),
    ],
)
def test_a_broken_repository_is_ok_after_the_printed_fix(repository, monkeypatch, broken_by, status, found, fixes):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ann@localhost")
    if "safe.directory" in broken_by:
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests use it
    subprocess.run(["bash", "-c", broken_by])
    finding = problem(checks.git_repository)
    assert (finding.status, finding.found[: len(found)]) == (status, found)
    apply_fix(finding, fixes)
    assert all(finding.status != ERROR for finding in run_check(checks.git_repository))


def test_a_detached_head_a_folder_below_the_root_and_a_missing_git_are_reported(repository, monkeypatch):
    repository.git("checkout", "-q", "--detach")
    assert run_check(checks.git_repository)[0].found.endswith("on no branch (detached HEAD)")
    monkeypatch.chdir("code")
    assert "need the root of a repository" in problem(checks.git_repository).found
    monkeypatch.setenv("PATH", str(Path.cwd()))
    assert "apt install git" in problem(checks.git_repository).fix
    assert run_check(checks.changes) == []


def test_uncommitted_results_and_untracked_code_are_noted(repository):
    repository.write("dvc.lock", Path("dvc.lock").read_text() + "\n")
    repository.write("pipeline/new.py", "")
    new, lock, changed = run_check(checks.changes)
    assert "git does not track pipeline/new.py" in new.found
    assert lock.found.startswith("dvc.lock is not committed")
    assert changed.found == "since the commit: dvc.lock"
    apply_fix(new)
    apply_fix(lock)
    assert is_ok(checks.changes)


def test_every_invalid_parameter_has_its_line(project):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("  epochs: 15 ", "  epochs: abc ").replace("size: 32", "size: 33"))
    found = problem(checks.parameters)
    assert (found.status, len(found.found.splitlines())) == (ERROR, 2)


def test_a_data_source_in_a_home_folder_that_does_not_exist_is_an_error(project):
    text = Path("params.yaml").read_text("utf-8").replace("source: digits", "source: folder")
    Path("params.yaml").write_text(text.replace("location: null", "location: ~nobody-here/photos"), "utf-8")
    found = problem(checks.parameters)
    assert found.status == ERROR
    assert found.found.startswith("data.location: got ~nobody-here/photos, but there is no home folder ~nobody-here on")


def test_a_data_source_with_the_files_of_the_project_is_an_error(project):
    text = Path("params.yaml").read_text("utf-8").replace("source: digits", "source: folder")
    Path("params.yaml").write_text(text.replace("location: null", "location: data"), "utf-8")
    Path("data").mkdir(exist_ok=True)
    found = problem(checks.parameters)
    assert found.status == ERROR
    assert found.found.startswith("data.location: got data, which contains the project's own files; move the images")


def test_a_network_of_a_library_that_is_not_installed_is_an_error(project, monkeypatch):
    text = Path("params.yaml").read_text("utf-8").replace("name: classifier", "name: timm/resnet18d")
    Path("params.yaml").write_text(text, "utf-8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = problem(checks.parameters)
    assert found.found == "model.name: timm/resnet18d needs the package timm"
    assert ".[timm]" in found.fix


def test_a_data_source_that_is_missing_empty_or_of_another_kind_is_an_error(project, monkeypatch):
    text = Path("params.yaml").read_text("utf-8").replace("location: null", "location: photos")
    Path("params.yaml").write_text(text.replace("source: digits", "source: folder"), "utf-8")
    assert problem(checks.parameters).found == "data.location: photos does not exist, and data.source is folder"
    Path("photos").mkdir()
    assert problem(checks.parameters).found == "data.location: the folder photos is empty"
    Path("photos/cats").mkdir()
    assert is_ok(checks.parameters)
    Path("params.yaml").write_text(text.replace("source: digits", "source: archive"), "utf-8")
    assert problem(checks.parameters).found == "data.location: photos is a folder, and data.source is archive"
    text = text.replace("location: photos", "location: owner/photos")
    Path("params.yaml").write_text(text.replace("source: digits", "source: modelscope"), "utf-8")
    monkeypatch.setenv("PATH", str(project))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs the package modelscope-hub or git-lfs" in problem(checks.parameters).found


def test_a_source_that_changed_since_the_last_run_is_noted_with_counts(project):
    Path(".dvc").mkdir()
    Path("photos/cat").mkdir(parents=True)
    for name in "abc":
        Path(f"photos/cat/{name}.png").write_text(name)
    text = Path("params.yaml").read_text("utf-8").replace("location: null", "location: photos")
    Path("params.yaml").write_text(text.replace("source: digits", "source: folder"), "utf-8")
    assert is_ok(checks.parameters)  # nothing has run
    source("folder", "photos", None)
    Path("photos/cat/a.png").touch()
    assert is_ok(checks.parameters)
    Path("photos/cat/a.png").write_text("x")
    Path("photos/cat/b.png").unlink()
    for name in "de":
        Path(f"photos/cat/{name}.png").write_text(name)
    before = contents(Path())
    found = problem(checks.parameters)
    changes = "2 added, 1 removed, 1 changed"
    assert found.found == f"data.source: folder photos has changed since the last dvc repro: {changes}"
    assert (found.status, found.fix, contents(Path())) == (NOTE, "`dvc repro`", before)
    shutil.rmtree(".dvc/tmp")  # as in another clone
    assert problem(checks.parameters).found.endswith(": 3 files of 3 bytes before, 4 files of 4 bytes now")
    source("folder", "photos", None)
    assert is_ok(checks.parameters)


def test_checkpoints_are_found_where_training_writes_them(project, monkeypatch):
    for _ in range(2):
        path = checkpoint_path("0123")
        path.parent.mkdir()
        path.write_bytes(b"x" * 2_000_000)
        found = problem(checks.checkpoints)
        assert "2.0 MB: its training is running or was interrupted" in found.found
        assert "0123.pt" in found.found
        monkeypatch.setenv("PIPELINE_CHECKPOINTS", str(project / "elsewhere"))


@pytest.mark.parametrize(
    ("path", "text", "check"),
    [
        (".dvc/config", "[core\nremote", checks.dvc_doctor),
        ("dvc.yaml", "stages:\n  evaluate:\n    outputs: x\n", checks.stages),
        ("dvc.lock", "<<<<<<< HEAD\nschema: '2.0'\n", checks.stages),
    ],
)
def test_a_broken_file_of_dvc_is_an_error_of_one_line(repository, path, text, check):
    repository.write(path, text)
    found = problem(check)
    assert found.status == ERROR
    assert "config file error" in found.found or path in found.found
    assert "\n" not in found.found
    assert "Traceback" not in found.found


def test_a_lock_blocks_dvc_if_its_number_belongs_to_another_program_and_is_free_if_dvc_was_killed(repository):
    def lock(pid: int) -> None:
        path = str(Path("results/evaluation").absolute())
        Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {path: {"pid": pid, "cmd": "dvc repro"}}}))

    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    code = "import time; time.sleep(60)"
    with (
        subprocess.Popen([sys.executable, "-c", code]) as other,
        subprocess.Popen([sys.executable, "-c", code, "dvc"]) as dvc,
    ):
        lock(other.pid)
        stopped = subprocess.run([sys.executable, "-m", "dvc", "repro"], capture_output=True, text=True)
        assert "is busy" in stopped.stderr
        found = problem(checks.dvc_lock)
        assert (found.status, f"names process {other.pid}, which is python" in found.found) == (ERROR, True)
        apply_fix(found)
        repository.dvc("repro", "-q")
        lock(dvc.pid)
        assert f"`dvc repro` is running as process {dvc.pid}" in problem(checks.dvc_lock).found
        other.kill()
        dvc.kill()
    assert run_check(checks.dvc_lock)[0].found == "free"


@pytest.mark.parametrize("text", ["{", "[1]", '{"write": {"a": {"pid": "x"}}}'])
def test_a_damaged_lock_is_removed(repository, text):
    Path(".dvc/tmp/rwlock").write_text(text)
    apply_fix(problem(checks.dvc_lock))
    assert is_ok(checks.dvc_lock)


def test_experiments_in_the_queue_and_leftover_workspaces_are_noted(repository):
    repository.dvc("exp", "run", "-q", "--queue", "-S", "train.lr=0.5,0.6")
    for name in ("exps/tmpabc", "folds/abc"):
        repository.write(f".dvc/tmp/{name}/params.yaml", "")
    for name in ("folds/abc.lock", "seeds/abc.running"):  # stay after each run
        repository.write(f".dvc/tmp/{name}", "")
    queued, leftover = run_check(checks.experiments)
    assert queued.found == "2 queued; Worker status: 0 active, 0 idle"
    assert leftover.found.endswith("were killed: 2")
    apply_fix(leftover)
    assert problem(checks.experiments) == queued


def test_changed_parameters_and_code_and_deleted_outputs_are_named_and_the_fix_runs_the_stage(repository):
    subprocess.run(["rm", "-r", "results/evaluation"], check=True)
    assert "evaluate: changed outs: results/evaluation deleted" in problem(checks.stages).found.splitlines()
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    repository.replace("code/stage.py", "import json", "import json, os")
    found = problem(checks.stages)
    assert "evaluate: changed deps: code/stage.py modified, train.lr modified" in found.found.splitlines()
    apply_fix(found)
    assert is_ok(checks.stages)


def test_a_stage_that_always_runs_is_noted_only_if_it_changed(repository):
    repository.replace(
        "dvc.yaml", "stages:", "stages:\n  source: {cmd: echo, always_changed: true, deps: [.gitignore]}"
    )
    repository.dvc("repro", "-q")
    assert json.loads(repository.dvc("status", "--json")) == {"source": ["always changed"]}
    assert is_ok(checks.stages)
    repository.write(".gitignore", "results/*\n")
    assert problem(checks.stages).found.splitlines()[1:] == ["source: changed deps: .gitignore modified"]


def test_a_status_that_takes_too_long_is_noted(repository, monkeypatch):
    monkeypatch.setattr(checks, "STATUS_SECONDS", 0.01)
    found = problem(checks.stages)
    assert (found.status, found.found.startswith("not compared: no answer within 0.01 s")) == (NOTE, True)


def test_a_running_dvc_command_is_waited_for(repository):
    code = "import sys, time, zc.lockfile; a = zc.lockfile.LockFile(sys.argv[1]); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, ".dvc/tmp/lock"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert problem(checks.stages).found == "not compared: another DVC command is running"
        process.kill()
