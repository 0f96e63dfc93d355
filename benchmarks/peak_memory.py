"""Peak memory of a process and its descendants. Linux only."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """The largest anonymous memory seen, in bytes; pages of files belong to the page cache and do not count."""

    bytes: int = 0


@contextmanager
def watch_memory(seconds: float = 0.05) -> Iterator[Peak]:
    """Sample the memory of this process and its descendants every ``seconds`` while the block runs."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            peak.bytes = max(peak.bytes, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.bytes = max(peak.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """Anonymous bytes of this process and its descendants; shared pages count once (proportional set size)."""
    tree = _with_descendants("self")
    if len(tree) == 1:  # nothing is shared, and this file is faster to read
        return _sum_of_lines("/proc/self/status", "RssAnon:")
    return sum(_sum_of_lines(f"/proc/{pid}/smaps_rollup", "Pss_Anon:") for pid in tree)


def _with_descendants(pid: str) -> list[str]:
    try:
        children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _words(task / "children")]
    except OSError:  # it has just ended
        return []
    return [pid, *(found for child in children for found in _with_descendants(child))]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _sum_of_lines(path: str, name: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
