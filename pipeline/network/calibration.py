"""Whether a network's probabilities can be trusted, and when it should rather give no answer: what is fitted on the
validation split and stored in the weights file and in the ONNX file.

``train`` fits it at its end, not ``evaluate`` afterwards: so whoever has only the weights file, or the ONNX file made
from it, gets calibrated probabilities too, and no stage after ``train`` can use the temperature of another network.
"""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

# The levels of precision that have thresholds.
PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)
Share = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[tuple[Share | None, ...], Field(min_length=len(PRECISIONS), max_length=len(PRECISIONS))]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Calibration:
    """What is fitted on the validation split, and stored as JSON.

    Attributes:
        temperature: the logits are divided by it before the softmax.
        energy: images with a lower energy score are unlike the validation images; None if it is unknown.
        thresholds: for each class, the lowest probability for each of ``PRECISIONS``, or None if there is none.
    """

    temperature: float = Field(default=1.0, ge=1e-5, le=1e5)
    energy: float | None = None
    thresholds: tuple[Row, ...] = ()


UNCALIBRATED = Calibration()
