"""All that people see: messages, tables, JSON; the progress of long work as a bar on a terminal, or as a line every ten
seconds in a log file; and the messages of ``train``.

Nothing else in the package prints: what :func:`say` and the functions below it write cannot change the terminal, and
shows no secrets (see ``pipeline.common.text``).

Nothing here changes a result, so no stage depends on this module: editing a message reruns nothing.
"""

import io
import json
import logging
import math
import os
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO, TypeVar

from pipeline.common.text import one_line, shown, without_secrets

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from rich.table import Column
    from tqdm import tqdm


Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_DRAWINGS = 0.1
BAR_COLUMNS = 10
COLUMNS_OF_TERMINAL = 80


def set_up_output() -> None:
    """Print a character that the encoding of the output lacks as a question mark; an output that is closed is none.

    Warnings, and what libraries log, are printed by ``say``, too.
    """
    # Of a process that is started without them, as by `>&-`, these are None.
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    logging.lastResort = _LOG
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(_LOG)


class _Log(logging.Handler):
    """Prints warnings, and what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record).rstrip("\n"), sys.stderr)


_LOG = _Log(logging.WARNING)


def say(text: str, stream: TextIO | None = None, mark: str = "") -> None:
    """Print one or more lines without secrets and control characters; a bar on the terminal moves below them.

    They are flushed, also into a pipe or a log file.

    Args:
        text: may contain anything.
        stream: standard output by default.
        mark: printed before the text as it is, so it may contain colours, but nothing that is not ours.
    """
    loaded = sys.modules.get("tqdm")
    with loaded.tqdm.external_write_mode() if loaded else nullcontext():
        print(f"{mark}{shown(text)}", file=stream or sys.stdout, flush=True)


def say_json(content: Any) -> None:
    """Print JSON without secrets; control characters are escaped."""
    text = json.dumps(_without_secrets(content), indent=2, ensure_ascii=False)
    escaped = (char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
    print("".join(escaped), flush=True)


def _without_secrets(content: Any) -> Any:
    if isinstance(content, dict):
        return {without_secrets(str(key)): _without_secrets(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_secrets(value) for value in content]
    return without_secrets(content) if isinstance(content, str) else content


def say_table(rows: Iterable[Sequence[str]], columns: Sequence["Column | str"], **style: Any) -> None:
    """Print a table that is as wide as the terminal; ``style`` as for rich's ``Table``."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, **style)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console(highlight=False).print(table)


def wrapped(text: str) -> list[str]:
    """The text as lines for a terminal."""
    return textwrap.wrap(text, COLUMNS_OF_TERMINAL)


def table_lines(rows: "pd.DataFrame", formats: Mapping[str, str]) -> list[str]:
    """A table for a terminal: the first column left-aligned, the others right-aligned, long text shortened."""
    import pandas as pd

    first, *others = rows.columns
    formatters = {name: text.format for name, text in formats.items()}
    with pd.option_context("display.unicode.east_asian_width", True):
        table = rows.map(_shortened).set_index(first).rename_axis(index=None, columns=first)
        return table[others].to_string(formatters=formatters, na_rep="").splitlines()


def _shortened(value: object) -> object:
    return f"{value[:8]}…{value[-9:]}" if isinstance(value, str) and len(value) > 18 else value


def on_terminal() -> bool:
    """Whether a bar can be drawn: the terminal must be able to return to the start of a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    """Format seconds: ``42 s``, ``3 min 20 s``, ``25 min``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


