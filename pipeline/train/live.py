"""What a run shows while it trains: in the curves that DVCLive writes, for ``dvc plots`` and the VS Code extension, and
in the metrics of ``dvc exp show``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.common.files import replacing, write_json
from pipeline.common.paths import LIVE
from pipeline.errors import PipelineError


def curves_of(row: dict[str, float]) -> dict[str, float]:
    """The values of an epoch by the names of their curves: ``train/loss`` for ``train_loss``."""
    return {name.replace("_", "/", 1): value for name, value in row.items() if name != "epoch"}


@contextmanager
def live_curves() -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield a function that adds an epoch's row to the curves, and tells the extension so.

    Raises:
        PipelineError: the git repository has no commit.
    """
    from dvclive.live import Live
    from scmrepo.exceptions import SCMError

    try:
        # By default it would rewrite the user's dvc.yaml in the middle of a stage.
        live = Live(str(LIVE), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)
    except SCMError:
        raise PipelineError("git: this repository has no commit yet, which DVCLive needs; make a first one") from None

    def log(row: dict[str, float]) -> None:
        for name, value in curves_of(row).items():
            live.log_metric(name, value)
        live.next_step()

    with live:
        yield log


@contextmanager
def live_metrics(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes a stage's metrics as they stand, each time in one piece.

    They count only when the work within the block is complete: on any error, Ctrl-C included, the file gets back what
    it held.
    """
    before = path.read_bytes() if path.exists() else None
    try:
        yield lambda metrics: write_json(path, metrics)
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            with replacing(path) as beside:
                beside.write_bytes(before)
        raise
