"""The Typer commands. Each imports what it needs when it runs, so that ``--help`` is quick."""

import itertools
import math
import os
import re
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from pipeline.common.files import clean_up
from pipeline.common.paths import MODEL, ONNX, PARAMS, written_folders
from pipeline.errors import MachineError, PipelineError, explained, is_full_disk, unexpected
from pipeline.processes import end_with_parent, stop_signals
from pipeline.progress import say, say_json, set_up_output

if TYPE_CHECKING:
    from pipeline.params.schema import Params


class Commands(TyperGroup):
    """Commands that signals stop as Ctrl-C does, and of which every error is one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, after what a killed one left is removed."""
        try:
            with stop_signals():
                end_with_parent()
                for folder in written_folders():
                    clean_up(folder)
                return super().invoke(ctx)
        except (BrokenPipeError, typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            if os.environ.get("PIPELINE_DEBUG"):
                say(traceback.format_exc().rstrip(), sys.stderr)
            if isinstance(error, PipelineError):
                raise
            kind = MachineError if is_full_disk(error) else PipelineError
            raise kind(explained(error) or unexpected(error)) from error


app = typer.Typer(
    cls=Commands,
    help="Trains, evaluates, explains and exports a CNN from images; dvc repro runs all stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Parameters of common tasks.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")

RecipeArgument = Annotated[str, typer.Argument(metavar="NAME", help="One of those that recipe list shows.")]
PathsArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="PATH", help="Images, or folders of images.", show_default=False)
]
ModelsOption = Annotated[
    list[Path] | None,
    typer.Option(
        help=f"Weights or ONNX file or run:NAME, {MODEL} by default; of several, the mean of their probabilities."
    ),
]
AbstainOption = Annotated[float | None, typer.Option(min=0, max=1, help="Below this probability the answer is unsure.")]
PrecisionOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.99,
        help="Instead of --abstain: a threshold for each class with this precision on valid, for one model.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run the experiments on a Ray cluster; local starts one here.",
        show_default="PIPELINE_RAY, or none",
    ),
]
CpusOption = Annotated[
    float | None, typer.Option(min=0.001, help="With --ray: CPUs of an experiment.", show_default="1")
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="With --ray: GPUs of an experiment, such as 0.5.", show_default="1 if the cluster has any"
    ),
]


def main() -> None:
    """Run a command; exit with 1 and one line per error on bad input, 2 on wrong options, 130 when stopped, and 75 on a
    full disk or if weights cannot be downloaded.
    """
    # Torch reads it when it starts: huge pages for large tensors, a tenth more images per second on a CPU with Linux.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    set_up_output()
    try:
        try:
            refuse_arguments(sys.argv[1:])
            sys.exit(app(standalone_mode=False))
        except PipelineError as error:
            say("\n".join(f"error: {line}" for line in str(error).splitlines()), sys.stderr)
            sys.exit(error.exit_code)
        except typer.TyperException as error:
            say_usage(error)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Python would try to write the rest of the output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # that of `| head`, which needs no more output
            say(f"error: standard output: {explained(error)}", sys.stderr)
        sys.exit(MachineError.exit_code if is_full_disk(error) else 1)


def refuse_arguments(arguments: list[str]) -> None:
    """An empty path would be the current folder, and nan lies within all limits of a number."""
    for place, (before, argument) in enumerate(itertools.pairwise(["", *arguments]), 1):
        if not argument or re.fullmatch("--[a-z-]+=", argument):
            raise PipelineError(
                f"argument {place} is empty{f' ({argument})' if argument else ''}, perhaps because of a shell variable "
                "that is not set; remove it, or give it a value"
            )
        of_class = before == "--class" or argument.startswith("--class=")  # which may have that name
        if not of_class and re.fullmatch("(--[a-z-]+=)?[+-]?nan", argument.lower()):
            raise PipelineError(f"argument {place}: got {argument}, allowed is a number; a file of that name is ./nan")


def say_usage(error: typer.TyperException) -> None:
    """Say in one line which argument or option is wrong; a command that needs a subcommand has printed its help."""
    command = getattr(getattr(error, "ctx", None), "command_path", "python -m pipeline")
    if problem := error.format_message().removesuffix("."):
        say(f"error: {problem}; {command} --help shows what is allowed", sys.stderr)


def read_params() -> "Params":
    """Validate the whole of ``params.yaml``, and the environment variables, before anything else."""
    from pipeline.machine import check_variables
    from pipeline.params.file import load_params

    params = load_params(PARAMS)
    check_variables()
    return params


