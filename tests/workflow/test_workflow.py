"""The whole chain as a user runs it: real DVC in clones of this repository."""

import pandas as pd
import pytest

from pipeline.common.paths import PARAMS, PREDICTIONS
from tests.support.clones import ROOT, SMALL, Clone, stages_run

FOOD10 = ROOT.parent / "shared/data/food10.zip"
AFTER_TRAIN = {"evaluate", "tsne", "predict", "export", "report"}

pytestmark = pytest.mark.slow


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
    clone.commit(given)
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
