"""Stage ``report``: write all results to one page."""

from pipeline.common.dataset import PackedDataset
from pipeline.common.files import write_text
from pipeline.common.paths import DATASET, EVALUATION, PARAMS, PLOTS, REPORT
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.report.changes import changes_since_head
from pipeline.report.inputs import read_inputs, read_metrics
from pipeline.report.page import report_page
from pipeline.report.plots import plot_curves


def report() -> None:
    """Write ``results/report.html``, which opens without a network, and ``results/plots/curves.png``.

    Raises:
        PipelineError: a file of another stage is missing or damaged, or they are not from the same run.
    """
    params = read_yaml(PARAMS)
    inputs = read_inputs()
    split = PackedDataset(DATASET).split(inputs.results["evaluate"]["split"])
    if set(inputs.images["id"]) != set(split.ids):
        raise PipelineError(
            f"{EVALUATION / 'predictions.csv'}: has other images than {DATASET}; run dvc repro evaluate"
        )
    plot_curves(PLOTS / "curves.png", inputs.epochs, inputs.steps, inputs.results["train"]["best_epoch"])
    changes = changes_since_head(params, read_metrics())
    page = report_page(inputs, params, changes, split)
    write_text(REPORT, page)
    say(f"report: {REPORT}, {len(page.encode()) / 1e6:.1f} MB")
