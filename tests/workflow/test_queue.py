"""Experiments in temporary workspaces, one after another and two at a time, by real DVC from a fresh clone."""

import hashlib
import io
import re
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.common.paths import DATASET, MODEL
from tests.support.clones import SECONDS, Workspace
from tests.support.loopback import LoopbackServer

TRAIN = Path("pipeline/train/stage.py")
# Long enough to be killed in the middle.
LONG = ("-S", "train.epochs=60")


@pytest.fixture
def clone(origin, tmp_path):
    """A fresh ``git clone`` with an empty ``data/``; its cache has the dataset, and no training of another test."""
    clone = origin.clone_with_cache(tmp_path / "clone", checkout=False)
    yield clone
    clone.run("dvc", "queue", "stop", "--kill")


def queue(clone: Workspace, name: str, *settings: str, target: str = "train") -> None:
    clone.run("dvc", "exp", "run", "--queue", "--name", name, *settings, target)


def statuses(clone: Workspace) -> dict[str, str]:
    """The status of each task by its name: Queued, Running, Success or Failed."""
    lines = clone.run("dvc", "queue", "status").splitlines()
    return dict(re.findall(r"^\w{7} +(\S+) .* (\w+) *$", "\n".join(lines), re.MULTILINE))


def wait_until(condition: Callable[[], object], pause: float = 0.2) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(pause)


def wait_for_all(clone: Workspace) -> dict[str, str]:
    """Wait until no task is queued or running; return how each one ended."""
    # dvc queue status takes a core for a second.
    wait_until(lambda: not {"Queued", "Running"} & set(statuses(clone).values()), pause=2)
    return statuses(clone)


def logs(clone: Workspace, name: str) -> str:
    return clone.run("dvc", "queue", "logs", name)


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(origin, tmp_path_factory):
    """The hash of the weights after the long training without interruption."""
    clone = origin.clone_with_cache(tmp_path_factory.mktemp("undisturbed") / "clone")
    clone.run("dvc", "exp", "run", "--name", "whole", *LONG, "train")
    return clone.hashes()[MODEL.as_posix()]


def test_two_tasks_of_a_fresh_clone_link_the_dataset_and_leave_the_workspace_alone(clone):
    (clone.folder / "notes.txt").write_text("of the user")
    (clone.folder / "data/own.bin").write_text("ignored by git")
    (clone.folder / ".dvc/tmp").mkdir(exist_ok=True)
    (clone.folder / ".dvc/tmp/kept").write_text("so that git reports the folder before and after")
    before = clone.run("git", "status", "--porcelain", "--ignored")
    queue(clone, "lr-2", "-S", "train.lr=0.002")
    queue(clone, "lr-3", "-S", "train.lr=0.003")
    assert statuses(clone) == {"lr-2": "Queued", "lr-3": "Queued"}
    clone.run("dvc", "queue", "start", "-j", "2")
    cached, seen = inodes(clone.folder / ".dvc/cache"), {}

    def both_trained() -> bool:
        for process in clone.trainings():
            with suppress(psutil.Error):
                folder = Path(process.cwd())
                seen[folder] = {path.name: path.stat().st_ino for path in (folder / DATASET).glob("*.npy")}
        return len(seen) == 2

    wait_until(both_trained)
    for arrays in seen.values():
        assert set(arrays) == {"train.npy", "valid.npy", "test.npy"}
        assert set(arrays.values()) <= cached
    assert wait_for_all(clone) == {"lr-2": "Success", "lr-3": "Success"}
    table = pd.read_csv(io.StringIO(clone.run("dvc", "exp", "show", "--csv"))).set_index("Experiment")
    assert table.loc[["lr-2", "lr-3"], "train.lr"].tolist() == [0.002, 0.003]
    assert (table.loc[["lr-2", "lr-3"], "valid_accuracy"] > 0.5).all()
    assert clone.hashes("lr-2")[MODEL.as_posix()] != clone.hashes("lr-3")[MODEL.as_posix()]
    assert clone.run("git", "status", "--porcelain", "--ignored") == before
    assert (clone.folder / "notes.txt").read_text() == "of the user"
    assert not list((clone.folder / ".dvc/tmp/exps").glob("tmp*"))


@pytest.mark.slow
def test_two_tasks_with_the_same_training_train_once(clone):
    for k in (2, 3):
        queue(clone, f"top-{k}", "-S", f"evaluate.top_k={k}", *LONG, target="evaluate")
    clone.run("dvc", "queue", "start", "-j", "2")
    assert wait_for_all(clone) == {"top-2": "Success", "top-3": "Success"}
    output = {name: logs(clone, name) for name in ("top-2", "top-3")}
    waited = [name for name, text in output.items() if "another process runs the same training" in text]
    assert len(waited) == 1
    assert "epoch 61, step 0" in output[waited[0]]
    assert sum(text.count("epoch 60 of 60:") for text in output.values()) == 1
    assert clone.hashes("top-2")[MODEL.as_posix()] == clone.hashes("top-3")[MODEL.as_posix()]
    assert not (clone.folder / ".checkpoints").exists()


