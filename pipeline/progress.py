"""Progress of long work: a bar on a terminal, a plain line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """Print a line at once, also into a pipe or a log file."""
    print(line, flush=True)


def progress(
    items: Iterable[Item], total: int, label: str, unit: str = "images", step: int = 1, quiet: bool = False
) -> Iterator[Item]:
    """Pass ``items`` through and show how many of ``total`` units are done, ``step`` units an item."""
    if quiet:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=label, unit=f" {unit}", leave=False) as bar:
            for item in items:
                yield item
                bar.update(min(step, total - bar.n))
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last, done = now, min(count * step, total)
            rate = done / (now - start)
            say(f"{label}: {done:,} of {total:,} {unit}, {rate:,.0f} a second, {(total - done) / rate:,.0f} s left")


def byte_progress(chunks: Iterable[bytes], start: int, total: int | None, label: str) -> Iterator[bytes]:
    """Pass the bytes of a file through and show how many of ``total`` there are; ``start`` were there before."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, initial=start, desc=label, unit="B", unit_scale=True, leave=False) as bar:
            for chunk in chunks:
                yield chunk
                bar.update(len(chunk))
        return
    begin = last = time.monotonic()
    done = start
    for chunk in chunks:
        yield chunk
        done, now = done + len(chunk), time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last, rate = now, (done - start) / (now - begin)
            of = f" of {total / 1e6:,.0f}" if total else ""
            left = f", {max(total - done, 0) / rate:,.0f} s left" if total else ""
            say(f"{label}: {done / 1e6:,.0f}{of} MB, {rate / 1e6:,.1f} MB a second{left}")
