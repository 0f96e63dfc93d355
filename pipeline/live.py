"""Metrics while training runs, in DVCLive's files: for ``dvc plots``, ``dvc exp show`` and the VS Code extension."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError
from pipeline.paths import LIVE


@contextmanager
def live_metrics(quiet: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield a function that logs one epoch: ``train_loss`` becomes the curve ``train/loss``; ``quiet`` logs nothing.

    Raises:
        PipelineError: the git repository has no commit.
    """
    if quiet:
        yield lambda row: None
        return
    from dvclive.live import Live
    from scmrepo.exceptions import SCMError

    try:
        # By default it would rewrite the user's dvc.yaml in the middle of a stage.
        live = Live(str(LIVE), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)
    except SCMError:
        raise PipelineError("git: this repository has no commit yet, which DVCLive needs; make a first one") from None

    def log(row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                live.log_metric(name.replace("_", "/", 1), value)
        live.next_step()

    with live:
        yield log