@pytest.mark.slow
def test_a_task_runs_the_code_that_it_was_queued_with(clone):
    code = (clone.folder / TRAIN).read_text()
    for name in ("one", "two"):
        (clone.folder / TRAIN).write_text(f"{code}\nprint('code {name}', flush=True)\n")
        queue(clone, name)
    (clone.folder / TRAIN).write_text(f"{code}\nraise SystemExit('code of the workspace')\n")
    queue(clone, "broken")
    (clone.folder / TRAIN).write_text(f"{code}\nraise SystemExit('code of later')\n")
    clone.run("dvc", "queue", "start")
    assert wait_for_all(clone) == {"one": "Success", "two": "Success", "broken": "Failed"}
    for name, text in (("one", "code one"), ("two", "code two"), ("broken", "code of the workspace")):
        output = logs(clone, name)
        assert text in output
        assert output.count("\ncode ") == 1


def kill_process(clone: Workspace, name: str) -> None:
    for process in clone.trainings():
        process.kill()


def kill_task(clone: Workspace, name: str) -> None:
    clone.run("dvc", "queue", "kill", "--force", name)


def ask_task(clone: Workspace, name: str) -> None:
    clone.run("dvc", "queue", "kill", name)


def stop_queue(clone: Workspace, name: str) -> None:
    clone.run("dvc", "queue", "stop", "--kill")


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_process, kill_task, ask_task, stop_queue])
def test_a_killed_task_queued_again_resumes_and_ends_in_the_same_bits(clone, undisturbed, kill):
    queue(clone, "first", *LONG)
    clone.run("dvc", "queue", "start")
    wait_until(clone.checkpoints)
    kill(clone, "first")
    assert wait_for_all(clone) == {"first": "Failed"}
    # With --force DVC kills only its own process and the training continues: the second one waits for it.
    queue(clone, "second", *LONG)
    clone.run("dvc", "queue", "start")
    assert wait_for_all(clone)["second"] == "Success"
    output = logs(clone, "second")
    assert "train: resumes from " in output
    assert "epoch 1 of 60:" not in output
    assert clone.hashes("second")[MODEL.as_posix()] == undisturbed
    assert not (clone.folder / ".checkpoints").exists()


@pytest.mark.slow
def test_a_temporary_experiment_that_is_killed_resumes_too(clone, undisturbed):
    command = ("dvc", "exp", "run", "--temp", "--name", "temporary", *LONG, "train")
    with clone.start(*command) as process:
        wait_until(clone.checkpoints)
        kill_process(clone, "temporary")
        assert process.wait() != 0
    output = clone.run(*command)
    assert "train: resumes from " in output
    assert clone.hashes("temporary")[MODEL.as_posix()] == undisturbed


class Site(LoopbackServer):
    """A web server with one archive, which counts its requests."""

    def __init__(self, content: bytes) -> None:
        self.content, self.requests = content, 0
        super().__init__()

    def answer(self, request) -> None:
        self.requests += 1
        request.send_response(200)
        request.send_header("Content-Length", str(len(self.content)))
        request.end_headers()
        # Slowly, so that the other task starts during the download.
        for start in range(0, len(self.content), 20_000):
            request.wfile.write(self.content[start : start + 20_000])
            time.sleep(1)


def archive_of_digits() -> bytes:
    """A zip of 40 digits, ``{class}_{number}.png``."""
    digits, file = load_digits(), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(40):
            image = io.BytesIO()
            pixels = (digits.images[number] * 255 / 16).astype("uint8")
            Image.fromarray(pixels).resize((96, 96)).save(image, "PNG", compress_level=0)
            archive.writestr(f"{digits.target[number]}_{number}.png", image.getvalue())
    return file.getvalue()


@pytest.mark.slow
def test_two_tasks_that_need_the_same_download_fetch_it_once(origin, tmp_path):
    clone = origin.git_clone(tmp_path / "clone")
    clone.environment = {**clone.environment, "PIPELINE_CACHE": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    content = archive_of_digits()
    with Site(content) as site:
        sha256 = hashlib.sha256(content).hexdigest()
        clone.change({"data.source": "archive", "data.location": f"{site.url}/digits.zip", "data.sha256": sha256})
        clone.commit("an archive at a URL")
        for views in (0, 1):
            queue(clone, f"views-{views}", "-S", f"augment.views={views}", target="augment")
        clone.run("dvc", "queue", "start", "-j", "2")
        assert wait_for_all(clone) == {"views-0": "Success", "views-1": "Success"}
        assert site.requests == 1
    assert clone.hashes("views-0")["data/raw.zip"] == clone.hashes("views-1")["data/raw.zip"]


def test_a_relative_location_is_relative_to_the_repository_in_a_temporary_workspace_too(origin, tmp_path):
    clone = origin.git_clone(tmp_path / "clone")
    with zipfile.ZipFile(io.BytesIO(archive_of_digits())) as archive:
        archive.extractall(tmp_path / "photos")
    settings = ("-S", "data.source=folder", "-S", "data.location=../photos")
    clone.run("dvc", "exp", "run", "--temp", "--name", "photos", *settings, "download")
    assert clone.hashes("photos")["data/raw.zip"] != origin.hashes()["data/raw.zip"]
