"""The whole chain as a user runs it: real DVC in clones of this repository."""

import json
import time

import pandas as pd
import psutil
import pytest

from pipeline.common.code import code_digest
from pipeline.common.paths import MODEL, PARAMS, PREDICTIONS
from tests.support.clones import ROOT, SMALL, Clone, Workspace, stages_run

FOOD10 = ROOT.parent / "shared/data/food10.zip"
AFTER_TRAIN = {"evaluate", "tsne", "predict", "explain", "export", "report"}


@pytest.fixture
def clone(origin, tmp_path):
    return origin.clone_with_cache(tmp_path / "clone")


@pytest.fixture(scope="module")
def unchanged(origin, tmp_path_factory):
    """A clone for tests that change nothing."""
    return origin.clone_with_cache(tmp_path_factory.mktemp("unchanged") / "clone")


def test_repro_in_a_fresh_clone_runs_every_stage(origin):
    run = stages_run(origin.output)
    assert [stage for stage in run if stage in ("download", "augment", "train")] == ["download", "augment", "train"]
    assert sorted(run) == sorted({"download", "augment", "pretrained", "train", *AFTER_TRAIN, "learning_rates"})
    assert origin.details("evaluate")["images"] == 359
    assert len(pd.read_csv(origin.folder / PREDICTIONS / "submission.csv")) == 359


def test_repro_changes_no_file_of_git_but_the_lock_and_the_metrics(origin):
    changed = origin.run("git", "diff", "--name-only", "HEAD~").split()
    assert "dvc.lock" in changed
    assert all(path == "dvc.lock" or path.startswith("results/metrics/") for path in changed)
    assert origin.run("git", "status", "--porcelain") == ""


