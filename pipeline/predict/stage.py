"""Stage ``predict``: predict a split and write the submission."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline.common.dataset import PackedSplit
from pipeline.common.files import replacing, write_table
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS
from pipeline.common.text import listed, shown_name
from pipeline.network.answers import choose_answers, class_thresholds
from pipeline.network.calibrating import energies
from pipeline.network.inference import choose_tta, open_trained, predict_logits
from pipeline.params.schema import PredictParams
from pipeline.predict.table import probability_columns
from pipeline.progress import say


def predict(params: PredictParams) -> None:
    """Write to ``results/predictions/``: ``submission.csv`` (``Id,Category``), ``categories.csv`` (the class of each
    ``Category``), ``probabilities.csv`` (``Id``, and ``p_`` with the class name for each class), and ``answers.csv``.

    Only the answers can be ``unsure``: a submission needs a class for every image.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, or there is no such split or, with the method
            ``views``, no views.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    split = dataset.split(params.split if params.split != "auto" else "test" if "test" in dataset else "valid")
    tta = choose_tta(model, spec, dataset, split, params.tta, "predict")
    thresholds = class_thresholds([tta.spec], params.abstain, params.abstain_precision, "params.yaml: predict.")
    logits = predict_logits(model, spec, split, "predict", tta.method)
    probabilities, scores = softmax(logits / tta.spec.calibration.temperature, axis=1), energies(logits)
    answers = choose_answers([tta.spec], probabilities, scores, thresholds)
    best = {"predicted": np.array(spec.classes)[probabilities.argmax(axis=1)], "confidence": probabilities.max(axis=1)}
    judged = pd.DataFrame({"Id": split.ids, **best, **vars(answers)})
    judged.insert(4, "energy", scores)
    with replacing(PREDICTIONS) as folder:
        folder.mkdir()
        write_table(folder / "submission.csv", submission_table(split.ids, spec.classes, probabilities))
        numbers = categories(spec.classes)
        write_table(folder / "categories.csv", pd.DataFrame({"Category": numbers, "class": spec.classes}))
        write_table(folder / "probabilities.csv", probability_table(split.ids, spec.classes, probabilities), "%.6f")
        write_table(folder / "answers.csv", judged, "%.6g")
    chosen = ", chosen on the valid split" if params.tta == "auto" else ""
    averaged = f" with test-time augmentation ({tta.method}{chosen})" if params.tta != "none" else ""
    report_submission(PREDICTIONS / "submission.csv", split, spec.classes, averaged)
    if summary := answers.summary():
        say(
            f"predict: {PREDICTIONS / 'answers.csv'}: {len(split):,} images{summary}; a submission has a class for each"
        )


def submission_table(ids: list[str], classes: Sequence[str], probabilities: NDArray[np.floating]) -> pd.DataFrame:
    """``Id`` and ``Category`` of the most probable class of each image."""
    numbers = categories(classes)
    return pd.DataFrame({"Id": ids, "Category": [numbers[best] for best in probabilities.argmax(axis=1)]})


def probability_table(ids: list[str], classes: Sequence[str], probabilities: NDArray[np.floating]) -> pd.DataFrame:
    """``Id``, and a column for each class, ``p_`` and its name."""
    table = pd.DataFrame(probabilities.astype(np.float64), columns=probability_columns(classes))
    table.insert(0, "Id", ids)
    return table


def categories(classes: Sequence[str]) -> list[int]:
    """The ``Category`` of each class: its name if all names are different integers in ASCII digits, otherwise its
    index."""
    if all(name.isascii() and name.isdigit() for name in classes):
        numbers = [int(name) for name in classes]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(classes)))


def report_submission(path: Path, split: PackedSplit, classes: Sequence[str], averaged: str = "") -> None:
    """Say what ``Id`` and ``Category`` of a submission are."""
    numbers = categories(classes)
    longer = [id for id, source in zip(split.ids, split.sources, strict=True) if id != PurePosixPath(source).stem]
    if longer:
        say(
            f"predict: several files of the {split.name} split have the same name, so that {len(longer):,} Ids are "
            f"more than the name without its extension: {listed(map(shown_name, longer))}"
        )
    if numbers == list(range(len(classes))):
        pairs = (f"{number} {name}" for number, name in zip(numbers, classes, strict=True))
        meaning = f"the index of the class ({listed(pairs)}; see {PREDICTIONS / 'categories.csv'})"
    else:
        meaning = "the name of the class, which is a number"
    say(f"predict: {path}: {len(split):,} predictions for the {split.name} split{averaged}; Category is {meaning}")
