"""Stage ``predict``: predict a split and write the submission."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from pipeline.common.dataset import PackedSplit
from pipeline.common.files import replacing, write_table
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS
from pipeline.common.text import listed, shown_name
from pipeline.network.answers import choose_answers, class_thresholds
from pipeline.network.inference import open_trained, predict_probabilities
from pipeline.params.schema import PredictParams
from pipeline.predict.table import probability_columns
from pipeline.progress import say


def predict(params: PredictParams) -> None:
    """Write to ``results/predictions/``: ``submission.csv`` (``Id,Category``), ``categories.csv`` (the class of each
    ``Category``), ``probabilities.csv`` (``Id``, and ``p_`` with the class name for each class), and ``answers.csv``.

    Only the answers can be ``unsure``: a submission needs a class for every image.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, or there is no such split or, with ``tta``, no
            views.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    split = dataset.split(params.split if params.split != "auto" else "test" if "test" in dataset else "valid")
    if params.tta:
        split.require_views("predict")
    thresholds = class_thresholds([spec], params.abstain, params.abstain_precision, "params.yaml: predict.")
    temperature = spec.calibration.temperature
    probabilities, energies = predict_probabilities(model, spec, split, "predict", params.tta, temperature)
    answers = choose_answers([spec], probabilities, energies, thresholds)
    numbers = categories(spec.classes)
    submission = pd.DataFrame({"Id": split.ids, "Category": [numbers[best] for best in probabilities.argmax(axis=1)]})
    table = pd.DataFrame(probabilities.astype(np.float64), columns=probability_columns(spec.classes))
    table.insert(0, "Id", split.ids)
    best = {"predicted": np.array(spec.classes)[probabilities.argmax(axis=1)], "confidence": probabilities.max(axis=1)}
    judged = pd.DataFrame({"Id": split.ids, **best, **vars(answers)})
    judged.insert(4, "energy", energies)
    with replacing(PREDICTIONS) as folder:
        folder.mkdir()
        write_table(folder / "submission.csv", submission)
        write_table(folder / "categories.csv", pd.DataFrame({"Category": numbers, "class": spec.classes}))
        write_table(folder / "probabilities.csv", table, "%.6f")
        write_table(folder / "answers.csv", judged, "%.6g")
    _report(split, spec.classes, numbers, params.tta)
    if summary := answers.summary():
        say(
            f"predict: {PREDICTIONS / 'answers.csv'}: {len(split):,} images{summary}; a submission has a class for each"
        )


def categories(classes: Sequence[str]) -> list[int]:
    """The ``Category`` of each class: its name if all names are different integers in ASCII digits, otherwise its
    index."""
    if all(name.isascii() and name.isdigit() for name in classes):
        numbers = [int(name) for name in classes]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(classes)))


def _report(split: PackedSplit, classes: Sequence[str], numbers: list[int], tta: bool) -> None:
    averaged = f", each the mean over the image and {split.images.shape[1] - 1} views" if tta else ""
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
    say(
        f"predict: {PREDICTIONS / 'submission.csv'}: {len(split):,} predictions for the {split.name} split{averaged}; "
        f"Category is {meaning}"
    )
