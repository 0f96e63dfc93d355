"""Which predictions are no answer, since their probability is too low, and which images are unlike the training data.

An image of something else can still get a high probability: the two are judged separately.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.network.calibration import PRECISIONS, Calibration
from pipeline.progress import say

UNSURE = "unsure"


class Calibrated(Protocol):
    """What a weights file (``ModelSpec``) and an ONNX file (``OnnxModel``) say about their network."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""

    @property
    def calibration(self) -> Calibration:
        """What was fitted on the validation split."""


@dataclass(frozen=True)
class Answers:
    """What to say about each image.

    Attributes:
        answer: the predicted class, or ``unsure``.
        outlier: 1 if its energy is lower than that of 99 % of the validation images, otherwise 0; empty if the file
            of the network does not say how low that is.
    """

    answer: list[str]
    outlier: list[int | str]

    def summary(self) -> str:
        """How many images are unsure or outliers; empty if there are none."""
        counts = {UNSURE: self.answer.count(UNSURE), "unlike the training images": self.outlier.count(1)}
        return "".join(f", {count:,} {name}" for name, count in counts.items() if count)


def choose_answers(
    specs: Sequence[Calibrated],
    probabilities: NDArray[np.float32],
    energies: NDArray[np.float64],
    thresholds: NDArray[np.float64],
) -> Answers:
    """Judge predictions; ``energies`` are the means over the networks, as are the probabilities."""
    best, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    names = np.array(specs[0].classes, dtype=object)[best]
    names[~(confidence >= thresholds[best])] = UNSURE  # no probability reaches NaN
    least = [spec.calibration.energy for spec in specs if spec.calibration.energy is not None]
    known = len(least) == len(specs)
    outlier = [int(energy < np.mean(least)) if known else "" for energy in energies]
    return Answers(names.tolist(), outlier)


def class_thresholds(
    specs: Sequence[Calibrated], abstain: float | None, precision: float | None, prefix: str
) -> NDArray[np.float64]:
    """The lowest probability of each class that is an answer, ``(classes,)``; NaN if none is, which is said.

    Args:
        specs: of the networks, of which the probabilities are averaged.
        abstain: a threshold for all classes.
        precision: the precision that the answers of each class had on the validation split, rounded up to one of
            ``PRECISIONS``.
        prefix: of the name of the parameter or option, for errors.

    Raises:
        PipelineError: a class is called unsure, or there are no thresholds for the precision.
    """
    classes = specs[0].classes
    if (abstain, precision) == (None, None):
        return np.zeros(len(classes))
    if UNSURE in classes:
        raise PipelineError(f"{prefix}abstain: got a value, but a class is called {UNSURE}; leave it out, or rename it")
    if abstain is not None:
        return np.full(len(classes), abstain)
    if len(specs) > 1 or not specs[0].calibration.thresholds:
        found = f"{len(specs)} models" if len(specs) > 1 else "a file without them"
        raise PipelineError(
            f"{prefix}abstain{'-' if prefix == '--' else '_'}precision: the thresholds are those of one model file, "
            f"got {found}; set {prefix}abstain instead"
        )
    assert precision is not None
    level = next(index for index, value in enumerate(PRECISIONS) if value >= precision)
    thresholds = np.array([row[level] for row in specs[0].calibration.thresholds], float)
    if never := [name for name, least in zip(classes, thresholds, strict=True) if np.isnan(least)]:
        names = "any class" if len(never) == len(classes) else listed(never, 5)
        say(f"note: on valid no probability of {names} had a precision of {PRECISIONS[level]:g}: always {UNSURE}")
    return thresholds