@app.command()
def source() -> None:
    """List the files of data.source and the weights of model.pretrained, so that dvc repro notices changes."""
    params = read_params()
    from pipeline.source.stage import source as stage

    stage(
        params.data.source,
        params.data.location,
        params.data.labels,
        params.model.pretrained,
        params.data.corrections,
        params.data.pseudo_labels,
    )


@app.command()
def download() -> None:
    """Write the images of data.source to data/raw.zip."""
    params = read_params()
    from pipeline.download.stage import download as stage
    from pipeline.preflight import check_ahead, check_images

    check_ahead(params)
    stage(params.data, partial(check_images, params))


@app.command()
def augment() -> None:
    """Decode, resize and augment the images into data/dataset/."""
    params = read_params()
    from pipeline.augment.stage import augment as stage
    from pipeline.preflight import check_ahead

    check_ahead(params)
    stage(
        params.augment,
        params.seed,
        params.data.on_bad_image,
        params.data.on_leak,
        params.data.corrections,
        params.data.pseudo_labels,
    )


@app.command()
def pretrained() -> None:
    """Bring the weights of model.pretrained into data/pretrained.safetensors."""
    params = read_params()
    from pipeline.pretrained.stage import pretrained as stage

    stage(
        params.model.name,
        params.model.width,
        params.model.stem,
        params.model.kwargs,
        params.model.pretrained,
        params.augment.image_size,
    )


@app.command()
def train() -> None:
    """Train the network and save the weights of the best epoch."""
    params = read_params()
    from pipeline.preflight import check_ahead, check_dataset, check_devices

    check_ahead(params)
    check_dataset(params)
    check_devices()
    start_processes()
    from pipeline.train.stage import train as stage

    stage(params.model, params.train, params.seed)


@app.command("learning_rates")
def learning_rates() -> None:
    """Draw the paths of gradient descent, AdaGrad, RMSProp and Adam on an error surface."""
    params = read_params()
    from pipeline.learning_rates.stage import learning_rates as stage

    stage(params.learning_rates)


@app.command()
def lr_find(
    steps: Annotated[int, typer.Option(min=10, help="Number of steps.")] = 100,
    low: Annotated[float, typer.Option(min=1e-12, help="Learning rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 1.0,
) -> None:
    """Run the learning rate range test, plot it and suggest a value for train.lr."""
    params = read_params()
    from pipeline.experiments.lr_find import lr_find as find

    find(params.model, params.train, params.seed, steps, low, high)


def start_processes() -> None:
    """If ``PIPELINE_PROCESSES`` is above 1, let torchrun run the command in that many, and end as they do."""
    from pipeline.machine import process_count

    processes = process_count()
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # The processes share the cores; torchrun sets the same, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        torchrun(["--standalone", f"--nproc-per-node={processes}", "-m", "pipeline", *sys.argv[1:]])
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise PipelineError(f"process {rank} of {processes} was ended by {failure.signal_name()}") from None
        raise typer.Exit(failure.exitcode) from None
    raise typer.Exit()


@app.command()
def evaluate() -> None:
    """Evaluate the network: metrics, confusion matrix, calibration, mistakes."""
    params = read_params()
    from pipeline.evaluate.stage import evaluate as stage

    stage(params.evaluate)


@app.command()
def tsne() -> None:
    """Embed the features of some layers in two dimensions with t-SNE, and draw them."""
    params = read_params()
    # Threads that spin while they wait would take the core that another one needs if the machine is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from pipeline.tsne.stage import tsne as stage

    stage(params.tsne, params.seed)


@app.command()
def predict(
    paths: PathsArgument = None,
    model: ModelsOption = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the dataset to predict instead of files, with metrics."),
    ] = None,
    submission: Annotated[Path | None, typer.Option(help="With --split: CSV file to write, Id and Category.")] = None,
    fit_weights: Annotated[
        bool, typer.Option("--fit-weights", help="With --split: weight the models to minimize the log loss on valid.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="CSV file to write instead of printing a table; with --split, probabilities.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Number of classes per image in the printed table, 3 by default.")
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Test-time augmentation: hflip, five_crop, ten_crop, or a number of views.",
        ),
    ] = None,
    abstain: AbstainOption = None,
    abstain_precision: PrecisionOption = None,
) -> None:
    """Classify images and folders, or a split; without any, write the four tables of results/predictions/."""
    if split is None and (submission is not None or fit_weights):
        option = "--fit-weights" if fit_weights else "--submission"
        raise PipelineError(f"{option}: needs --split, the split of the dataset to predict, such as --split test")
    method = "none" if tta is None else tta
    if split is not None:
        others = {"files": paths, "--top": top, "--abstain": abstain, "--abstain-precision": abstain_precision}
        if given := [name for name, value in others.items() if value not in (None, [])]:
            raise PipelineError(f"--split: got {split!r} together with {', '.join(given)}; leave one of them out")
        params = read_params()
        from pipeline.ensemble import predict_split

        top_k = params.evaluate.top_k
        return predict_split(split, model or [MODEL], top_k, method, fit_weights, submission, output)
    if paths:
        from pipeline.machine import check_variables
        from pipeline.predict.files import predict_paths

        check_variables()
        _require_one_threshold(abstain, abstain_precision)
        return predict_paths(paths, model or [MODEL], output, top or 3, method, abstain, abstain_precision)
    if (model, output, top, tta, abstain, abstain_precision) != (None,) * 6:
        raise PipelineError(
            "predict: options need images or folders to classify, such as python -m pipeline predict photos, or --split"
        )
    params = read_params()
    from pipeline.predict.stage import predict as stage

    stage(params.predict)


@app.command()
def pseudo_label(
    output: Annotated[Path, typer.Option(help="CSV file to write, for data.pseudo_labels.")],
    model: ModelsOption = None,
    confidence: Annotated[float, typer.Option(min=0, max=1, help="Lowest probability of a label.")] = 0.95,
    split: Annotated[Literal["unlabelled", "test"], typer.Option(help="Which images to label.")] = "unlabelled",
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="At most this many images per class, the most confident ones.", show_default="all"),
    ] = None,
) -> None:
    """Label unlabelled images with one or several models, to train on them."""
    from pipeline.machine import check_variables
    from pipeline.pseudo_labels import pseudo_label as run

    check_variables()
    run(model or [MODEL], confidence, output, split, per_class, read_params().data.corrections)


