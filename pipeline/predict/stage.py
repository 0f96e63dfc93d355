"""Stage ``predict``: predict a split and write the submission."""

import numpy as np
import pandas as pd

from pipeline.common.files import replacing
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS
from pipeline.network.inference import open_trained, predict_probabilities
from pipeline.params.schema import PredictParams
from pipeline.progress import say


def predict(params: PredictParams) -> None:
    """Write ``submission.csv`` (``Id,Category``) and ``probabilities.csv`` to ``results/predictions/``.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, or there is no such split or, with ``tta``, no
            views.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    split = dataset.split(params.split if params.split != "auto" else "test" if "test" in dataset else "valid")
    if params.tta:
        split.require_views("predict")
    probabilities = predict_probabilities(model, spec, split, "predict", params.tta)
    submission = pd.DataFrame({"Id": split.ids, "Category": probabilities.argmax(axis=1)})
    table = pd.DataFrame(probabilities.astype(np.float64), columns=list(spec.classes))
    table.insert(0, "Id", split.ids)
    with replacing(PREDICTIONS) as folder:
        folder.mkdir()
        submission.to_csv(folder / "submission.csv", index=False)
        table.to_csv(folder / "probabilities.csv", index=False, float_format="%.6f")
    averaged = f", each the mean over the image and {split.images.shape[1] - 1} views" if params.tta else ""
    say(f"predict: {PREDICTIONS / 'submission.csv'}: {len(split):,} predictions for the {split.name} split{averaged}")
