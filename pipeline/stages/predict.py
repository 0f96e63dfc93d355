"""Stage ``predict``: the file of predictions."""

import numpy as np
import pandas as pd

from pipeline.files import replacing
from pipeline.inference import open_trained, predict_probabilities
from pipeline.params.predict import PredictParams
from pipeline.paths import DATASET, MODEL, PREDICTIONS
from pipeline.progress import say


def predict(params: PredictParams) -> None:
    """Write ``submission.csv`` (``Id,Category``) and ``probabilities.csv`` to ``results/predictions/``.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, or there is no such split.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    name = params.split if params.split != "auto" else "test" if "test" in dataset else "valid"
    split = dataset.split(name)
    probabilities = predict_probabilities(model, spec, split, "predict")
    submission = pd.DataFrame({"Id": split.ids, "Category": probabilities.argmax(axis=1)})
    table = pd.DataFrame(probabilities.astype(np.float64), columns=list(spec.classes))
    table.insert(0, "Id", split.ids)
    with replacing(PREDICTIONS) as folder:
        folder.mkdir()
        submission.to_csv(folder / "submission.csv", index=False)
        table.to_csv(folder / "probabilities.csv", index=False, float_format="%.6f")
    say(f"predict: {PREDICTIONS / 'submission.csv'} holds {len(split):,} predictions for the {name} split")