@app.command()
def explain(
    paths: PathsArgument = None,
    model: Annotated[Path | None, typer.Option(help=f"Weights file, {MODEL} by default.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write the pictures to.", show_default="explained")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Class to explain instead of the predicted one.")
    ] = None,
    method: Annotated[
        Literal["grad_cam", "occlusion"] | None,
        typer.Option(help="Grad-CAM, or occlusion, which is slower and needs no gradient."),
    ] = None,
) -> None:
    """Draw which parts of images speak for their class; without any, compute it for the report."""
    if paths:
        from pipeline.explain_files import explain_paths
        from pipeline.machine import check_variables

        check_variables()
        return explain_paths(paths, model or MODEL, output or Path("explained"), class_name, method or "grad_cam")
    if (model, output, class_name, method) != (None,) * 4:
        raise PipelineError("explain: options need images or folders, such as python -m pipeline explain photos")
    params = read_params()
    from pipeline.explain.stage import explain as stage

    stage(params.explain)


@app.command()
def export() -> None:
    """Export the network to ONNX, check it against torch, and write a model card."""
    params = read_params()
    from pipeline.export.stage import export as stage

    stage(params.data, params.augment, params.model, params.train, params.seed)


@app.command()
def quantize(
    model: Annotated[Path, typer.Option(help="ONNX file that export wrote.")] = ONNX,
) -> None:
    """Write the exported network with 8-bit integers beside it, and compare both on the evaluated split."""
    from pipeline.machine import check_variables
    from pipeline.quantize.command import quantize as run

    check_variables()
    run(model)


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="ONNX file that export wrote.")] = ONNX,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines connect.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    abstain: AbstainOption = None,
    abstain_precision: PrecisionOption = None,
    top: Annotated[int, typer.Option(min=1, help="Number of classes per image in an answer.")] = 5,
    max_bytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request in bytes.")] = 20 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=178_956_970, help="Maximum number of pixels per image.")
    ] = 70_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Maximum number of images per request.")] = 16,
    max_requests: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of requests at a time, waiting ones included; more get 503."),
    ] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Maximum time per request in seconds.")] = 30,
) -> None:
    """Answer requests over HTTP, with a page for photos: POST /predict and /explain, GET /health and /version."""
    from pipeline.machine import check_variables
    from pipeline.serve.classifying import Limits
    from pipeline.serve.server import serve as run

    check_variables()
    _require_one_threshold(abstain, abstain_precision)
    limits = Limits(max_bytes, max_pixels, max_images, max_requests, timeout)
    run(model, host, port, limits, abstain, abstain_precision, top)


