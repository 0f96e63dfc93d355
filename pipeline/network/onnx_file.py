"""An exported network, opened in onnxruntime. Nothing here needs torch, so that a server starts without it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipeline.common.text import one_line
from pipeline.errors import PipelineError
from pipeline.network.calibration import UNCALIBRATED, Calibration
from pipeline.network.file_facts import ClassNames, ImageSize, Interpolation, Resize, check_classes

INPUT = "images"
OUTPUTS = ("probabilities", "logits")
CALIBRATION = "calibration"


@dataclass(frozen=True)
class OnnxModel:
    """A network that stage ``export`` wrote.

    Attributes:
        path: the file.
        session: of onnxruntime; several threads may run it at the same time.
        network: name of the architecture.
        classes: the class names.
        image_size, resize, interpolation: how a photo is made square; ``plain_copy`` takes them from here.
        calibration: limits for answers; the probabilities already have its temperature.
    """

    path: Path
    session: Any
    network: str
    classes: tuple[str, ...]
    image_size: int
    resize: str
    interpolation: str
    calibration: Calibration = UNCALIBRATED

    def run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities and logits, ``float32``, ``(n, classes)``, of plain copies or photos of one size,
        ``uint8``, ``(n, height, width, 3)``.

        Raises:
            PipelineError: a probability is NaN or infinite.
        """
        probabilities, logits = self.session.run(OUTPUTS, {INPUT: pixels})
        if not np.isfinite(probabilities).all():
            raise PipelineError(
                f"{self.path}: its probabilities are NaN or infinite; export a model of another training"
            )
        return probabilities, logits


def open_onnx(path: Path, threads: int) -> OnnxModel:
    """Open a file that stage ``export`` wrote, on the CPU, with this number of threads for each call of ``run``.

    Raises:
        PipelineError: there is no such file, onnxruntime cannot read it, or it is not a file of stage ``export``.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; run dvc repro, which writes it, or name another ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of its error codes is a type of its own
        raise PipelineError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot read it ({one_line(str(error))[:200]}); run dvc "
            "repro, which writes it again, or name another ONNX file"
        ) from None
    return _described(path, session)


def _described(path: Path, session: Any) -> OnnxModel:
    found = session.get_modelmeta().custom_metadata_map
    names = ([given.name for given in session.get_inputs()], tuple(output.name for output in session.get_outputs()))
    try:
        classes = TypeAdapter(ClassNames).validate_json(found["classes"], strict=True)
        check_classes(classes)
        resizing = (
            TypeAdapter(ImageSize).validate_strings(found["image_size"]),
            TypeAdapter(Resize).validate_strings(found["resize"]),
            TypeAdapter(Interpolation).validate_strings(found["interpolation"]),
        )
        calibration = TypeAdapter(Calibration).validate_json(found[CALIBRATION])
        model = OnnxModel(path, session, found["network"], classes, *resizing, calibration)
        fits = session.get_outputs()[0].shape[-1] == len(classes) and len(calibration.thresholds) in (0, len(classes))
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits or names != ([INPUT], OUTPUTS):
        raise PipelineError(
            f"{path}: is not an ONNX file of this pipeline, whose input is {INPUT}, whose outputs are "
            f"{' and '.join(OUTPUTS)}, and whose metadata have classes and calibration; name one that export wrote"
        )
    return model
