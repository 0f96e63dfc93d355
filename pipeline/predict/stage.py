"""Stage ``predict``: the file of predictions."""

import numpy as np
import pandas as pd

from pipeline.common.files import replacing
from pipeline.common.paths import DATASET, MODEL, PREDICTIONS
from pipeline.errors import PipelineError
from pipeline.network.inference import open_trained, predict_probabilities
from pipeline.params.schema import PredictParams
from pipeline.progress import say


def predict(params: PredictParams) -> None:
    """Write ``submission.csv`` (``Id,Category``) and ``probabilities.csv`` to ``results/predictions/``.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, or the split or its views are not there.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    name = params.split if params.split != "auto" else "test" if "test" in dataset else "valid"
    split = dataset.split(name)
    views = split.images.shape[1] - 1
    if params.tta and not views:
        key = "augment.views" if name == "train" else "augment.test_views"
        raise PipelineError(
            f"params.yaml: predict.tta: got true, but the {name} split has no augmented views to average over; set "
            f"{key} to 1 or more, or predict.tta to false"
        )
    probabilities = predict_probabilities(model, spec, split, "predict", params.tta)
    submission = pd.DataFrame({"Id": split.ids, "Category": probabilities.argmax(axis=1)})
    table = pd.DataFrame(probabilities.astype(np.float64), columns=list(spec.classes))
    table.insert(0, "Id", split.ids)
    with replacing(PREDICTIONS) as folder:
        folder.mkdir()
        submission.to_csv(folder / "submission.csv", index=False)
        table.to_csv(folder / "probabilities.csv", index=False, float_format="%.6f")
    averaged = f", each the mean over the image and {views} views" if params.tta else ""
    say(f"predict: {PREDICTIONS / 'submission.csv'} holds {len(split):,} predictions for the {name} split{averaged}")