def _require_one_threshold(abstain: float | None, abstain_precision: float | None) -> None:
    if abstain is not None and abstain_precision is not None:
        raise PipelineError("--abstain-precision: got a value, but --abstain is set, too; leave one of them out")


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Experiment, branch, tag or commit; workspace for the current files.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same as A.")],
    top: Annotated[int, typer.Option(min=0, help="Number of classes and images to show for each kind of change.")] = 5,
    csv: Annotated[
        Path | None, typer.Option(help="CSV file to write, with all images whose prediction changed.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="PNG file to write, with the curves of both and the recall of each class.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test whether B is better than A: paired difference, McNemar's test, and the classes and images that changed."""
    from pipeline.common.files import write_table
    from pipeline.experiments.comparison import changed_images, comparison_facts, comparison_lines
    from pipeline.experiments.revisions import compare_revisions
    from pipeline.predict.table import require_csv

    require_csv("--csv", csv)
    comparison, pairs, split = compare_revisions(a, b)
    if plots:
        from pipeline.experiments.comparison_plot import plot_comparison

        plot_comparison(plots, (a, b), pairs)
    if as_json:
        say_json(comparison_facts((a, b), split, comparison))
    else:
        say("\n".join(comparison_lines((a, b), split, comparison, pairs, top)))
    if csv:
        write_table(csv, changed_images(pairs))


@app.command()
def seeds(
    n: Annotated[int, typer.Option("--n", min=2, max=1000, help="Number of seeds.")] = 5,
    first: Annotated[int, typer.Option(min=0, help="The first seed; the others count up from it.")] = 1,
    set_param: Annotated[
        list[str] | None, typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="As for dvc exp run.")
    ] = None,
    ray: RayOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """Run the configuration with several seeds, each as a DVC experiment; print mean and standard deviation."""
    read_params()
    from pipeline.experiments.ray_cluster import choose_cluster
    from pipeline.experiments.seeds import run_seeds, seed_lines

    results, failures = run_seeds(range(first, first + n), set_param or [], choose_cluster(ray, cpus, gpus))
    if len(results):
        say("\n".join(seed_lines(results)))
    if failures:
        raise PipelineError("\n".join(failures))


@app.command()
def folds(
    set_param: Annotated[
        list[str] | None,
        typer.Option(
            "-S", "--set-param", metavar="KEY=VALUE", help="As for dvc exp run; data.folds is the number of folds."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="CSV file to write, with the out-of-fold predictions; by default in .sweeps."),
    ] = None,
    ray: RayOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """Cross-validate: run each fold as a DVC experiment; write all predictions, and a page to find wrong labels."""
    read_params()
    from pipeline.experiments.folds import run_folds
    from pipeline.experiments.ray_cluster import choose_cluster

    run_folds(set_param or [], output, choose_cluster(ray, cpus, gpus))


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The search space, such as sweeps/learning_rate.yaml.")],
    trials: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Total number of trials, including those of earlier runs of the same sweep."
        ),
    ] = 20,
    hours: Annotated[
        float, typer.Option(min=0.0, help="Start no further trial after these hours.", show_default="no limit")
    ] = math.inf,
    set_param: Annotated[
        list[str] | None,
        typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="As for dvc exp run; for all trials."),
    ] = None,
    ray: RayOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """Search the parameters with Optuna, each trial as a DVC experiment; resumes where it was stopped."""
    read_params()
    from pipeline.experiments.ray_cluster import choose_cluster
    from pipeline.experiments.sweep import run_sweep

    run_sweep(file, trials, set_param or [], hours, choose_cluster(ray, cpus, gpus))


@app.command()
def report() -> None:
    """Write the results of all stages to one page, results/report.html."""
    read_params()
    from pipeline.report.stage import report as stage

    stage()


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check git, Python, DVC, the device, the machine, the parameters and the data, and say how to fix problems."""
    from pipeline.doctor.report import doctor as examine

    raise typer.Exit(examine(as_json))


@app.command()
def params(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A parameter or a section.", show_default=False)
    ] = None,
) -> None:
    """Show what each parameter means, its allowed and current values, and the stages that read it."""
    from pipeline.params.reference import print_parameters

    print_parameters(PARAMS, key)


@recipe_app.command("list")
def recipe_list() -> None:
    """List the recipes and what was measured with each."""
    from pipeline.params.recipes import list_recipes

    for recipe in list_recipes():
        say(f"{recipe.name:<15} {recipe.title}\n{'':<15} {recipe.measured}")


@recipe_app.command("show")
def recipe_show(name: RecipeArgument) -> None:
    """Print a recipe."""
    from pipeline.params.recipes import recipe_path

    say(recipe_path(name).read_text("utf-8").rstrip("\n"))


@recipe_app.command("apply")
def recipe_apply(name: RecipeArgument) -> None:
    """Write the values of a recipe to params.yaml, keeping its comments."""
    from pipeline.params.recipes import apply_recipe

    for line in apply_recipe(name, PARAMS):
        say(line)
