"""DVC is missing, misconfigured, locked or without its cache; and the mends work."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.doctor import dvc_runs, dvc_setup, stages
from pipeline.doctor.finding import Status
from pipeline.doctor.privacy import shareable
from tests.doctor.conftest import is_well, look, mend, problem

SETUP = (dvc_setup.version, dvc_setup.repository, dvc_setup.links, dvc_setup.remotes, dvc_setup.secrets)
RUNS = (dvc_runs.lock, dvc_runs.queue, dvc_runs.leftovers, dvc_runs.checkpoints)


pytestmark = pytest.mark.slow


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if ".git" not in path.parts}


def of(name: str, check=stages.stages):
    (found,) = [finding for finding in look(check) if finding.name == name]
    return found


def test_a_fresh_repository_is_well_and_stays_as_it_is(repository):
    repository.dvc("config", "cache.type", "hardlink,symlink,copy")
    for folder in Path(".dvc/tmp"), Path(".dvc/cache"):
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    before = files(repository.folder)
    assert all(is_well(check) for check in (*SETUP, *RUNS))
    look(stages.stages)
    assert files(repository.folder).keys() == before.keys()


def test_a_repository_that_ran_stays_as_it_is(repository):
    repository.dvc("repro", "-q")
    before = files(repository.folder)
    for check in (*SETUP, *RUNS, stages.stages):
        look(check)
    after = files(repository.folder)
    assert after.keys() == before.keys()
    changed = [path for path, at in after.items() if at != before[path] and Path(path).is_file()]
    assert not changed


def test_without_its_folder_dvc_says_how_to_get_it_back(repository):
    subprocess.run(["rm", "-rf", ".dvc"], check=True)
    found = problem(dvc_setup.repository)
    assert (found.status, "no folder .dvc" in found.found) == (Status.ERROR, True)
    assert look(stages.stages) == look(dvc_setup.links) == []
    mend(found)
    assert is_well(dvc_setup.repository)


@pytest.mark.parametrize("text", ["[core\nremote", "[cache]\n    type = softlink\n"])
def test_a_configuration_that_cannot_be_read_is_taken_back(repository, text):
    Path(".dvc/config").write_text(text)
    found = problem(dvc_setup.repository)
    assert found.status == Status.ERROR
    mend(found)
    assert is_well(dvc_setup.repository)


def test_a_temporary_folder_that_cannot_be_written_to(repository):
    subprocess.run(["rm", "-rf", ".dvc/tmp"], check=True)
    Path(".dvc/tmp").touch()  # rights do not stop the administrator, who runs the tests in a container
    assert problem(dvc_setup.repository).status == Status.ERROR


def test_copies_where_links_would_do_are_noted(repository):
    repository.dvc("config", "cache.type", "copy")
    found = problem(dvc_setup.links)
    assert found.found.startswith("copy: each output is on the disk twice; works here: ")
    mend(found)
    assert look(dvc_setup.links)[0].found.startswith("hardlink; ")


def test_reflinks_where_the_file_system_has_none_are_noted(repository):
    repository.dvc("config", "cache.type", "reflink,hardlink,symlink,copy")
    (found,) = look(dvc_setup.links)
    if found.found.startswith("reflink; "):
        pytest.skip("this file system has reflinks")
    assert found.found.startswith("DVC takes a copy for a reflink: each new output folder is on the disk twice; ")
    mend(found)
    assert look(dvc_setup.links)[0].found.startswith("hardlink; ")


def test_the_cache_on_another_file_system_is_linked_by_symlinks(repository):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == Path.cwd().stat().st_dev:
        pytest.skip("there is no second file system")
    cache = other / f"doctor-{os.getpid()}"
    cache.mkdir()
    try:
        repository.dvc("cache", "dir", str(cache))
        repository.dvc("config", "cache.type", "hardlink,symlink,copy")
        assert look(dvc_setup.links)[0].found.startswith("symlink; works here: symlink, copy")
        assert list(cache.iterdir()) == []
        repository.dvc("config", "cache.type", "hardlink")
        found = problem(dvc_setup.links)
        assert found.status == Status.ERROR
        mend(found)
        assert is_well(dvc_setup.links)
    finally:
        subprocess.run(["rm", "-rf", str(cache)], check=True)


def test_remotes_are_named_without_their_credentials(repository):
    repository.dvc("remote", "add", "--default", "web", "https://ann:s3cr3t@example.org/store?token=s3cr3t")
    repository.dvc("remote", "add", "away", "/no/such/folder")
    found = look(dvc_setup.remotes)
    assert "s3cr3t" not in shareable(found[0].found)
    assert "(default)" in found[0].found
    assert (found[1].status, "no such folder" in found[1].found) == (Status.NOTE, True)
    assert "a url with a password" in problem(dvc_setup.secrets).found
    assert "s3cr3t" not in problem(dvc_setup.secrets).found


def test_a_remote_that_is_not_the_default_becomes_it(repository, tmp_path):
    repository.dvc("remote", "add", "disk", str(tmp_path))
    found = problem(dvc_setup.remotes)
    mend(found)
    assert is_well(dvc_setup.remotes)


def test_a_remote_of_a_kind_that_is_not_installed(repository):
    repository.dvc("remote", "add", "--default", "drive", "gdrive://folder/x")
    found = problem(dvc_setup.remotes)
    assert found.status == Status.ERROR
    assert "'dvc[gdrive]'" in found.mend


def test_a_lock_of_a_running_command_is_told(repository):
    repository.dvc("repro", "-q")
    code = (
        "import sys, time, zc.lockfile; lock = zc.lockfile.LockFile(sys.argv[1]); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, ".dvc/tmp/lock"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = problem(dvc_runs.lock)
        process.kill()
    assert f"process {process.pid}" in found.found
    assert is_well(dvc_runs.lock)


def hold(pid: int, command: str) -> None:
    Path(".dvc/tmp").mkdir(exist_ok=True)
    path = str(Path("results/evaluation").absolute())
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {path: {"pid": pid, "cmd": command}}, "read": {}}))


def test_a_lock_whose_process_number_passed_on_stops_dvc_until_it_is_removed(repository):
    repository.dvc("repro", "-q")
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    with subprocess.Popen(["sleep", "60"]) as process:
        hold(process.pid, "dvc repro")
        stopped = subprocess.run([sys.executable, "-m", "dvc", "repro"], capture_output=True, text=True)
        assert "is busy" in stopped.stderr
        found = problem(dvc_runs.lock)
        assert (found.status, "sleep" in found.found) == (Status.ERROR, True)
        mend(found)
        repository.dvc("repro", "-q")
        process.kill()
    assert is_well(dvc_runs.lock)


def test_a_lock_of_a_killed_command_is_nothing_to_mend(repository):
    hold(2**22 - 7, "dvc repro")
    assert "dvc repro" in look(dvc_runs.lock)[0].found
    assert is_well(dvc_runs.lock)


@pytest.mark.parametrize("text", ["{", "[1]", '{"write": {"a": {"pid": "x"}}}'])
def test_a_damaged_lock_is_removed(repository, text):
    hold(1, "")
    Path(".dvc/tmp/rwlock").write_text(text)
    mend(problem(dvc_runs.lock))
    assert is_well(dvc_runs.lock)


def test_experiments_that_wait_are_counted(repository, monkeypatch):
    repository.git("config", "user.name", "Ann")
    repository.git("config", "user.email", "ann@localhost")
    repository.dvc("exp", "run", "-q", "--queue", "-S", "train.lr=0.5,0.6")
    found = problem(dvc_runs.queue)
    assert found.found == "2 experiments wait, and no worker runs"
    repository.dvc("queue", "remove", "--queued")
    assert is_well(dvc_runs.queue)


def test_what_killed_experiments_left_is_found_and_removed(repository):
    repository.write(".dvc/tmp/exps/tmpabc/params.yaml", "x" * 3_000_000)
    found = problem(dvc_runs.leftovers)
    assert "1 temporary workspaces (3 MB)" in found.found
    mend(found)
    assert look(dvc_runs.leftovers) == []


def test_a_training_that_was_stopped_waits(repository):
    repository.write(".checkpoints/0123.pt", "x" * 2_000_000)
    os.utime(".checkpoints/0123.pt", (time.time() - 7300,) * 2)
    found = problem(dvc_runs.checkpoints)
    assert found.found.startswith(".checkpoints/0123.pt, 2.0 MB, 2 hours old")


def test_a_stage_that_never_ran_runs(repository):
    assert of("evaluate").found == "never ran: dvc.lock does not know it"
    assert of("dvc repro").found == "would bring back or run evaluate"
    mend(of("evaluate"))
    assert look(stages.stages)[0].found == "up to date"


def test_changed_parameters_and_code_are_named(repository):
    repository.dvc("repro", "-q")
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    repository.replace("code/stage.py", "import json", "import json, os")
    assert of("evaluate").found == "changed since it ran: code/stage.py, train.lr"
    mend(of("evaluate"))
    assert is_well(stages.stages)


def test_outputs_come_back_from_the_cache(repository):
    repository.dvc("repro", "-q")
    subprocess.run(["rm", "-rf", "results/evaluation"], check=True)
    assert of("evaluate").found == "in the cache, but not here: results/evaluation"
    mend(of("evaluate"))
    assert is_well(stages.stages)


def test_outputs_that_the_cache_lost_are_made_again(repository):
    repository.dvc("repro", "-q")
    subprocess.run(["rm", "-rf", "results/evaluation", ".dvc/cache/files"], check=True)
    assert of("evaluate").found == "not here, nor in the cache: results/evaluation"
    mend(of("evaluate"))
    assert is_well(stages.stages)


def test_one_missing_file_of_a_folder_in_the_cache_is_noticed(repository):
    repository.dvc("repro", "-q")
    wanted = Path("results/evaluation/predictions.csv").read_bytes()
    file = next(path for path in Path(".dvc/cache/files/md5").glob("*/*") if path.read_bytes() == wanted)
    file.unlink()
    assert of("evaluate").found == "here, but not in the cache: results/evaluation"
    mend(of("evaluate"))
    assert is_well(stages.stages)


def test_an_output_changed_by_hand_goes_back_or_is_kept(repository):
    repository.dvc("repro", "-q")
    path = Path("results/evaluation/predictions.csv")
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(b"mine")
    found = of("evaluate")
    assert found.found == "changed by hand, or by another run: results/evaluation"
    mend(found)
    assert path.read_bytes() == good
    path.unlink()
    path.write_bytes(b"mine")
    mend(type(found)("", found.status, "", "`" + found.mend.split("`")[3] + "`"))
    assert (path.read_bytes(), is_well(stages.stages)) == (b"mine", True)


def test_an_output_that_git_tracks_stops_dvc_until_it_is_taken_out(repository):
    repository.git("config", "user.name", "Ann")
    repository.git("config", "user.email", "ann@localhost")
    repository.dvc("repro", "-q")
    repository.git("add", "--force", "results/evaluation")
    repository.commit("too much")
    repository.replace("params.yaml", "  lr: 0.001 ", "  lr: 0.5 ")
    stopped = subprocess.run([sys.executable, "-m", "dvc", "repro"], capture_output=True, text=True)
    assert "already tracked by SCM" in stopped.stderr
    found = of("outputs")
    assert found.status == Status.ERROR
    mend(found, 2)
    repository.dvc("repro", "-q")
    assert is_well(stages.stages)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("dvc.yaml", "stages:\n  evaluate:\n    cmd: [\n"),
        ("dvc.yaml", "stages:\n  evaluate:\n    outputs: x\n"),
        ("dvc.lock", "<<<<<<< HEAD\nschema: '2.0'\n"),
    ],
)
def test_a_broken_workflow_is_one_error_that_names_the_file(repository, path, text):
    repository.write(path, text)
    (found,) = look(stages.stages)
    assert found.status == Status.ERROR
    assert path in found.found
    assert "\n" not in found.found


def test_large_data_that_dvc_does_not_know_yet_is_not_read(repository, monkeypatch):
    repository.dvc("repro", "-q")
    path = Path("results/evaluation/predictions.csv")
    path.unlink()
    path.write_bytes(b"x" * 2000)
    monkeypatch.setattr(stages, "MOST_READ", 1000)
    assert of("evaluate").found.startswith("not compared: DVC does not know the hashes of 0.0 GB")


def test_dvc_works_without_git(repository):
    repository.dvc("repro", "-q")
    subprocess.run(["rm", "-rf", ".git"], check=True)
    assert is_well(dvc_setup.repository)
    assert is_well(stages.stages)
