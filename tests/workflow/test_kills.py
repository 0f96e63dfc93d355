"""``dvc repro`` that is killed in any way, at any moment, ends in the same outputs when it runs again.

The moments are drawn with a seed, but the machine decides what runs then: a failure shows what was killed.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.clones import SECONDS, Workspace

# Of the stage that runs first: most of a stage's time is spent on imports.
LATEST_SECONDS = 4.0
SECONDS_TO_END = 60.0
LEFT_BEHIND = (".part", ".old")


class Run:
    """A running ``dvc repro``, in a session of its own as in a terminal."""

    def __init__(self, clone: Workspace, *targets: str) -> None:
        self.folder, self.log = clone.folder, clone.folder.parent / "output"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                ["dvc", "repro", *targets],
                cwd=clone.folder,
                env=clone.variables(DVC_NO_ANALYTICS="1", PIPELINE_WORKERS="2"),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for_stage(self) -> bool:
        """Wait until a stage other than ``source`` runs; return whether one does."""
        while self.process.poll() is None:
            running = [line for line in self.log.read_text().splitlines() if line.startswith("Running stage")]
            if len(running) > 1:
                return True
            time.sleep(0.02)
        return False

    def processes(self) -> list[psutil.Process]:
        """DVC, the stage, and the workers of the stage, in this order; what works in the folder is one of them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                inside = Path(process.cwd()).is_relative_to(self.folder)
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def send(self, *numbers: int) -> None:
        """Send signals as a terminal does, to all processes."""
        for number in numbers:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            time.sleep(0.1)

    def send_to(self, place: int, number: int) -> None:
        """Send a signal to DVC (0), the stage (1) or a worker (-1)."""
        found = self.processes()
        with suppress(psutil.Error, IndexError):
            found[place].send_signal(number)

    def wait(self) -> str:
        """Wait until DVC has ended, and the others soon after, and return what they printed.

        Whoever loses a process that is of no use any more goes on.
        """
        self.process.wait(SECONDS)
        deadline = time.monotonic() + SECONDS_TO_END
        while self.processes():
            assert time.monotonic() < deadline, [process.cmdline() for process in self.processes()]
            time.sleep(0.2)
        return self.log.read_text()


WAYS: dict[str, Callable[[Run], None]] = {
    "kill all": lambda run: run.send(signal.SIGKILL),
    "kill the stage": lambda run: run.send_to(1, signal.SIGKILL),
    "kill DVC": lambda run: run.send_to(0, signal.SIGKILL),
    "kill a worker": lambda run: run.send_to(-1, signal.SIGKILL),
    "end the stage": lambda run: run.send_to(1, signal.SIGTERM),
    "end DVC": lambda run: run.send_to(0, signal.SIGTERM),
    "Ctrl-C": lambda run: run.send(signal.SIGINT),
    "Ctrl-C twice": lambda run: run.send(signal.SIGINT, signal.SIGINT),
    "close the terminal": lambda run: run.send(signal.SIGHUP),
    "stop, then kill all": lambda run: run.send(signal.SIGSTOP, signal.SIGKILL),
}


def run_with_kills(clone: Workspace, kills: int, seed: int, *targets: str) -> list[str]:
    """Run ``dvc repro`` again and again, and kill it ``kills`` times; from the beginning when it is complete.

    Returns:
        What was killed, when, and what had been printed.
    """
    draw, events = random.Random(seed), []
    ways = [way for _ in range(0, kills, len(WAYS)) for way in draw.sample(list(WAYS), len(WAYS))]
    while len(events) < kills:
        run, way, moment = Run(clone, *targets), ways[len(events)], draw.uniform(0, LATEST_SECONDS)
        if run.wait_for_stage():
            time.sleep(moment)
        if run.process.poll() is None:
            WAYS[way](run)
            output = run.wait()
            events.append(f"{way} after {moment:.1f} s:\n{output}")
            assert "Traceback" not in output, events[-1]
        elif run.process.returncode:
            pytest.fail(run.wait())
        if run.process.returncode == 0:
            start_over(clone)
    clone.run("dvc", "repro", *targets)
    return events


def start_over(clone: Workspace) -> None:
    for name in (".dvc/cache", "data", "results"):
        shutil.rmtree(clone.folder / name, ignore_errors=True)
    (clone.folder / "dvc.lock").unlink(missing_ok=True)
    clone.run("git", "checkout", "-q", "--", "data", "results")
    (clone.folder / "dvc.lock").unlink(missing_ok=True)


def check(clone: Workspace, origin: Workspace, events: list[str], *targets: str) -> None:
    """Check that all outputs are those of a run that nobody killed, and that nothing else is there."""
    found, expected = clone.hashes(), origin.hashes()
    assert found == {path: expected[path] for path in found}, events
    assert targets or found == expected
    status = clone.run("dvc", "status", *targets).replace("source:\n\talways changed\n", "")
    assert status in ("", "Data and pipelines are up to date.\n"), events
    names = [path.relative_to(clone.folder) for path in clone.folder.rglob("*") if ".git" not in path.parts]
    assert [name for name in names if set(name.suffixes) & set(LEFT_BEHIND)] == []
    assert not (clone.folder / ".checkpoints").exists()
    assert clone.run("git", "status", "--porcelain", "--", "data", "results/metrics") == ""


def test_the_first_stages_killed_three_times_end_in_the_same_outputs_and_leave_nothing(origin, tmp_path):
    clone = origin.git_clone(tmp_path / "clone")
    start_over(clone)
    events = run_with_kills(clone, 3, 1, "train")
    check(clone, origin, events, "train")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_all_stages_killed_ten_times_end_in_the_same_outputs_and_leave_nothing(origin, tmp_path, seed):
    clone = origin.git_clone(tmp_path / "clone")
    start_over(clone)
    check(clone, origin, run_with_kills(clone, 10, seed))
