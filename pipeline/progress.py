"""Progress of long work: a bar on a terminal, a plain line now and then in a log file."""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm


Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_DRAWINGS = 0.1
BAR_COLUMNS = 10


def say(line: str) -> None:
    """Print a line at once, also into a pipe or a log file; a bar on the terminal makes room for it."""
    loaded = sys.modules.get("tqdm")
    if loaded is None:
        print(line, flush=True)
        return
    with loaded.tqdm.external_write_mode():
        print(line, flush=True)


def on_terminal() -> bool:
    """Whether a bar can be drawn: on a terminal that can go back to the start of a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``42 s``, ``3 min 20 s``, ``25 min``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


class Display:
    """One long piece of work as it goes on, to be shown within a ``with`` block.

    Args:
        label: what the work is, in the words of the command.
        total: how many units there are; None where nobody knows.
        quiet: show nothing.
    """

    def __init__(self, label: str, total: int | None, quiet: bool = False) -> None:
        self.label, self.total = label, total
        self.start = self.now = self.last = time.monotonic()
        self.bars = not quiet and on_terminal()
        self.interval = math.inf if quiet else SECONDS_BETWEEN_DRAWINGS if self.bars else SECONDS_BETWEEN_LINES
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def due(self) -> bool:
        """Whether the time has come to show how far the work is; quick enough to be asked at every step."""
        self.now = time.monotonic()
        return self.now - self.last >= self.interval

    def show(self, done: int, parts: Sequence[str]) -> None:
        """Show ``done`` units as a bar, and what else there is to say; a narrow terminal loses the first ``parts``."""
        self.last = self.now
        if not self.bars:
            say(f"{self.label}: {', '.join(parts)}")
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, file=sys.stderr, leave=False, bar_format="{desc}")
        columns = terminal_columns() - 1
        meter = "{percentage:3.0f}%|{bar}| " if self.total else ""
        room = columns - len(self.label) - (len(": 100%|| ") + BAR_COLUMNS if meter else len(": "))
        while len(parts) > 1 and len(", ".join(parts)) > room:
            parts = parts[1:]
        self._bar.ncols, self._bar.n = columns, done
        self._bar.bar_format = f"{self.label}: {meter}{', '.join(parts)}"
        self._bar.refresh()


def terminal_columns() -> int:
    """How wide the terminal is now; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def progress(
    items: Iterable[Item], total: int, label: str, unit: str = "images", step: int = 1, quiet: bool = False
) -> Iterator[Item]:
    """Pass ``items`` through and show how many of ``total`` units are done, ``step`` units an item."""
    with Display(label, total, quiet) as display:
        for count, item in enumerate(items, start=1):
            yield item
            if display.due():
                done = min(count * step, total)
                rate = done / (display.now - display.start)
                left = duration((total - done) / rate)
                display.show(done, [f"{done:,} of {total:,} {unit}", f"{rate:,.0f} a second", f"{left} left"])


def byte_progress(chunks: Iterable[bytes], start: int, total: int | None, label: str) -> Iterator[bytes]:
    """Pass the bytes of a file through and show how many of ``total`` there are; ``start`` were there before."""
    done = start
    with Display(label, total) as display:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            if display.due():
                rate = (done - start) / (display.now - display.start)
                of = f" of {total / 1e6:,.0f}" if total else ""
                parts = [f"{done / 1e6:,.0f}{of} MB", f"{rate / 1e6:,.1f} MB a second"]
                if total and rate:
                    parts.append(f"{duration(max(total - done, 0) / rate)} left")
                display.show(done, parts)


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
        self, epochs: int, steps: int, images: int, may_stop_early: bool, device: "torch.device", quiet: bool = False
    ) -> None:
        import torch

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
