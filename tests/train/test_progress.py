"""What a training run shows of its progress, on a terminal, in a log file, and of a device that lags behind."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import progress as display_module
from pipeline import progress as module
from pipeline.progress import TrainingProgress
from tests.support.sections import TRAIN
from tests.support.terminals import bars, screens

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
# Real training on 24 images in 3 steps an epoch; a step takes as long as is asked for.
RUN = """
import sys, time
from pathlib import Path
from tests.support.trainers import build
from pipeline.progress import say
trainer = build(Path(sys.argv[1]), epochs=int(sys.argv[2]), patience=int(sys.argv[3]))
def on_epoch(row):
    say(f"train: epoch {row['epoch']} is over{trainer.progress.end_epoch()}")
trainer.fit(lambda: time.sleep(float(sys.argv[4])), on_epoch)
"""
LEFT = r"(\d+ s|\d+ min( \d\d s)?) left"


def command(folder, epochs: int, patience: int = 0, pause: float = 0.12) -> list[str]:
    return [sys.executable, "-c", RUN, str(folder), str(epochs), str(patience), str(pause)]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when the test says so."""
    time = SimpleNamespace(now=1000.0, monotonic=lambda: time.now)
    monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(display_module, "time", time)
    return time


def test_a_log_gets_a_line_now_and_then_within_a_long_epoch_and_the_pace_at_its_end(clock, capsys):
    progress = TrainingProgress(epochs=3, steps=4, images=100, may_stop_early=False, device=CPU)
    ends = []
    for epoch in (1, 2, 3):
        progress.start_epoch(epoch, 0)
        for step in range(1, 5):
            clock.now += 6
            progress.step_queued(step)
        progress.trained()
        clock.now += 6  # validation
        ends.append(progress.end_epoch())
    assert capsys.readouterr().out.splitlines() == [
        "train: epoch 1 of 3: 200 of 1,200 images, 17 a second, 1 min 00 s left",
        "train: epoch 1 of 3: 400 of 1,200 images, 17 a second, 48 s left",
        "train: epoch 2 of 3: 500 of 1,200 images, 17 a second, 52 s left",
        "train: epoch 2 of 3: 700 of 1,200 images, 17 a second, 38 s left",
        "train: epoch 3 of 3: 900 of 1,200 images, 17 a second, 22 s left",
        "train: epoch 3 of 3: 1,100 of 1,200 images, 17 a second, 8 s left",
    ]
    assert ends == [", 17 images a second, 1 min 00 s left", ", 17 images a second, 30 s left", ", 17 images a second"]


def test_quick_epochs_write_no_line_of_their_own(clock, capsys):
    progress = TrainingProgress(epochs=2, steps=4, images=100, may_stop_early=False, device=CPU)
    for epoch in (1, 2):
        progress.start_epoch(epoch, 0)
        for step in range(1, 5):
            clock.now += 1
            progress.step_queued(step)
        progress.trained()
        progress.end_epoch()
    assert capsys.readouterr() == ("", "")


def test_where_training_may_stop_early_the_time_left_is_an_upper_bound(clock):
    progress = TrainingProgress(epochs=11, steps=1, images=8, may_stop_early=True, device=CPU)
    progress.start_epoch(1, 0)
    clock.now += 3
    progress.trained()
    assert progress.end_epoch() == ", 3 images a second, at most 30 s left"


def test_a_run_that_goes_on_within_an_epoch_counts_from_there(clock, capsys):
    progress = TrainingProgress(epochs=3, steps=10, images=100, may_stop_early=False, device=CPU)
    progress.start_epoch(2, 6)
    for step in (7, 8, 9, 10):
        clock.now += 5.5
        progress.step_queued(step)
    progress.trained()
    # 400 images in 22 seconds, though the epoch has 1,000; a whole one would take 55.
    assert progress.end_epoch() == ", 18 images a second, 55 s left"
    assert capsys.readouterr().out.splitlines() == [
        "train: epoch 2 of 3: 1,800 of 3,000 images, 18 a second, 1 min 06 s left",
        "train: epoch 2 of 3: 2,000 of 3,000 images, 18 a second, 55 s left",
    ]


def test_steps_that_the_device_has_not_done_yet_are_not_counted(clock, capsys):
    done = []

    class Mark:
        """The event of a device that works only when the test says so, as a GPU's does while the host runs ahead."""

        def record(self):
            self.number = len(done) + sum(not mark for mark in marks)
            marks.append(self)

        def query(self):
            return marks.index(self) < len(done)

    marks = []
    progress = TrainingProgress(epochs=1, steps=100, images=10, may_stop_early=False, device=CPU)
    progress.make_mark = Mark
    progress.start_epoch(1, 0)
    for step in range(1, 51):
        clock.now += 0.25
        progress.step_queued(step)
    # After ten seconds 40 steps are asked for, and none is done.
    assert capsys.readouterr().out == "train: epoch 1 of 1: 0 of 1,000 images\n"
    done += marks[:20]
    clock.now += 10
    progress.step_queued(51)
    assert capsys.readouterr().out == "train: epoch 1 of 1: 200 of 1,000 images, 9 a second, 1 min 30 s left\n"
    clock.now += 2.5
    progress.trained()
    assert progress.end_epoch() == ", 40 images a second"


def test_rest_is_quiet(clock, capsys):
    progress = TrainingProgress(epochs=2, steps=4, images=100, may_stop_early=False, device=CPU, quiet=True)
    progress.start_epoch(1, 0)
    clock.now += 100
    progress.step_queued(1)
    progress.trained()
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_terminal_shows_one_bar_over_the_whole_run_below_the_lines_of_its_epochs(tmp_path):
    shown, screen = screens(command(tmp_path, epochs=6), ROOT)
    found = bars(shown)
    assert len(found) >= 6
    form = rf"train: epoch \d of 6: +\d+%\|[^|]+\| \d+ of 144 images, (validating|[\d,]+ a second), {LEFT}"
    assert all(re.fullmatch(form, bar) for bar in found), found
    percents = [int(re.search(r"(\d+)%", bar)[1]) for bar in found]
    assert all(before <= after for before, after in pairwise(percents))
    # The bar is gone, and no line is broken by a rest of it; what it said is not said again.
    assert screen.lines() == [*(f"train: epoch {epoch} is over" for epoch in range(1, 7)), ""]
    assert not screen.wrapped


@pytest.mark.slow
def test_a_log_file_gets_a_line_an_epoch(tmp_path):
    result = subprocess.run(command(tmp_path, epochs=3, pause=0.01), capture_output=True, text=True, check=True)
    first, second, third = result.stdout.splitlines()
    for line in (first, second):
        assert re.fullmatch(rf"train: epoch \d is over, [\d,]+ images a second, {LEFT}", line)
    assert re.fullmatch(r"train: epoch 3 is over, [\d,]+ images a second", third)
    assert result.stderr == ""


@pytest.mark.slow
def test_the_parameters_say_whether_training_may_stop_early(tmp_path):
    from tests.support.trainers import build

    assert build(tmp_path, patience=0).progress.at_most == ""
    assert build(tmp_path, patience=3).progress.at_most == "at most "
    assert TRAIN["patience"] == 0