class Display:
    """Shows the progress of a task, within a ``with`` block.

    Args:
        label: name of the task.
        total: number of units; None if unknown.
        quiet: show nothing.
    """

    def __init__(self, label: str, total: int | None, quiet: bool = False) -> None:
        self.label, self.total = one_line(label), total
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
        """Whether it is time to call ``show``; fast enough to be called at every step."""
        self.now = time.monotonic()
        return self.now - self.last >= self.interval

    def show(self, done: int, parts: Sequence[str]) -> None:
        """Show that ``done`` units are done, followed by ``parts``; a narrow terminal drops the first of them."""
        self.last = self.now
        if not self.bars:
            say(f"{self.label}: {', '.join(parts)}")
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, file=sys.stderr, leave=False, bar_format="{desc}")
        columns = terminal_columns() - 1
        meter = "{percentage:3.0f}%|{bar}| " if self.total else ""
        available = columns - len(self.label) - (len(": 100%|| ") + BAR_COLUMNS if meter else len(": "))
        while len(parts) > 1 and len(", ".join(parts)) > available:
            parts = parts[1:]
        self._bar.ncols, self._bar.n = columns, done
        self._bar.bar_format = f"{self.label}: {meter}{', '.join(parts)}"
        self._bar.refresh()


def terminal_columns() -> int:
    """The current width of the terminal; 80 if it is unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def progress(
    items: Iterable[Item], total: int, label: str, unit: str = "images", step: int = 1, quiet: bool = False
) -> Iterator[Item]:
    """Yield ``items`` and show how many of ``total`` units are done; each item counts as ``step`` units."""
    with Display(label, total, quiet) as display:
        for count, item in enumerate(items, start=1):
            yield item
            if display.due():
                done = min(count * step, total)
                rate = done / (display.now - display.start)
                left = duration((total - done) / rate)
                display.show(done, [f"{done:,} of {total:,} {unit}", f"{rate:,.0f} a second", f"{left} left"])


def byte_progress(chunks: Iterable[bytes], start: int, total: int | None, label: str) -> Iterator[bytes]:
    """Yield the bytes of a file and show how many of ``total`` there are, including ``start`` from an earlier run."""
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


SECONDS_BETWEEN_EVENTS = 0.1
# A median over more epochs would keep a slow start for long, one over fewer would follow every fluctuation.
EPOCHS_REMEMBERED = 5


class Event(Protocol):
    """An event of torch, such as ``torch.cuda.Event``: recorded behind the work that is queued on the device."""

    def record(self) -> None: ...

    def query(self) -> bool: ...


class TrainingProgress:
    """Everything that a training run prints: its messages, and a bar or lines with its speed and the time left.

    The host runs ahead of an accelerator: a step that is queued is not done yet. Steps are therefore counted by events
    that are recorded behind them and queried later.

    Args:
        epochs, steps: of the run, and of each epoch.
        images: per step, in all processes together.
        may_stop_early: the time left is an upper bound.
        device: where the steps run.
        quiet: print nothing.
    """

    def __init__(
        self, epochs: int, steps: int, images: int, may_stop_early: bool, device: "torch.device", quiet: bool = False
    ) -> None:
        import torch

        self.epochs, self.steps, self.images, self.quiet = epochs, steps, images, quiet
        self.at_most = "at most " if may_stop_early else ""
        self.new_event: type[Event] = torch.get_device_module(device).Event
        self.display = Display("train", epochs * steps * images, quiet)
        self.events: deque[tuple[Event, int]] = deque()
        self.seconds: deque[float] = deque(maxlen=EPOCHS_REMEMBERED)
        # Of the last epoch: the number of images and the seconds, without validation.
        self.measured = (0, 0.0)
        self.epoch = self.first = self.done = 0
        self.start = self.ended = self.last_event = 0.0

    def _say(self, line: str) -> None:
        if not self.quiet:
            say(f"train: {line}")

    def announce(
        self,
        *,
        model: str,
        parameters: int,
        processes: int,
        device: str,
        precision: str,
        images: int,
        copies: int,
        resident: bool,
        valid_images: int,
    ) -> None:
        """Say what is trained, where, and on how many images."""
        self._say(f"{model} with {parameters:,} parameters on {processes} × {device}, {precision}")
        place = "kept on the device" if resident else "streamed to the device"
        each = f" with {copies} copies each" if copies > 1 else ""
        self._say(f"{images:,} training images{each}, {place}, {valid_images:,} validation images")

    def note(self, *lines: str) -> None:
        """A parameter is limited by another one, or has no effect."""
        for line in lines:
            self._say(f"note: {line}")

    def waiting(self, checkpoint: Path) -> None:
        """Another process runs the same training."""
        self._say(f"another process runs the same training; waits for it, then resumes from {checkpoint}")

    def unlocked(self, folder: Path, reason: str) -> None:
        """The file system has no locks."""
        self._say(f"{folder} cannot be locked ({reason}); do not start the same training in another process")

    def resumed(self, checkpoint: Path, epoch: int, step: int) -> None:
        """The run starts from a checkpoint."""
        self._say(f"resumes from {checkpoint}, epoch {epoch}, step {step}")

    def damaged(self, checkpoint: Path, renamed: Path) -> None:
        """The checkpoint was changed after it was written."""
        self._say(
            f"{checkpoint} is damaged (its checksum is wrong) and was renamed to {renamed.name}; starts from the "
            "beginning"
        )

    def stopped(self, checkpoint: Path, epoch: int) -> None:
        """A signal ends the run; its checkpoint is written."""
        self._say(f"stopped in epoch {epoch}; the same command resumes from {checkpoint}")

    def finished(self, model_file: Path, best: Mapping[str, float]) -> None:
        """The run is complete; ``best`` is the row of the epoch that is kept."""
        self._say(f"{model_file} is from epoch {best['epoch']:.0f}, valid accuracy {best['valid_accuracy']:.4f}")

    def start_epoch(self, epoch: int, step: int) -> None:
        """An epoch starts, or resumes after ``step`` steps; the device is idle."""
        self.start = self.last_event = time.monotonic()
        self.ended = self.ended or self.start
        self.epoch, self.first, self.done = epoch, step, step
        self.events.clear()
        self.display.label = f"train: epoch {epoch} of {self.epochs}"

    def step_queued(self, step: int) -> None:
        """The first ``step`` steps of the epoch are queued on the device."""
        due = self.display.due()
        if due or self.display.now - self.last_event >= SECONDS_BETWEEN_EVENTS:
            self._record_event(step)
        if due:
            self._show()

    def trained(self) -> None:
        """The device has done all steps of the epoch."""
        now = time.monotonic()
        self.done = self.steps
        self.measured = (self.images * (self.steps - self.first), now - self.start)
        if self.display.bars and self.display.due():
            self._show("validating")

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """The epoch is validated: print its line, with images per second and the time left unless a bar shows them."""
        now = time.monotonic()
        images, seconds = self.measured
        # Of a resumed epoch, the steps before the checkpoint are assumed to take as long as those after it.
        missing = self.first * self.images / images * seconds
        self.seconds.append(now - self.ended + missing)
        self.ended = now
        line = (
            f"epoch {row['epoch']:.0f} of {self.epochs}: loss {row['train_loss']:.4f}, valid loss "
            f"{row['valid_loss']:.4f}, valid accuracy {row['valid_accuracy']:.4f}"
        )
        if not (self.display.bars and sys.stdout.isatty()):
            line += f", {images / seconds:,.0f} images a second"
            if self.epoch < self.epochs:
                line += f", {self._left(median(self.seconds) * (self.epochs - self.epoch))}"
        self._say(line)

    def _record_event(self, step: int) -> None:
        self.last_event = self.display.now
        event = self.new_event()
        event.record()
        self.events.append((event, step))
        while self.events and self.events[0][0].query():
            self.done = self.events.popleft()[1]

    def _show(self, phase: str = "") -> None:
        total = self.epochs * self.steps * self.images
        done = ((self.epoch - 1) * self.steps + self.done) * self.images
        parts = [f"{done:,} of {total:,} images"]
        # Together with the last epoch, so that the first steps of this one do not make the rate jump.
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
