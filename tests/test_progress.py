"""Messages that change no terminal and show no secret; progress as a bar on a terminal or lines in a log file; and the
messages of a training run."""

import ast
import io
import json
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import progress as module
from pipeline.progress import TrainingProgress, byte_progress, duration, on_terminal, progress, say, say_json, say_table
from tests.support.terminals import bars, screens
from tests.support.trainers import build, fit

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal], ids=["log", "terminal"])
def test_items_pass_through(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]


def test_short_task_writes_nothing_into_a_log(capsys):
    assert len(list(progress(range(1000), 1000, "reading"))) == 1000
    assert capsys.readouterr() == ("", "")


def test_long_task_writes_a_line_every_ten_seconds_into_a_log(capsys, monkeypatch):
    clock = iter([100.0, 105.0, 110.0, 112.0, 120.0])  # the start, then the end of each item
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    list(progress(range(4), 3000, "reading", step=1000))
    assert capsys.readouterr().out.splitlines() == [
        "reading: 2,000 of 3,000 images, 200 a second, 5 s left",
        "reading: 3,000 of 3,000 images, 150 a second, 0 s left",
    ]


def test_terminal_shows_a_bar_that_never_exceeds_the_total(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in progress(range(3), 25, "reading", "pages", step=10):
        time.sleep(0.11)  # the bar is drawn ten times a second
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


def test_bytes_are_counted_in_megabytes_including_those_of_an_earlier_run(capsys, monkeypatch):
    chunk, clock = b"x" * 2_000_000, iter([100.0, 102.0, 110.0, 120.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    list(byte_progress([chunk] * 3, 300_000_000, 1_163_000_000, "download"))
    assert capsys.readouterr().out.splitlines() == [
        "download: 304 of 1,163 MB, 0.4 MB a second, 36 min left",
        "download: 306 of 1,163 MB, 0.3 MB a second, 48 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_duration_is_rounded_to_what_matters(seconds, text):
    assert duration(seconds) == text


def test_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert on_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not on_terminal()


# Long enough for the bar to be drawn several times, with a line in between.
WORK = """
import time
from pipeline.progress import progress, say
for number in progress(range(8), 80_000, "train: epoch 1 of 3", step=10_000):
    time.sleep(0.06)
    if number == 4:
        say("a line")
"""


@pytest.mark.parametrize("columns", [30, 60, 80, 300])
def test_bar_fits_into_one_line_of_any_terminal_below_other_lines(columns):
    shown, screen = screens([sys.executable, "-c", WORK], ROOT, columns)
    found = bars(shown)
    assert len(found) >= 3
    assert not screen.wrapped
    assert all(len(bar) < columns for bar in found)
    # The bar is erased at the end.
    assert screen.lines() == ["a line", ""]
    assert any("of 80,000 images, " in bar for bar in found) == (columns == 300)
    # The time left is dropped last.
    assert any(bar.endswith(" s left") for bar in found) == (columns >= 60)


def test_bar_has_no_colours_and_a_dumb_terminal_no_bar():
    # The screen rejects all control characters except carriage return and line feed.
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


def test_terminal_shows_a_bar_of_bytes_including_those_of_an_earlier_run(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in byte_progress([b"x" * 10_000_000] * 2, 60_000_000, 100_000_000, "download"):
        time.sleep(0.11)  # the bar is drawn ten times a second
    shown = sys.stderr.getvalue()
    assert "download:  70%|" in shown
    assert "80 of 100 MB, " in shown


def test_line_is_flushed_to_a_pipe(monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(pipe), "utf-8"))
    say("download: done")
    assert pipe.getvalue() == b"download: done\n"


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""
    time = SimpleNamespace(now=1000.0, monotonic=lambda: time.now)
    monkeypatch.setattr(module, "time", time)
    return time


def training(**changes) -> TrainingProgress:
    settings = {"epochs": 3, "steps": 4, "images": 100, "may_stop_early": False, "device": CPU}
    return TrainingProgress(**{**settings, **changes})


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "train_loss": 0.5, "valid_loss": 0.75, "valid_accuracy": 0.8}


VALUES = "loss 0.5000, valid loss 0.7500, valid accuracy 0.8000"


def test_messages_of_a_training_run(capsys):
    progress, checkpoint = training(), Path(".checkpoints/name.pt")
    announced = {"model": "classifier", "parameters": 12_830_283, "processes": 2, "device": "cpu"}
    progress.announce(**announced, precision="float32", images=9866, copies=5, resident=True, valid_images=3430)
    progress.waiting(checkpoint)
    progress.unlocked(checkpoint.parent, "No locks available")
    progress.resumed(checkpoint, 3, 20)
    progress.stopped(checkpoint, 4)
    progress.finished(Path("results/model.safetensors"), row(7))
    assert capsys.readouterr().out.splitlines() == [
        "train: classifier with 12,830,283 parameters on 2 × cpu, float32",
        "train: 9,866 training images with 5 copies each, kept on the device, 3,430 validation images",
        "train: another process runs the same training; waits for it, then resumes from .checkpoints/name.pt",
        "train: .checkpoints cannot be locked (No locks available); do not start the same training in another process",
        "train: resumes from .checkpoints/name.pt, epoch 3, step 20",
        "train: stopped in epoch 4; the same command resumes from .checkpoints/name.pt",
        "train: results/model.safetensors is from epoch 7, valid accuracy 0.8000",
    ]


def test_log_gets_a_line_every_ten_seconds_of_an_epoch_and_one_at_its_end(clock, capsys):
    progress = training()
    for epoch in (1, 2, 3):
        progress.start_epoch(epoch, 0)
        for step in range(1, 5):
            clock.now += 6
            progress.step_queued(step)
        progress.trained()
        clock.now += 6  # validation
        progress.end_epoch(row(epoch))
    assert capsys.readouterr().out.splitlines() == [
        "train: epoch 1 of 3: 200 of 1,200 images, 17 a second, 1 min 00 s left",
        "train: epoch 1 of 3: 400 of 1,200 images, 17 a second, 48 s left",
        f"train: epoch 1 of 3: {VALUES}, 17 images a second, 1 min 00 s left",
        "train: epoch 2 of 3: 500 of 1,200 images, 17 a second, 52 s left",
        "train: epoch 2 of 3: 700 of 1,200 images, 17 a second, 38 s left",
        f"train: epoch 2 of 3: {VALUES}, 17 images a second, 30 s left",
        "train: epoch 3 of 3: 900 of 1,200 images, 17 a second, 22 s left",
        "train: epoch 3 of 3: 1,100 of 1,200 images, 17 a second, 8 s left",
        f"train: epoch 3 of 3: {VALUES}, 17 images a second",
    ]


def test_short_epochs_have_no_line_but_that_at_their_end(clock, capsys):
    progress = training(epochs=2)
    for epoch in (1, 2):
        progress.start_epoch(epoch, 0)
        for step in range(1, 5):
            clock.now += 1
            progress.step_queued(step)
        progress.trained()
        progress.end_epoch(row(epoch))
    assert capsys.readouterr().out.splitlines() == [
        f"train: epoch 1 of 2: {VALUES}, 100 images a second, 4 s left",
        f"train: epoch 2 of 2: {VALUES}, 100 images a second",
    ]


def test_time_left_is_an_upper_bound_if_training_may_stop_early(clock, capsys):
    progress = training(epochs=11, steps=1, images=8, may_stop_early=True)
    progress.start_epoch(1, 0)
    clock.now += 3
    progress.trained()
    progress.end_epoch(row(1))
    assert capsys.readouterr().out == f"train: epoch 1 of 11: {VALUES}, 3 images a second, at most 30 s left\n"


def test_training_may_stop_early_if_there_is_patience(tmp_path):
    assert build(tmp_path, patience=0).progress.at_most == ""
    assert build(tmp_path, patience=3).progress.at_most == "at most "


def test_run_that_resumes_within_an_epoch_counts_from_there(clock, capsys):
    progress = training(steps=10)
    progress.start_epoch(2, 6)
    for step in (7, 8, 9, 10):
        clock.now += 5.5
        progress.step_queued(step)
    progress.trained()
    # 400 images in 22 seconds; the whole epoch of 1,000 images would take 55.
    progress.end_epoch(row(2))
    assert capsys.readouterr().out.splitlines() == [
        "train: epoch 2 of 3: 1,800 of 3,000 images, 18 a second, 1 min 06 s left",
        "train: epoch 2 of 3: 2,000 of 3,000 images, 18 a second, 55 s left",
        f"train: epoch 2 of 3: {VALUES}, 18 images a second, 55 s left",
    ]


def test_steps_that_the_device_has_not_done_are_not_counted(clock, capsys):
    recorded, done = [], []

    class Event:
        """The event of a device that works when the test says so, as a GPU does while the host runs ahead."""

        def record(self):
            recorded.append(self)

        def query(self):
            return self in done

    progress = training(epochs=1, steps=100, images=10)
    progress.new_event = Event
    progress.start_epoch(1, 0)
    for step in range(1, 51):
        clock.now += 0.25
        progress.step_queued(step)
    # After ten seconds 40 steps are queued, and none is done.
    assert capsys.readouterr().out == "train: epoch 1 of 1: 0 of 1,000 images\n"
    done += recorded[:20]
    clock.now += 10
    progress.step_queued(51)
    assert capsys.readouterr().out == "train: epoch 1 of 1: 200 of 1,000 images, 9 a second, 1 min 30 s left\n"
    clock.now += 2.5
    progress.trained()
    progress.end_epoch(row(1))
    assert capsys.readouterr().out == f"train: epoch 1 of 1: {VALUES}, 40 images a second\n"


def test_other_processes_of_a_group_print_nothing(clock, capsys):
    progress = training(quiet=True)
    progress.resumed(Path("name.pt"), 1, 0)
    progress.start_epoch(1, 0)
    clock.now += 100
    progress.step_queued(1)
    progress.trained()
    progress.end_epoch(row(1))
    assert capsys.readouterr() == ("", "")


# Real training on 24 images, 3 steps per epoch, with a pause after each step.
TRAINING = """
import sys, time
from pathlib import Path
from tests.support.trainers import build
trainer = build(Path(sys.argv[1]), epochs=int(sys.argv[2]))
trainer.fit(lambda: time.sleep(float(sys.argv[3])), lambda row: None)
"""
LEFT = r"(\d+ s|\d+ min( \d\d s)?) left"
END = r"train: epoch \d of \d: loss [\d.]+, valid loss [\d.]+, valid accuracy [\d.]+"


def test_terminal_shows_one_bar_for_the_whole_run_below_the_lines_of_its_epochs(tmp_path):
    shown, screen = screens([sys.executable, "-c", TRAINING, str(tmp_path), "6", "0.12"], ROOT)
    found = bars(shown)
    assert len(found) >= 6
    form = rf"train: epoch \d of 6: +\d+%\|[^|]+\| \d+ of 144 images, (validating|[\d,]+ a second), {LEFT}"
    assert all(re.fullmatch(form, bar) for bar in found), found
    percents = [int(re.search(r"(\d+)%", bar)[1]) for bar in found]
    assert all(before <= after for before, after in pairwise(percents))
    # The bar is erased, and the lines do not repeat what it shows.
    *lines, last = screen.lines()
    assert last == ""
    assert [bool(re.fullmatch(END, line)) for line in lines] == [True] * 6, lines
    assert not screen.wrapped


def test_log_file_gets_one_line_per_short_epoch(tmp_path, capsys):
    fit(build(tmp_path, epochs=3))
    output, errors = capsys.readouterr()
    first, second, third = output.splitlines()
    for line in (first, second):
        assert re.fullmatch(rf"{END}, [\d,]+ images a second, {LEFT}", line)
    assert re.fullmatch(rf"{END}, [\d,]+ images a second", third)
    assert errors == ""


PRINTING = re.compile(r"(typer\.|click\.)?(secho|echo)|print|pprint|sys\.(stdout|stderr)\.write|Console")


def test_nothing_else_in_the_package_prints():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and PRINTING.fullmatch(ast.unparse(node.func))
    ]
    assert {line.partition(":")[0] for line in found} == {"pipeline/progress.py"}, found


HOSTILE = "a\x1b[2J\x9b\u202e https://ann:s3cr3t@host/?token=s3cr3t"


def test_messages_change_no_terminal_and_show_no_secret(capsys):
    say(f"{HOSTILE}\ntwo", mark="\x1b[1mours\x1b[0m ")
    say(HOSTILE, sys.stderr)
    output, errors = capsys.readouterr()
    assert output == "\x1b[1mours\x1b[0m a?[2J?? https://***@host/?***\ntwo\n"
    assert errors == "a?[2J?? https://***@host/?***\n"


def test_json_has_the_same_texts_with_escapes_and_without_secrets(capsys):
    say_json({"a": [HOSTILE, 1, None], "größe\x85": "two\nlines"})
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"a": ["a\x1b[2J\x9b\u202e https://***@host/?***", 1, None], "größe\x85": "two\nlines"}
    assert "größe" in text


def test_the_cells_of_a_table_change_no_terminal_and_show_no_secret(capsys):
    say_table([[HOSTILE, "[bold]b"]], ["", ""], box=None)
    assert capsys.readouterr().out.split() == ["a?[2J??", "https://***@host/?***", "[bold]b"]


def test_warnings_and_what_libraries_log_are_shown_likewise():
    code = (
        "import logging, warnings; from pipeline.progress import set_up_output; set_up_output()\n"
        f"warnings.warn({HOSTILE!r}); logging.getLogger('urllib3').warning({HOSTILE!r})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.count("a?[2J?? https://***@host/?***") == 2
    assert "s3cr3t" not in result.stderr
