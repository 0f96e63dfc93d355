"""Progress: a bar on a terminal, a line now and then elsewhere, and the items pass through."""

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import progress as module
from pipeline.progress import byte_progress, duration, on_terminal, progress, say
from tests.support.terminals import bars, screens

ROOT = Path(__file__).parent.parent


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
        time.sleep(0.11)  # it is drawn ten times a second
    shown = sys.stderr.getvalue()
    assert "reading" in shown
    assert "80%|" in shown
    assert "20 of 25 pages" in shown
    assert "100%|" in shown
    assert "30 of 25" not in shown
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
        "download: 304 of 1,163 MB, 0.4 MB a second, 36 min left",
        "download: 306 of 1,163 MB, 0.3 MB a second, 48 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (1500, "25 min"),
        (3599, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_is_said_as_a_person_would(seconds, said):
    assert duration(seconds) == said


def test_a_terminal_that_cannot_go_back_in_a_line_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert on_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not on_terminal()


# Long enough for a few drawings; a line is said in between.
WORK = """
import time
from pipeline.progress import progress, say
for number in progress(range(8), 80_000, "train: epoch 1 of 3", step=10_000):
    time.sleep(0.06)
    if number == 4:
        say("a line")
"""


@pytest.mark.parametrize("columns", [30, 60, 80, 300])
def test_a_bar_stays_on_one_line_of_any_terminal_and_lines_stand_above_it(columns):
    shown, screen = screens([sys.executable, "-c", WORK], ROOT, columns)
    found = bars(shown)
    assert len(found) >= 3
    assert not screen.wrapped
    assert all(len(bar) < columns for bar in found)
    # Nothing is left of the bar.
    assert screen.lines() == ["a line", ""]
    assert any("of 80,000 images, " in bar for bar in found) == (columns == 300)
    # What matters most stays longest.
    assert any(bar.endswith(" s left") for bar in found) == (columns >= 60)


def test_a_bar_has_no_colours_and_a_dumb_terminal_no_bar():
    # The screen refuses all control characters but the return.
    shown, _ = screens([sys.executable, "-c", WORK], ROOT, NO_COLOR="1")
    assert bars(shown)
    shown, screen = screens([sys.executable, "-c", WORK], ROOT, TERM="dumb")
    assert not bars(shown)
    assert screen.lines() == ["a line", ""]


def test_bytes_of_an_unknown_number_are_counted_too(capsys, monkeypatch):
    clock = iter([100.0, 112.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    list(byte_progress([b"x" * 12_000_000], 0, None, "download"))
    assert capsys.readouterr().out == "download: 12 MB, 1.0 MB a second\n"


def test_a_terminal_shows_a_bar_of_bytes_from_where_they_begin(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in byte_progress([b"x" * 10_000_000] * 2, 60_000_000, 100_000_000, "download"):
        time.sleep(0.11)  # it is drawn ten times a second
    shown = sys.stderr.getvalue()
    assert "download:  70%|" in shown
    assert "80 of 100 MB, " in shown


def test_a_line_reaches_a_pipe_at_once(monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(pipe), "utf-8"))
    say("download: done")
    assert pipe.getvalue() == b"download: done\n"
