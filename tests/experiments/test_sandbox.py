"""What experiments start from, which code decides their results, and which of them exist."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.common.paths import DETAILS
from pipeline.errors import PipelineError
from pipeline.experiments.sandbox import Sandbox, open_sandbox, take_snapshot

PARAMETERS = {"data": {"source": "digits", "location": None, "labels": None}, "model": {"pretrained": False}}
LOCK = """
stages:
  download:
    cmd: python -m pipeline download
    outs:
      - {path: data/raw.zip, hash: md5, md5: 0abc, size: 5}
"""


def test_the_inputs_are_the_trees_of_the_folders_that_the_stages_list(repository):
    folders = [f"pipeline/{name}" for name in ("augment", "common", "download", "evaluate", "pretrained", "train")]
    expected = {folder: repository.git("rev-parse", f"HEAD:{folder}").strip() for folder in folders}
    inputs = take_snapshot().inputs(PARAMETERS)
    assert {path: inputs[path] for path in expected} == expected
    commands = {f"{name}.cmd" for name in ("download", "augment", "pretrained", "train", "evaluate")}
    assert inputs.keys() - expected.keys() == {"data/source.json", *commands}


@pytest.mark.parametrize("is_committed", [False, True], ids=["in the workspace", "in a commit"])
@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("pipeline/train/stage.py", True),
        ("pipeline/common/stage.py", True),
        ("pipeline/report/stage.py", False),
        ("README.md", False),
        (".gitignore", False),
    ],
)
def test_only_changes_in_folders_of_the_stages_count(repository, path, counts, is_committed):
    before = take_snapshot().inputs(PARAMETERS)
    repository.write(path, "# changed\n")
    if is_committed:
        repository.commit("changed")
    assert (take_snapshot().inputs(PARAMETERS) != before) == counts


def test_what_the_user_adds_to_a_stage_counts(repository):
    found = [take_snapshot().inputs(PARAMETERS)]
    repository.replace("dvc.yaml", "train: {cmd: echo, deps: [", "train: {cmd: echo 1, deps: [")
    found.append(take_snapshot().inputs(PARAMETERS))
    repository.write("extra/weights.csv", "1")
    repository.replace("dvc.yaml", "train: {cmd: echo 1, deps: [", "train: {cmd: echo 1, deps: [extra/weights.csv, ")
    repository.git("add", "extra")
    found.append(take_snapshot().inputs(PARAMETERS))
    repository.write("extra/weights.csv", "2")
    found.append(take_snapshot().inputs(PARAMETERS))
    assert all(found.count(inputs) == 1 for inputs in found)


def test_a_new_file_counts_once_git_tracks_it(repository, capsys):
    before = take_snapshot().inputs(PARAMETERS)
    repository.write("pipeline/train/new.py", "")
    assert take_snapshot().inputs(PARAMETERS) == before
    message = "git does not track pipeline/train/new.py: experiments run without; git add what they need\n"
    assert capsys.readouterr().out == message
    repository.git("add", "pipeline/train/new.py")
    assert take_snapshot().inputs(PARAMETERS) != before
    assert capsys.readouterr().out == ""


def test_other_images_count(repository):
    before = take_snapshot().inputs(PARAMETERS)
    repository.write("dvc.lock", LOCK)
    assert take_snapshot().inputs(PARAMETERS) == before  # its images are pinned already
    hub = {**PARAMETERS, "data": {**PARAMETERS["data"], "source": "modelscope", "location": "owner/name"}}
    for revision, counts in ((None, True), ("master", True), ("0" * 40, False)):
        params = {**hub, "data": {**hub["data"], "revision": revision}}
        assert ("data/raw.zip" in take_snapshot().inputs(params)) == counts


def test_corrections_count_and_have_to_be_tracked_by_git(repository):
    params = {**PARAMETERS, "data": {**PARAMETERS["data"], "corrections": "./corrections.csv"}}
    before = take_snapshot().inputs(PARAMETERS)
    repository.write("corrections.csv", "id,label\n")
    with pytest.raises(PipelineError, match=r"git does not track data.corrections, corrections.csv; add it: git add"):
        take_snapshot().inputs(params)
    repository.git("add", "corrections.csv")
    first = take_snapshot().inputs(params)
    assert first.keys() - before.keys() == {"corrections.csv"}
    repository.write("corrections.csv", "id,label\ncat/1.png,drop\n")
    assert take_snapshot().inputs(params) != first


def test_images_that_changed_since_the_last_run_count_and_those_that_are_not_here_do_not(repository):
    data = PARAMETERS | {"data": {**PARAMETERS["data"], "source": "folder", "location": "photos"}}
    nowhere = take_snapshot().inputs(data)
    repository.write("photos/cat/1.png", "one")
    before = take_snapshot().inputs(data)
    assert before != nowhere
    repository.write("photos/cat/1.png", "eno")
    assert take_snapshot().inputs(data) != before
    repository.write("photos/cat/1.png", "one")
    assert take_snapshot().inputs(data) == before


def test_a_snapshot_has_staged_and_other_changes_and_leaves_the_index_alone(repository):
    repository.write("README.md", "staged\n")
    repository.git("add", "README.md")
    repository.write("README.md", "changed again\n")
    before = repository.git("diff"), repository.git("diff", "--cached")
    snapshot = take_snapshot()
    assert repository.git("show", f"{snapshot.tree}:README.md") == "changed again\n"
    assert (repository.git("diff"), repository.git("diff", "--cached")) == before
    assert snapshot.head == repository.git("rev-parse", "HEAD").strip()


@pytest.mark.parametrize("prepare", ["nothing", "git init", "inside"])
def test_experiments_need_a_repository_with_a_commit(prepare, workspace, monkeypatch):
    if prepare != "nothing":
        subprocess.run(["git", "init", "-q"], check=True)
    if prepare == "inside":
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x", "--allow-empty"])
        Path("folder").mkdir()
        monkeypatch.chdir("folder")
    with pytest.raises(PipelineError, match=r"^experiments need "):
        take_snapshot()


def test_an_experiment_is_found_by_its_name_on_any_commit(repository):
    sandbox = Sandbox(Path("nowhere"), take_snapshot())
    assert sandbox.find("lr-001-*") is None
    old = repository.git("rev-parse", "HEAD").strip()
    repository.git("update-ref", f"refs/exps/{old[:2]}/{old[2:]}/lr-001-abc", "HEAD")
    repository.write("README.md", "new\n")
    repository.commit("second")
    sandbox = Sandbox(Path("nowhere"), take_snapshot())
    found = sandbox.find("*-abc")
    assert (found.name, found.baseline) == ("lr-001-abc", old)
    assert sandbox.find("lr-002-*") is None
    # That of HEAD comes first, as for dvc exp apply.
    new = sandbox.snapshot.head
    repository.git("update-ref", f"refs/exps/{new[:2]}/{new[2:]}/lr-001-abc", "HEAD")
    assert sandbox.find("*-abc").baseline == new


def test_a_sandbox_is_for_one_process(repository):
    snapshot, folder = take_snapshot(), Path(".dvc/tmp/seeds/name")
    with (
        open_sandbox(folder, snapshot, "the first"),
        pytest.raises(PipelineError, match=r"^another process runs the sweep x; wait for it$"),
        open_sandbox(folder, snapshot, "the sweep x"),
    ):
        pass
    with open_sandbox(folder, snapshot, "the second") as sandbox:
        assert sandbox.folder == folder.absolute()


def test_while_what_a_killed_process_left_is_removed_its_sandbox_can_be_opened(repository, monkeypatch):
    snapshot, left = take_snapshot(), Path(".dvc/tmp/seeds/left")
    (left / "inside").mkdir(parents=True)
    opened = []

    def remove(path, **options):
        if path.name.startswith(".left"):
            with open_sandbox(left, snapshot, "the second"):
                opened.append(path)
        rmtree(path, **options)

    rmtree = shutil.rmtree
    monkeypatch.setattr("pipeline.experiments.sandbox.shutil.rmtree", remove)
    with open_sandbox(left.with_name("first"), snapshot, "the first"):
        assert len(opened) == 1
    assert {path.suffix for path in left.parent.iterdir()} == {".lock", ".running"}


def test_dvc_applies_an_experiment_of_another_commit_by_its_name(repository):
    snapshot = take_snapshot()
    with open_sandbox(Path(".dvc/tmp/seeds/name"), snapshot, "a test") as sandbox:
        assert sandbox.run("seed-1-abc", ["seed=1", "train.lr=1"])
        sandbox.fetch("seed-1-abc")
    repository.write("README.md", "new\n")
    repository.commit("second")
    experiment = Sandbox(Path("nowhere"), take_snapshot()).find("seed-1-*")
    assert experiment.baseline == snapshot.head
    assert experiment.results("evaluate") == {"accuracy": 1.0}
    assert experiment.results("evaluate", DETAILS) == {"split": "auto"}
    repository.dvc("exp", "apply", experiment.name)
    assert json.loads(Path("results/metrics/evaluate.json").read_text()) == {"accuracy": 1.0}
    assert "seed: 1 " in Path("params.yaml").read_text()
