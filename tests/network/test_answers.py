"""Unsure answers and outliers."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.network.answers import choose_answers, class_thresholds
from pipeline.network.calibration import Calibration
from tests.support.commands import run_command
from tests.support.models import SPEC

ROWS = ((0.0, 0.5, 0.6, 0.7, 0.8), (0.1, 0.2, None, None, None), (0.3, 0.3, 0.3, 0.3, 0.3))
CALIBRATED = replace(SPEC, calibration=Calibration(1.0, 2.0, ROWS))
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]], np.float32)
ENERGIES = np.array([1.9, 2.0, 2.1])


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        ((None, None), ["blue", "green", "red"]),
        ((0.5, None), ["blue", "unsure", "red"]),
        ((0.99, None), ["unsure", "unsure", "unsure"]),
        ((None, 0.85), ["blue", "green", "red"]),
        ((None, 0.95), ["blue", "unsure", "red"]),
        ((None, 0.99), ["unsure", "unsure", "red"]),
    ],
)
def test_an_answer_is_unsure_below_the_given_threshold_or_that_of_its_class_for_the_precision(options, answers):
    thresholds = class_thresholds([CALIBRATED], *options, "--")
    found = choose_answers([CALIBRATED], PROBABILITIES, ENERGIES, thresholds)
    assert found.answer == answers
    assert found.outlier == [1, 0, 0]


@pytest.mark.parametrize(
    ("rows", "names"), [(ROWS, SPEC.classes[1]), (((None,) * 5,) * 3, "any class")], ids=["one class", "all classes"]
)
def test_classes_without_a_threshold_are_named(rows, names, capsys):
    class_thresholds([replace(SPEC, calibration=Calibration(1.0, 2.0, rows))], None, 0.93, "--")
    line = f"note: on valid no probability of {names} had a precision of 0.95: always unsure\n"
    assert capsys.readouterr().out == line


def test_outliers_of_several_models_have_an_energy_below_the_mean_of_their_limits():
    other = replace(CALIBRATED, calibration=Calibration(energy=2.2))
    nothing = np.zeros(3)
    assert choose_answers([CALIBRATED, other], PROBABILITIES, ENERGIES, nothing).outlier == [1, 1, 0]
    assert choose_answers([CALIBRATED, SPEC], PROBABILITIES, ENERGIES, nothing).outlier == ["", "", ""]


@pytest.mark.parametrize(
    ("specs", "options", "line"),
    [
        ([SPEC], (None, 0.9), "--abstain-precision: the thresholds are those of one model file, got a file "),
        (
            [CALIBRATED] * 2,
            (None, 0.9),
            "--abstain-precision: the thresholds are those of one model file, got 2 models",
        ),
        ([replace(SPEC, classes=("unsure", "b", "c"))], (0.9, None), "--abstain: got a value, but a class is called "),
    ],
)
def test_thresholds_that_do_not_exist_are_refused_in_one_line(specs, options, line):
    with pytest.raises(PipelineError) as error:
        class_thresholds(specs, *options, "--")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["a.png", "--abstain", "0.9", "--abstain-precision", "0.9"], "error: --abstain-precision: got a value, but "),
        (["--abstain", "0.9"], "error: predict: options need images or folders to classify"),
        (["a.png", "--abstain", "2"], "error: Invalid value for '--abstain': "),
    ],
)
def test_wrong_options_are_refused_in_one_line(workspace, options, line):
    result = run_command("predict", *options)
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
