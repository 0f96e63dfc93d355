"""Stage ``report``."""

import shutil
from pathlib import Path

import pytest

from pipeline.common.paths import REPORT
from pipeline.errors import PipelineError
from pipeline.evaluate.stage import evaluate
from pipeline.params.file import load_params
from pipeline.report.stage import report
from pipeline.tsne.stage import tsne
from tests.support.report_results import LAYERS, write_results

PARAMS = Path(__file__).parents[2] / "params.yaml"
FILES = {
    "results/metrics/audit.json": "augment",
    "results/audit.csv": "augment",
    "results/metrics/train.json": "train",
    "results/metrics/evaluate.json": "evaluate",
    "results/metrics/tsne.json": "tsne",
    "results/evaluation/predictions.csv": "evaluate",
    "results/plots/classes.csv": "evaluate",
    "results/plots/confused_pairs.csv": "evaluate",
    "results/plots/reliability.csv": "evaluate",
    "results/plots/roc.csv": "evaluate",
    "results/plots/precision_recall.csv": "evaluate",
    "results/plots/steps.csv": "train",
    "results/plots/tsne_layers.csv": "tsne",
    "results/live/plots/metrics/valid/loss.tsv": "train",
    "data/dataset/manifest.json": "augment",
}


@pytest.fixture
def results(workspace):
    """The results of a run, in the working folder."""
    shutil.copy(PARAMS, workspace)
    write_results(workspace, ("cat", "dog"), 24)
    return workspace


def test_a_report_of_what_the_stages_left(trained):
    shutil.copy(PARAMS, Path.cwd())
    params = load_params(PARAMS)
    evaluate(params.evaluate.model_copy(update={"top_k": 2, "bootstrap": 100, "tta": False}))
    tsne(params.tsne, params.seed)
    report()
    page = REPORT.read_text("utf-8")
    assert "12 <small>test split</small>" in page
    assert "audit.html" in page


@pytest.mark.parametrize(("path", "stage"), FILES.items(), ids=lambda value: Path(value).name)
def test_a_missing_file_is_named_with_the_command_that_makes_it(results, path, stage):
    Path(path).unlink()
    with pytest.raises(PipelineError) as caught:
        report()
    assert str(caught.value).startswith(path.removesuffix("/manifest.json"))
    assert str(caught.value).endswith(f"; run dvc repro {stage}")
    assert "\n" not in str(caught.value)
    assert not REPORT.exists()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            "results/plots/classes.csv",
            "class\ncat\n",
            "has no column precision; run dvc repro --force evaluate",
        ),
        ("results/plots/steps.csv", "", "holds no table; run dvc repro --force train"),
        ("results/metrics/evaluate.json", "{}", "has no split; run dvc repro --force evaluate"),
        ("results/metrics/tsne.json", "{", "holds no JSON; run dvc repro --force tsne"),
    ],
)
def test_a_file_that_does_not_hold_what_it_should_is_refused(results, path, content, message):
    Path(path).write_text(content)
    with pytest.raises(PipelineError, match=f"^{path}: {message}$"):
        report()


def test_predictions_of_another_dataset_are_refused(results):
    index = Path("data/dataset/index.csv")
    index.write_text(index.read_text().replace("00003", "99999"))
    with pytest.raises(PipelineError, match=r"predictions.csv: has other images than data/dataset; run dvc repro"):
        report()


def test_points_of_one_layer_are_enough(results):
    layers = Path("results/plots/tsne_layers.csv").read_text().splitlines()
    of_last = [line.partition(",")[2] for line in layers if line.startswith(("layer,", LAYERS[-1]))]
    Path("results/plots/tsne.csv").write_text("\n".join(of_last))
    Path("results/plots/tsne_layers.csv").unlink()
    report()
    assert f'"labels":["{LAYERS[-1]}"]' in REPORT.read_text("utf-8")
