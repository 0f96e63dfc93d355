"""How far a training run is: images a second and the time left, without ever waiting for the device."""

import sys
import time
from collections import deque
from statistics import median
from typing import Protocol

import torch

from pipeline.progress import Display, duration

SECONDS_BETWEEN_MARKS = 0.1
# A longer memory would keep a slow start, a shorter one follow every hiccup.
EPOCHS_REMEMBERED = 5


class Mark(Protocol):
    """An event of torch: put behind the work that the device has been given, passed when that is done."""

    def record(self) -> None: ...

    def query(self) -> bool: ...


class TrainingProgress:
    """The display of a run, over all its epochs.

    The host runs ahead of an accelerator: what it has asked for is not done. So what counts is what the device has
    passed; a mark tells, which is queued behind a step and looked at later.

    Args:
        epochs, steps: of the run, and of an epoch.
        images: of a step, in all processes together.
        may_stop_early: the time left is an upper bound.
        device: where the steps run.
        quiet: show nothing.
    """

    def __init__(
        self, epochs: int, steps: int, images: int, may_stop_early: bool, device: torch.device, quiet: bool = False
    ) -> None:
        self.epochs, self.steps, self.images = epochs, steps, images
        self.at_most = "at most " if may_stop_early else ""
        self.make_mark: type[Mark] = torch.get_device_module(device).Event
        self.display = Display("train", epochs * steps * images, quiet)
        self.marks: deque[tuple[Mark, int]] = deque()
        self.seconds: deque[float] = deque(maxlen=EPOCHS_REMEMBERED)
        # Of the last epoch: images in training, and the seconds that they took.
        self.measured = (0, 0.0)
        self.epoch = self.first = self.done = 0
        self.start = self.ended = self.last_mark = 0.0

    def start_epoch(self, epoch: int, step: int) -> None:
        """An epoch begins, after ``step`` steps where the run goes on within it; the device has nothing to do."""
        self.start = self.last_mark = time.monotonic()
        self.ended = self.ended or self.start
        self.epoch, self.first, self.done = epoch, step, step
        self.marks.clear()
        self.display.label = f"train: epoch {epoch} of {self.epochs}"

    def step_queued(self, step: int) -> None:
        """The host has asked for the epoch's first ``step`` steps."""
        due = self.display.due()
        if self.display.now - self.last_mark >= SECONDS_BETWEEN_MARKS:
            self._look(step)
        if due:
            self._show()

    def trained(self) -> None:
        """The device has done all the steps of the epoch."""
        now = time.monotonic()
        self.done = self.steps
        self.measured = (self.images * (self.steps - self.first), now - self.start)
        if self.display.bars and self.display.due():
            self._show("validating")

    def end_epoch(self) -> str:
        """The epoch is validated; return its images a second in training and the time left, for its line in a log
        file; nothing where that goes to the terminal, whose bar shows them."""
        now = time.monotonic()
        images, seconds = self.measured
        # Of an epoch that a run goes on with, the missing steps take what these took.
        missed = self.first * self.images / images * seconds
        self.seconds.append(now - self.ended + missed)
        self.ended = now
        if self.display.bars and sys.stdout.isatty():
            return ""
        left = median(self.seconds) * (self.epochs - self.epoch)
        return f", {images / seconds:,.0f} images a second" + (f", {self._left(left)}" if left else "")

    def _look(self, step: int) -> None:
        self.last_mark = self.display.now
        mark = self.make_mark()
        mark.record()
        self.marks.append((mark, step))
        while self.marks and self.marks[0][0].query():
            self.done = self.marks.popleft()[1]

    def _show(self, phase: str = "") -> None:
        run = self.epochs * self.steps * self.images
        done = ((self.epoch - 1) * self.steps + self.done) * self.images
        parts = [f"{done:,} of {run:,} images"]
        # With the last epoch, which ended when the device did, the first steps of this one are no leap.
        images = self.measured[0] + self.images * (self.done - self.first)
        seconds = self.measured[1] + self.display.now - self.start
        if phase:
            parts.append(phase)
        elif images:
            parts.append(f"{images / seconds:,.0f} a second")
        if images:
            epoch = median(self.seconds) if self.seconds else seconds / images * self.images * self.steps
            parts.append(self._left(epoch * (self.epochs - self.epoch + 1 - self.done / self.steps)))
        self.display.show(done, parts)

    def _left(self, seconds: float) -> str:
        return f"{self.at_most}{duration(seconds)} left"
