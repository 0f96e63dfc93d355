"""Stage ``report``: one page of everything that the other stages found."""

from pipeline.common.dataset import PackedDataset
from pipeline.common.files import write_text
from pipeline.common.paths import DATASET, EVALUATION, PARAMS, REPORT
from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.report.changes import changes_since_head, read_mapping
from pipeline.report.inputs import read_inputs
from pipeline.report.page import report_page


def report() -> None:
    """Write ``results/report.html``, which opens without a network.

    Raises:
        PipelineError: a file of another stage is missing, or they are of different runs.
    """
    params = read_mapping(PARAMS.read_text("utf-8"))
    inputs = read_inputs()
    split = PackedDataset(DATASET).split(inputs.metrics["evaluate"]["split"])
    if set(inputs.images["id"]) != set(split.ids):
        raise PipelineError(
            f"{EVALUATION / 'predictions.csv'}: has other images than {DATASET}; run dvc repro evaluate"
        )
    changes = changes_since_head(params, inputs.metrics)
    page = report_page(inputs, params, changes, split)
    write_text(REPORT, page)
    say(f"report: {REPORT}, {len(page.encode()) / 1e6:.1f} MB")
