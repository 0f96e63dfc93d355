"""Stage ``report``."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from PIL import Image

from pipeline.common.dataset import Manifest
from pipeline.common.paths import DETAILS, METRICS, PLOTS, RAW_ARCHIVE, REPORT
from pipeline.common.raw_archive import RawReader, read_raw_archive, write_raw_archive
from pipeline.common.results import write_results
from pipeline.errors import PipelineError
from pipeline.evaluate.stage import evaluate
from pipeline.explain.stage import explain
from pipeline.params.file import load_params
from pipeline.report.stage import report
from pipeline.tsne.stage import tsne
from tests.support.report_results import write_run

PARAMS = Path(__file__).parents[2] / "params.yaml"
FILES = {
    "results/metrics/audit.json": "augment",
    "results/details/audit.json": "augment",
    "results/audit.csv": "augment",
    "results/metrics/train.json": "train",
    "results/details/evaluate.json": "evaluate",
    "results/metrics/tsne.json": "tsne",
    "results/evaluation/predictions.csv": "evaluate",
    "results/plots/classes.csv": "evaluate",
    "results/plots/confused_pairs.csv": "evaluate",
    "results/plots/reliability.csv": "evaluate",
    "results/plots/risk_coverage.csv": "evaluate",
    "results/plots/roc.csv": "evaluate",
    "results/plots/precision_recall.csv": "evaluate",
    "results/plots/steps.csv": "train",
    "results/plots/train_batch.png": "train",
    "results/plots/tsne_layers.csv": "tsne",
    "results/live/plots/metrics/valid/loss.tsv": "train",
    "results/saliency.json": "explain",
    "data/dataset/manifest.json": "augment",
}


@pytest.fixture
def results(workspace):
    """The results of a run, in the working folder."""
    shutil.copy(PARAMS, workspace)
    write_run(workspace, ("cat", "dog"), 24)
    return workspace


def test_a_report_of_the_results_of_the_stages(trained):
    shutil.copy(PARAMS, Path.cwd())
    params = load_params(PARAMS)
    evaluate(params.evaluate.model_copy(update={"top_k": 2, "bootstrap": 100, "tta": "none"}))
    tsne(params.tsne, params.seed)
    explain(params.explain)
    report()
    page = REPORT.read_text("utf-8")
    assert "12 <small>test split</small>" in page
    assert "audit.html" in page


@pytest.mark.parametrize(("path", "stage"), FILES.items(), ids=lambda value: Path(value).name)
def test_a_missing_file_is_reported_with_the_command_that_makes_it(results, path, stage):
    Path(path).unlink()
    with pytest.raises(PipelineError) as caught:
        report()
    assert str(caught.value).startswith(path.removesuffix("/manifest.json"))
    assert str(caught.value).endswith(f"; run dvc repro {stage}")
    assert "\n" not in str(caught.value)
    assert not REPORT.exists()


@pytest.mark.parametrize(("path", "stage"), FILES.items(), ids=lambda value: Path(value).name)
def test_a_changed_file_is_reported_with_the_commands_that_restore_it(results, path, stage):
    content = bytearray(Path(path).read_bytes())
    place = max(place for place, byte in enumerate(content) if chr(byte).isdigit())
    content[place] ^= 1
    Path(path).write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        report()
    named = path.replace("metrics/", "details/") if path.startswith("results/metrics/") else path
    assert str(caught.value).startswith(f"{named}: cannot be used (its checksum is wrong")
    assert str(caught.value).endswith(f", or dvc repro --force {stage}")
    assert not REPORT.exists()


def test_a_pseudo_labelled_image_of_the_split_is_found_in_its_folder_of_the_archive(results):
    classes, images, _ = read_raw_archive(RAW_ARCHIVE)
    content = {image.path: RawReader(RAW_ARCHIVE).read(image) for image in images}
    entries = {image.entry: image.path for image in images[1:]}
    write_raw_archive(RAW_ARCHIVE, classes, entries | {"unlabelled/00.png": images[0].path}, content.__getitem__)
    report()
    assert REPORT.exists()


def test_predictions_of_another_dataset_are_rejected(results):
    index = Path("data/dataset/index.csv")
    index.write_text(index.read_text().replace("00003", "99999"))
    Manifest.read(index.parent).write(index.parent)
    with pytest.raises(PipelineError, match=r"predictions.csv: has other images than data/dataset; run dvc repro"):
        report()


def test_the_curves_of_both_splits_are_drawn_with_the_best_epoch(results, monkeypatch):
    drawn = {}
    plot, axvline = Axes.plot, Axes.axvline

    def spy_plot(self, x, y, **style):
        drawn[style.get("label"), y.name] = (list(x), list(y))
        return plot(self, x, y, **style)

    def spy_axvline(self, x, **style):
        drawn[style["label"]] = x
        return axvline(self, x, **style)

    monkeypatch.setattr(Axes, "plot", spy_plot)
    monkeypatch.setattr(Axes, "axvline", spy_axvline)
    report()
    assert drawn["train", "loss"] == ([1, 2, 3], [0.5, 0.4, 0.3])
    assert drawn["valid", "accuracy"] == ([1, 2, 3], pytest.approx([0.6, 0.5, 0.4]))
    assert drawn["best epoch"] == 2
    assert drawn[None, "lr"][0] == list(range(1, 41))
    with Image.open(PLOTS / "curves.png") as picture:
        assert picture.size == (1440, 840)
    before = (PLOTS / "curves.png").read_bytes()
    report()
    assert (PLOTS / "curves.png").read_bytes() == before


def test_changes_compare_the_metrics_that_git_tracks(results):
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "params.yaml", "results/metrics"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "a run"], check=True)
    metrics, details = (json.loads((folder / "evaluate.json").read_text()) for folder in (METRICS, DETAILS))
    del details["checksum"]
    write_results("evaluate", metrics | {"accuracy": 0.25}, details, *map(Path, details["files"]))
    report()
    page = REPORT.read_text("utf-8")
    table = page[page.index("<caption>Metrics that changed") :].partition("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["evaluate: accuracy"]
    assert "No parameter changed." in page
