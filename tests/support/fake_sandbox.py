"""A sandbox without DVC: experiments run in this process, and their results are kept in memory."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pipeline.common.paths import METRICS
from pipeline.experiments.dvc_command import DvcError, overridden_params
from pipeline.experiments.revisions import Experiment

CURVE = "results/live/plots/metrics/valid/accuracy.tsv"


@dataclass(frozen=True)
class FakeExperiment(Experiment):
    """An experiment with its results."""

    numbers: dict[str, dict[str, float]]
    curve: str

    def read(self, path: Path) -> str:
        assert path.as_posix() == CURVE
        return self.curve

    def results(self, stage: str, folder: Path = METRICS) -> dict[str, float]:
        return self.numbers[stage]


class FakeDvc:
    """What the sandboxes of a repository share.

    Attributes:
        experiments: those of the repository, by name.
        ran: the names of the experiments that were run.
        epochs: how many epochs each of them trained.
        error: an error of DVC, in ``stage``, None before any, which exits with ``exit_code``.
        failing_seed: the stage evaluate fails with this seed.
        interrupt_after: Ctrl-C comes after so many epochs in all.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, FakeExperiment] = {}
        self.ran: list[str] = []
        self.epochs: list[int] = []
        self.error: str | None = None
        self.stage: str | None = None
        self.exit_code = 1
        self.failing_seed: int | None = None
        self.interrupt_after: int | None = None

    @contextmanager
    def open_sandbox(self, folder: Path, snapshot, subject: str) -> Iterator["FakeSandbox"]:
        yield FakeSandbox(self, folder.absolute(), snapshot)


class FakeSandbox:
    """Has the methods of ``pipeline.experiments.sandbox.Sandbox``.

    Accuracy rises to 1 − |log10(train.lr) + 2| / 4 with the epochs; the loss is not finite where that is below 0.3.
    """

    def __init__(self, dvc: FakeDvc, folder: Path, snapshot) -> None:
        self.dvc, self.folder, self.snapshot = dvc, folder, snapshot
        self.complete: dict[str, FakeExperiment] = {}

    def find(self, pattern: str) -> FakeExperiment | None:
        names = [name for name in self.dvc.experiments if fnmatch(name, pattern)]
        return self.dvc.experiments[names[0]] if names else None

    def run(self, name, parameters, stop=lambda stage: False, variables=None) -> bool:
        params = overridden_params(parameters)
        self.dvc.ran.append(name)
        self.dvc.epochs.append(0)
        if self.dvc.error:
            raise DvcError(self.dvc.error, self.dvc.stage, self.dvc.exit_code)
        best = 1 - abs(math.log10(params["train"]["lr"]) + 2) / 4
        if best < 0.3:
            raise DvcError("train: the loss is nan in step 1 of epoch 1", "train")
        curve, value = self.folder / CURVE, 0.0
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text("step\taccuracy\n")
        for checkpoints in (Path(folder) for folder in (variables or {}).values()):
            checkpoints.mkdir(parents=True, exist_ok=True)
        for step in range(params["train"]["epochs"]):
            value = best * (1 - 0.5 ** (step + 1))
            with curve.open("a") as file:
                file.write(f"{step}\t{value}\n")
            self.dvc.epochs[-1] += 1
            if sum(self.dvc.epochs) == self.dvc.interrupt_after:
                raise KeyboardInterrupt
            if stop("train"):
                return False
        if params["seed"] == self.dvc.failing_seed:
            raise DvcError("params.yaml: a message of the stage", "evaluate")
        draw = random.Random(params["seed"])
        results = {
            "train": {"valid_accuracy": value},
            "evaluate": {"accuracy": sum(draw.random() < value for _ in range(100)) / 100, "log_loss": draw.random()},
        }
        head = self.snapshot.head
        self.complete[name] = FakeExperiment(f"refs/exps/{head[:2]}/{head[2:]}/{name}", results, curve.read_text())
        return True

    def fetch(self, name: str) -> FakeExperiment:
        self.dvc.experiments[name] = self.complete.pop(name)
        return self.dvc.experiments[name]
