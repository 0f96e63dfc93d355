"""Signals that stop a command, and processes that end with the one that started them. Nothing here changes a result."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

from pipeline.errors import NO_SPACE

# Ctrl-C, kill, and the end of the terminal.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_BETWEEN_CHECKS = 0.5
Item = TypeVar("Item")
Result = TypeVar("Result")

_arrived = _deferred = False


@contextmanager
def stop_signals(deferred: bool = False) -> Iterator[Callable[[], bool]]:
    """Let each of the signals that stop a command raise KeyboardInterrupt in the block, as Ctrl-C does.

    Only the first one does, and every further Ctrl-C: torchrun passes Ctrl-C on as SIGTERM, and a terminal that is
    closed sends SIGHUP several times.

    Args:
        deferred: the first signal raises nothing; the block asks whether it has arrived.

    Yields:
        A function that returns whether a signal has arrived.
    """
    global _arrived, _deferred
    # Under nohup, SIGHUP is ignored.
    numbers = [number for number in STOP_SIGNALS if number == signal.SIGINT or not _is_ignored(number)]
    handlers = {number: signal.signal(number, _stop) for number in numbers}
    outer, _deferred = _deferred, deferred
    try:
        yield lambda: _arrived
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # A block around this one must know that the signal has arrived.
        _arrived, _deferred = _arrived and _stop in handlers.values(), outer


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _stop(number: int, frame: FrameType | None) -> None:
    global _arrived
    first, _arrived = not _arrived, True
    if not (_deferred if first else number != signal.SIGINT):
        raise KeyboardInterrupt


def end_with_parent() -> None:
    """Let this process get SIGTERM when the DVC or torchrun that started it is killed: it would compete with the next.

    Any other parent, such as a shell, may end before the command does.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_CHECKS)
        os.kill(os.getpid(), signal.SIGTERM)

    if {"DVC_STAGE", "WORLD_SIZE"} & os.environ.keys():
        threading.Thread(target=watch, daemon=True).start()


class Map(Protocol):
    """Calls a function with each item; yields the results in the order of the items."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...


@contextmanager
def worker_processes(count: int, start: Callable[..., None], *arguments: Any) -> Iterator[Map]:
    """Yield a ``map`` that runs in processes, each of which has called ``start(*arguments, lock)``.

    They share the lock, and end at once if the block ends in an error, Ctrl-C included, or if this process ends.
    """
    try:
        pool = ProcessPoolExecutor(
            count, initializer=_start_worker, initargs=(start, *arguments, multiprocessing.Lock())
        )
    except OSError as error:
        if error.errno in (*NO_SPACE, errno.EACCES, errno.ENOENT):
            error.filename = "/dev/shm"  # its semaphores are files there
        raise

    # Not that of the pool, which submits all items at once, and fails if its processes are killed meanwhile.
    def run(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        futures: deque[Future[Result]] = deque()
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > 4 * count:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()

    with pool:
        try:
            yield run
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _start_worker(start: Callable[..., None], *arguments: Any) -> None:
    become_worker()
    start(*arguments)


def become_worker() -> None:
    """Let this process of multiprocessing end when its parent does, and leave the signals of the terminal to it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
