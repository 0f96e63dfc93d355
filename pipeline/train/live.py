"""Results of a run while it trains: metrics for ``dvc exp show``, curves of DVCLive for ``dvc plots`` and the VS Code
extension, and event files for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.common.files import restoring, write_json
from pipeline.common.paths import LIVE, METRICS
from pipeline.errors import PipelineError
from pipeline.machine import tensorboard_folder
from pipeline.tensorboard import event_log
from pipeline.train.trainer import STEP_COLUMNS, History, Row, Trainer

SHOWN = ("train_loss", "valid_loss", "valid_accuracy")


@contextmanager
def live_results(trainer: Trainer, run: str, settings: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Yield a function that publishes the last epoch; the epochs that a resumed run already has are published first.

    Args:
        trainer: the run; only its main process publishes.
        run: name of the run in TensorBoard, outside of DVC experiments.
        settings: hyperparameters for TensorBoard.
    """
    if not trainer.group.is_main:
        yield lambda: None
        return
    history = trainer.history
    folder = tensorboard_folder(run)
    tensorboard = event_log(folder, settings) if folder else nullcontext(lambda epoch, curves, steps: None)
    with live_metrics(METRICS / "train.json") as metrics, tensorboard as events, live_curves() as curves:
        # The numbers of an earlier run are not those of this one.
        metrics({})

        def publish(row: Row, steps: Tensor) -> None:
            metrics(best_metrics(history))
            rows = [dict(zip(STEP_COLUMNS, values, strict=True)) for values in steps.tolist()]
            events(int(row["epoch"]), curve_values(row), rows)
            curves(row)

        for row, steps in zip(history.epochs, history.steps, strict=True):
            publish(row, steps)
        yield lambda: publish(history.epochs[-1], history.steps[-1])


def best_metrics(history: History) -> dict[str, float]:
    """The content of ``results/metrics/train.json``, from the best epoch."""
    return {"best_epoch": int(history.best["epoch"]), **{name: history.best[name] for name in SHOWN}}


def curve_values(row: Row) -> dict[str, float]:
    """The values of an epoch by the names of their curves: ``train/loss`` for ``train_loss``."""
    return {name.replace("_", "/", 1): value for name, value in row.items() if name != "epoch"}


@contextmanager
def live_metrics(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that replaces a file of metrics.

    If the block ends in an error, Ctrl-C included, the file gets its old content back: metrics of a run that is not
    complete do not count.
    """
    with restoring(path):
        try:
            yield lambda metrics: write_json(path, metrics)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def live_curves() -> Iterator[Callable[[Row], None]]:
    """Yield a function that appends an epoch to the curves, and signals it to the VS Code extension.

    If the block ends in an error, Ctrl-C included, the curves of an earlier run come back, since they belong to the
    model that is still there. If there are none, as when DVC has removed them, those of the stopped run stay.

    Raises:
        PipelineError: the git repository has no commit.
    """
    from dvclive.live import Live
    from scmrepo.exceptions import SCMError

    with restoring(LIVE):
        try:
            # By default DVCLive rewrites the user's dvc.yaml while the stage runs.
            live = Live(str(LIVE), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)
        except SCMError:
            reason = "git: the repository has no commit yet, which DVCLive needs; make a first commit"
            raise PipelineError(reason) from None

        def log(row: Row) -> None:
            for name, value in curve_values(row).items():
                live.log_metric(name, value)
            live.next_step()

        with live:
            yield log
