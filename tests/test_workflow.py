"""The whole chain as a user runs it: real DVC in clones of this repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.paths import METRICS, PARAMS, PREDICTIONS

ROOT = Path(__file__).parent.parent
FOOD10 = ROOT.parent / "shared/data/food10.zip"
# Small, but it learns something, so that another learning rate shows in the metrics.
SMALL = {"augment.views": 1, "train.epochs": 3, "model.width": 8, "model.dropout": 0.0, "train.ema_decay": 0.0}

pytestmark = pytest.mark.slow


class Clone:
    """A git repository with a copy of the working tree, and commands run in it."""

    def __init__(self, folder: Path, changes: dict) -> None:
        self.folder = folder
        listed = self.run_in(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.change(changes)
        self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "clone")

    def change(self, changes: dict) -> None:
        yaml = YAML()
        params = yaml.load(self.folder / PARAMS)
        for key, value in changes.items():
            section, name = key.split(".")
            params[section][name] = value
        yaml.dump(params, self.folder / PARAMS)

    def run(self, *command: str, fails: bool = False) -> str:
        return self.run_in(self.folder, *command, fails=fails)

    @staticmethod
    def run_in(folder: Path, *command: str, fails: bool = False) -> str:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        output = result.stdout + result.stderr
        assert (result.returncode != 0) == fails, output
        return output

    def metrics(self, stage: str) -> dict:
        return json.loads((self.folder / METRICS / f"{stage}.json").read_text())

    def hashes(self) -> dict[str, str]:
        lock = YAML(typ="safe").load(self.folder / "dvc.lock")
        outs = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
        del outs["results/report.html"]  # it names the commit that it compares with
        return outs


AFTER_TRAIN = {"evaluate", "tsne", "predict", "export", "report"}


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"), SMALL)
    clone.first_output = clone.run("dvc", "repro")
    return clone


def test_repro_in_a_fresh_clone_runs_every_stage(clone):
    run = stages_run(clone.first_output)
    assert [stage for stage in run if stage in ("download", "augment", "train")] == ["download", "augment", "train"]
    assert set(run) == {"download", "augment", "train", *AFTER_TRAIN, "learning_rates"}
    assert clone.metrics("evaluate")["images"] == 359
    assert len(pd.read_csv(clone.folder / PREDICTIONS / "submission.csv")) == 359


def test_repro_again_runs_nothing(clone):
    output = clone.run("dvc", "repro")
    assert stages_run(output) == []
    assert "up to date" in output


def test_git_sees_only_the_lock_and_the_metrics_change(clone):
    changed = [line[3:] for line in clone.run("git", "status", "--porcelain", "-uall").splitlines()]
    assert all(path == "dvc.lock" or path.startswith("results/metrics/") for path in changed)


def test_another_clone_gives_the_same_hash_for_every_output(clone, tmp_path):
    other = Clone(tmp_path, SMALL)
    other.run("dvc", "repro")
    assert other.hashes() == clone.hashes()


def test_plots_of_all_stages_can_be_shown(clone):
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots/index.html").read_text()
    for plot in ("Loss", "Accuracy", "Confusion matrix", "t-SNE", "tsne.png"):
        assert plot in page


# The last two change the clone's workspace; 0.00003 is written to params.yaml as 3e-05.
@pytest.mark.parametrize(("given", "number"), [("3e-4", 3e-4), ("0.00003", 3e-5)])
def test_an_experiment_reruns_train_and_what_follows(clone, given, number):
    clone.run("git", "add", "-A")
    clone.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", given)
    output = clone.run("dvc", "exp", "run", "-S", f"train.lr={given}")
    run = stages_run(output)
    assert run[0] == "train"
    assert set(run) == {"train", *AFTER_TRAIN}
    steps = pd.read_csv(clone.folder / "results/plots/steps.csv")
    assert steps["lr"].max() == pytest.approx(number)
    difference = clone.run("dvc", "metrics", "diff")
    assert "evaluate.json" in difference
    assert "accuracy" in difference
    assert f"{number:g}" in clone.run("dvc", "exp", "show", "--csv")


def test_a_wrong_parameter_fails_in_one_line_before_any_work(clone):
    before = clone.hashes()
    output = clone.run("dvc", "exp", "run", "-S", "train.epochs=abc", fails=True)
    clone.run("git", "checkout", "--", PARAMS.name)
    assert "error: params.yaml: train.epochs: got 'abc', allowed is an integer (≥ 1 and ≤ 100,000)" in output
    assert "Traceback" not in output
    assert clone.hashes() == before


@pytest.mark.skipif(not FOOD10.exists(), reason="the photos of ../shared/data are not here")
def test_real_photos_go_from_an_archive_to_a_submission(tmp_path):
    changes = {
        "data.source": "archive",
        "data.location": str(FOOD10),
        "data.sha256": "1e2ee432229f0d38b27a3d7685abb76f8e8fdbd8e4f5d4fd308356e47e99bc76",
        "augment.image_size": 64,
        "augment.views": 0,
        "train.epochs": 2,
    }
    clone = Clone(tmp_path, changes)
    clone.run("dvc", "repro")
    submission = pd.read_csv(clone.folder / PREDICTIONS / "submission.csv", dtype=str)
    assert list(submission["Id"]) == [f"{number:04}" for number in range(1, 631)]
    # 620 labelled images; ten classes guessed at random give 0.1.
    assert clone.metrics("evaluate")["split"] == "valid"
    assert clone.metrics("evaluate")["accuracy"] > 0.15
