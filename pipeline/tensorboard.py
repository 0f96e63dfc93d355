"""Curves for TensorBoard, whose folder ``PIPELINE_TENSORBOARD`` names.

``pip install -c constraints.txt -e '.[tensorboard]'`` installs it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError


@contextmanager
def event_log(
    folder: Path, hyperparameters: Mapping[str, Any]
) -> Iterator[Callable[[int, dict[str, float], list[dict[str, float]]], None]]:
    """Yield a function that writes an epoch, the values of its curves (``train/loss``) and its steps.

    A resumed run writes all its epochs again, to a file that purges those of earlier files in the folder, so that every
    point is there once.

    Args:
        folder: of the run; git ignores it.
        hyperparameters: by name (``train.lr``), for the table of runs.

    Raises:
        PipelineError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams
    except ImportError:
        raise PipelineError(
            "PIPELINE_TENSORBOARD: is set, but TensorBoard is not installed; run "
            "pip install -c constraints.txt -e '.[tensorboard]', or unset it"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", "utf-8")
    # The table has numbers and text; True would be shown as 1.0000.
    values = {name: value if type(value) in (int, float) else str(value) for name, value in hyperparameters.items()}
    experiment, start, end = hparams(values, {"valid/accuracy": 0, "valid/loss": 0})
    # Earlier files are not removed: a server that is reading one of them would never read the next.
    with SummaryWriter(folder, purge_step=0) as writer:
        files = writer.file_writer
        writer.add_custom_scalars(
            {"train and valid": {name: ["Multiline", [f"(train|valid)/{name}"]] for name in ("loss", "accuracy")}}
        )
        files.add_summary(experiment)
        files.add_summary(start)
        step = 0

        def log(epoch: int, curves: dict[str, float], steps: list[dict[str, float]]) -> None:
            nonlocal step
            for values in steps:
                step += 1
                for name, value in values.items():
                    writer.add_scalar(f"step/{name}", value, step)
            for name, value in curves.items():
                writer.add_scalar(name, value, epoch)
            writer.flush()

        yield log
        files.add_summary(end)
