"""Stage ``report``: write all results to one page."""

from pipeline.common.dataset import PackedDataset
from pipeline.common.files import write_text
from pipeline.common.paths import DATASET, EVALUATION, PARAMS, PLOTS, RAW_ARCHIVE, REPORT
from pipeline.common.raw_archive import RawReader, read_raw_archive
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.report.changes import changes_since_head
from pipeline.report.images import images_of_page
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
    photos = {image.path: image for image in read_raw_archive(RAW_ARCHIVE)[1]}
    if not set(split.sources) <= photos.keys():
        raise PipelineError(f"{DATASET}: has other images than {RAW_ARCHIVE}; run dvc repro augment")
    plot_curves(PLOTS / "curves.png", inputs.epochs, inputs.steps, inputs.results["train"]["best_epoch"])
    changes = changes_since_head(params, read_metrics())
    page = report_page(inputs, params, changes, images_of_page(inputs, split, RawReader(RAW_ARCHIVE), photos))
    write_text(REPORT, page)
    say(f"report: {REPORT}, {len(page.encode()) / 1e6:.1f} MB")
