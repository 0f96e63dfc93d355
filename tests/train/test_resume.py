"""A run that is stopped, in any way, resumes to the same bits; a run that is started twice is computed once."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.augment.stage import augment
from pipeline.common.paths import MODEL
from pipeline.params.schema import AugmentParams, ModelParams, TrainParams
from pipeline.train.stage import train
from tests.support.sections import AUGMENT
from tests.support.train_runs import (
    COMMAND,
    DROPOUT,
    STATEFUL,
    environment,
    forked_runs,
    outputs,
    read_until,
    start,
    write_params,
)

pytestmark = pytest.mark.usefixtures("dataset")


@pytest.mark.parametrize(
    ("optimizer", "kills"),
    [
        ("adam", 5),
        pytest.param("adam", 20, marks=pytest.mark.slow),
        pytest.param("muon", 20, marks=pytest.mark.slow),
    ],
)
def test_run_killed_at_random_moments_ends_in_the_same_bits(optimizer, kills):
    params = {**STATEFUL, "optimizer": optimizer, "epochs": 3 * kills}
    # With a checkpoint after every step, many of the kills fall into the writing of one.
    whole, killed = forked_runs(
        {"train": params}, {"train": params, "kills": kills, "seed": 1}, PIPELINE_CHECKPOINT_MINUTES="0"
    )
    assert (whole["exitcodes"], killed["exitcodes"]) == ([0], [0])
    assert (whole["killed"], killed["killed"]) == (0, kills)
    assert killed["outputs"] == whole["outputs"]
    assert not Path(".checkpoints").exists()


@pytest.mark.parametrize("min_area", [1.0, 0.5])
def test_run_over_larger_stored_images_learns_and_resumes_to_the_same_bits(min_area):
    augment(AugmentParams(**AUGMENT | {"store_size": 64}), seed=1, on_bad_image="error", on_leak="warn")
    params = {**STATEFUL, "random_resized_crop": min_area, "epochs": 5}
    whole, killed = forked_runs(
        {"train": params}, {"train": params, "kills": 1, "seed": 1}, PIPELINE_CHECKPOINT_MINUTES="0"
    )
    assert (whole["exitcodes"], killed["exitcodes"]) == ([0], [0])
    assert killed["killed"] == 1
    assert killed["outputs"] == whole["outputs"]
    assert whole["steps"]["loss"][-1] < whole["steps"]["loss"][0]


def interrupt_after_first_checkpoint(run: Callable[[], None], number: int = signal.SIGINT) -> None:
    """Send a signal to this process once the run has written a checkpoint."""

    def send_signal():
        while not any(Path(".checkpoints").glob("*.pt")):
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send_signal)
    sender.start()
    try:
        run()
    finally:
        sender.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_run_which_resumes_to_the_same_bits(number, capsys):
    model, params = ModelParams(**DROPOUT), TrainParams(**STATEFUL)

    with pytest.raises(KeyboardInterrupt):
        interrupt_after_first_checkpoint(lambda: train(model, params, seed=1), number)
    assert "the same command resumes from .checkpoints/" in capsys.readouterr().out.replace(f"{Path.cwd()}/", "")
    assert not MODEL.exists()
    train(model, params, seed=1)
    assert "train: resumes from " in capsys.readouterr().out
    resumed = outputs()
    train(model, params, seed=1)
    assert "resumes from" not in capsys.readouterr().out
    assert outputs() == resumed


def test_run_with_a_damaged_checkpoint_says_so_and_starts_from_the_beginning(capsys):
    model, params = ModelParams(**DROPOUT), TrainParams(**STATEFUL)
    train(model, params, seed=1)
    expected = outputs()
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_first_checkpoint(lambda: train(model, params, seed=1))
    (path,) = Path(".checkpoints").glob("*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    train(model, params, seed=1)
    output = capsys.readouterr().out
    renamed = f"and was renamed to {path.stem}.damaged; starts from the beginning\n"
    assert f"{path} is damaged (its checksum is wrong) {renamed}" in output
    assert "resumes from" not in output
    assert outputs() == expected
    assert not Path(".checkpoints").exists()


def test_run_resumes_with_the_number_of_threads_that_it_was_started_with(capsys):
    model, params = ModelParams(**DROPOUT), TrainParams(**STATEFUL)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (2, 1):
            torch.set_num_threads(threads)
            train(model, params, seed=1)
            results.append(outputs())
        assert results[0] != results[1]
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            interrupt_after_first_checkpoint(lambda: train(model, params, seed=1))
        capsys.readouterr()
        torch.set_num_threads(1)
        train(model, params, seed=1)
    finally:
        torch.set_num_threads(before)
    assert "train: note: uses 2 threads instead of 1, as before it was stopped" in capsys.readouterr().out
    assert outputs() == results[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_with_exit_code_130(number):
    write_params(epochs=60)
    process = start()
    read_until(process, "epoch 3 of")
    process.send_signal(number)
    output = process.stdout.read()
    assert process.wait() == 130
    assert "the same command resumes from" in output
    assert not MODEL.exists()
    again = subprocess.run(COMMAND, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "train: resumes from " in again.stdout


def start_two() -> tuple[subprocess.Popen, subprocess.Popen]:
    """Start the same run twice; the first is suspended when the second waits for it."""
    write_params(epochs=60)
    first = start()
    read_until(first, "epoch 2 of")
    first.send_signal(signal.SIGSTOP)
    second = start()
    read_until(second, "another process runs the same training; waits for it")
    return first, second


@pytest.mark.slow
def test_run_that_is_started_twice_is_computed_once_and_both_have_the_result():
    first, second = start_two()
    first.send_signal(signal.SIGCONT)
    assert "epoch 60 of 60" in first.communicate(timeout=300)[0]
    expected = outputs()
    output = second.communicate(timeout=300)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "epoch 61, step 0" in output
    assert " of 60:" not in output
    assert outputs() == expected
    assert not Path(".checkpoints").exists()


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_second_resumes_from_its_checkpoint():
    first, second = start_two()
    first.kill()
    first.wait()
    output = second.communicate(timeout=300)[0]
    assert second.returncode == 0
    assert "train: resumes from" in output
    assert "epoch 1 of 60:" not in output
    assert "epoch 60 of 60:" in output
    resumed = outputs()
    assert "resumes from" not in start().communicate(timeout=300)[0]
    assert outputs() == resumed
    assert not Path(".checkpoints").exists()
