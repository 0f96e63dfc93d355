"""Progress: a bar on a terminal, a line now and then elsewhere, and the items pass through."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from pipeline import progress as module
from pipeline.progress import byte_progress, progress, say


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal], ids=["log", "terminal"])
def test_items_pass_through(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]


def test_quick_work_writes_nothing_into_a_log(capsys):
    assert len(list(progress(range(1000), 1000, "reading"))) == 1000
    assert capsys.readouterr() == ("", "")


def test_long_work_writes_a_line_now_and_then_into_a_log(capsys, monkeypatch):
    clock = iter([100.0, 105.0, 110.0, 112.0, 120.0])  # the start, then the end of each item
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    list(progress(range(4), 3000, "reading", step=1000))
    assert capsys.readouterr().out.splitlines() == [
        "reading: 2,000 of 3,000 images, 200 a second, 5 s left",
        "reading: 3,000 of 3,000 images, 150 a second, 0 s left",
    ]


def test_a_terminal_shows_a_bar_that_never_passes_the_total(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in progress(range(3), 25, "reading", "pages", step=10):
        time.sleep(0.11)  # tqdm draws ten times a second
    shown = sys.stderr.getvalue()
    assert "reading" in shown
    assert "20/25" in shown
    assert "30 pages [" not in shown  # as tqdm shows a count beyond its total
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stream", [io.StringIO, Terminal], ids=["log", "terminal"])
def test_bytes_pass_through(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(byte_progress(iter([b"ab", b"c"]), 0, None, "download")) == [b"ab", b"c"]


def test_bytes_are_counted_in_megabytes_from_where_they_begin(capsys, monkeypatch):
    chunk, clock = b"x" * 2_000_000, iter([100.0, 102.0, 110.0, 120.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    list(byte_progress([chunk] * 3, 300_000_000, 1_163_000_000, "download"))
    assert capsys.readouterr().out.splitlines() == [
        "download: 304 of 1,163 MB, 0.4 MB a second, 2,148 s left",
        "download: 306 of 1,163 MB, 0.3 MB a second, 2,857 s left",
    ]


def test_bytes_of_an_unknown_number_are_counted_too(capsys, monkeypatch):
    clock = iter([100.0, 112.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    list(byte_progress([b"x" * 12_000_000], 0, None, "download"))
    assert capsys.readouterr().out == "download: 12 MB, 1.0 MB a second\n"


def test_a_terminal_shows_a_bar_of_bytes_from_where_they_begin(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in byte_progress([b"x" * 100_000] * 2, 600_000, 1_000_000, "download"):
        time.sleep(0.11)  # tqdm draws ten times a second
    shown = sys.stderr.getvalue()
    assert "download:  60%" in shown
    assert "700k/1.00M" in shown


def test_a_line_reaches_a_pipe_at_once(monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(pipe), "utf-8"))
    say("download: done")
    assert pipe.getvalue() == b"download: done\n"