def test_repro_with_all_results_in_the_cache_runs_nothing(unchanged):
    assert stages_run(unchanged.run("dvc", "repro")) == []
    assert json.loads(unchanged.run("dvc", "status", "--json")) == {"source": ["always changed"]}
    assert unchanged.run("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_another_clone_gives_the_same_hash_for_every_output(origin, tmp_path):
    other = Clone(tmp_path / "clone", SMALL)
    other.run("dvc", "repro")
    assert other.hashes() == origin.hashes()


def test_plots_of_all_stages_can_be_shown(unchanged):
    unchanged.run("dvc", "plots", "show", "--out", "plots")
    page = (unchanged.folder / "plots/index.html").read_text()
    for plot in ("Loss", "Accuracy", "Confusion matrix", "t-SNE", "tsne.png"):
        assert plot in page


def numbers_of(files: dict) -> list[str]:
    """The metrics in the JSON of ``dvc metrics``, ``file: key``."""
    return [f"{file}: {key}" for file, content in files.items() for key in content]


def test_an_experiment_with_another_learning_rate_reruns_train_and_what_follows(experiment):
    run = stages_run(experiment.output)
    assert run[0] == "train"
    assert sorted(run) == sorted({"train", *AFTER_TRAIN})
    assert pd.read_csv(experiment.folder / "results/plots/steps.csv")["lr"].max() == pytest.approx(3e-4)
    shown = experiment.run("dvc", "exp", "show", "--csv")
    assert "0.0003" in next(line for line in shown.splitlines() if line.startswith("lower,"))


def test_metrics_of_a_run_are_eleven_numbers_to_decide_by(experiment):
    shown = json.loads(experiment.run("dvc", "metrics", "show", "--json"))[""]["data"]
    files = {file: content["data"] for file, content in shown.items()}
    numbers = numbers_of(files)
    assert len(numbers) == 11
    assert all(isinstance(value, int | float) for content in files.values() for value in content.values())
    different = json.loads(experiment.run("dvc", "metrics", "diff", "--json"))
    assert "results/metrics/evaluate.json: accuracy" in numbers_of(different)
    assert set(numbers_of(different)) <= set(numbers)
    # A line of headings, a line below them, and a line for each number.
    assert len(experiment.run("dvc", "metrics", "diff", "--md", "--all").strip().splitlines()) == 2 + len(numbers)


def test_experiments_with_a_changed_parameter_fit_a_terminal_of_160_columns(experiment):
    metrics = json.loads(experiment.run("dvc", "metrics", "diff", "--json"))
    changed = [name for content in metrics.values() for name in content]
    shown = experiment.run("dvc", "exp", "show", "--only-changed", "--no-pager", COLUMNS="160")
    heading = next(line for line in shown.splitlines() if "Experiment" in line).split()
    # Columns that do not fit are cut off, the parameters first.
    assert {*changed, "train.lr"} <= set(heading)


def test_a_small_number_given_to_dvc_is_read_as_meant(clone):
    """DVC writes 0.00003 to params.yaml as 3e-05, which YAML 1.1 reads as a string."""
    output = clone.run("dvc", "exp", "run", "-S", "train.lr=0.00003", "train")
    assert stages_run(output) == ["train"]
    assert "lr: 3e-05 " in (clone.folder / PARAMS).read_text()
    assert pd.read_csv(clone.folder / "results/plots/steps.csv")["lr"].max() == pytest.approx(3e-5)


def test_a_wrong_parameter_fails_in_one_line_before_any_work(clone):
    before = clone.hashes()
    output = clone.run("dvc", "exp", "run", "-S", "train.epochs=abc", fails=True)
    assert "error: params.yaml: train.epochs: got 'abc', allowed is an integer (≥ 1 and ≤ 100,000)" in output
    assert "Traceback" not in output
    assert clone.hashes() == before


def replace(clone: Workspace, name: str, old: str, new: str) -> None:
    path = clone.folder / name
    text = path.read_text("utf-8")
    assert old in text, name
    path.write_text(text.replace(old, new), "utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "rerun"),
    [
        ("pipeline/params/schema.py", 'description="', 'description="better: ', set()),
        ("pipeline/progress.py", ' left"', ' remaining"', set()),
        ("README.md", "# ", "# Better: ", set()),
        ("pipeline/plots/fonts.py", '"Regular"', '"Bold"', {"augment", "evaluate", "tsne", "report", "learning_rates"}),
        ("pipeline/train/stage.py", "\n\n\n", "\n\n\n# Better\n", {"train"}),
    ],
)
def test_only_the_code_of_a_stage_makes_it_run_again(clone, name, old, new, rerun):
    before = code_digest("train", root=clone.folder)
    replace(clone, name, old, new)
    changed = json.loads(clone.run("dvc", "status", "--json"))
    assert {stage for stage, reasons in changed.items() if "changed deps" in json.dumps(reasons)} == rerun
    # The digest names checkpoints and sweeps.
    assert (code_digest("train", root=clone.folder) != before) == ("train" in rerun)


def test_a_killed_training_resumes_and_ends_in_the_same_bits(origin, tmp_path):
    clone = origin.clone_with_cache(tmp_path / "clone", checkout=False)
    clone.run("dvc", "checkout", "-q", "augment", "pretrained")
    # The run cache knows the result.
    command = ("dvc", "repro", "--force", "--single-item", "train")
    with clone.start(*command) as process:
        while not clone.checkpoints():
            assert process.poll() is None, "the training ended before it was killed"
            time.sleep(0.005)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        assert process.wait() != 0
    output = clone.run(*command)
    assert "train: resumes from " in output
    assert "epoch 1 of 3:" not in output
    assert clone.hashes()[MODEL.as_posix()] == origin.hashes()[MODEL.as_posix()]
    assert not (clone.folder / ".checkpoints").exists()


@pytest.mark.slow
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
    clone = Clone(tmp_path / "clone", {**SMALL, "model.width": 16, **changes})
    clone.run("dvc", "repro")
    submission = pd.read_csv(clone.folder / PREDICTIONS / "submission.csv", dtype=str)
    assert list(submission["Id"]) == [f"{number:04}" for number in range(1, 631)]
    # 620 labelled images; guessing among ten classes is right for 0.1 of them.
    assert clone.details("evaluate")["split"] == "valid"
    assert clone.metrics("evaluate")["accuracy"] > 0.15
