"""Stage ``evaluate``: judge the network on images that it was not trained on."""

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from pipeline.errors import PipelineError
from pipeline.files import replacing, write_json
from pipeline.inference import open_trained, predict_probabilities
from pipeline.params.evaluate import EvaluateParams
from pipeline.paths import DATASET, METRICS, MODEL, PLOTS
from pipeline.plots.confusion import plot_confusion
from pipeline.progress import say


def evaluate(params: EvaluateParams) -> None:
    """Write ``results/metrics/evaluate.json``, the measures by class and the confusion matrix.

    Raises:
        PipelineError: there is no model, it does not fit the dataset, or the split has no labels.
    """
    dataset, model, spec = open_trained(DATASET, MODEL)
    split = dataset.labelled_split(params.split)
    probabilities = predict_probabilities(model, spec, split, "evaluate")
    metrics, by_class = compute_metrics(split.labels, probabilities, spec.classes, params.top_k)
    write_json(METRICS / "evaluate.json", {"split": split.name, "images": len(split), **metrics})
    with replacing(PLOTS / "classes.csv") as beside:
        by_class.to_csv(beside, index=False, float_format="%.6f")
    _write_confusion(split.labels, probabilities.argmax(axis=1), spec.classes, split.name)
    say(f"evaluate: accuracy {metrics['accuracy']:.4f} on the {len(split):,} images of the {split.name} split")


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], top_k: int
) -> tuple[dict[str, float], pd.DataFrame]:
    """Compute accuracy, top-k accuracy, and precision, recall and F1: macro averages, and a row a class.

    Args:
        labels: true class indices, ``(images,)``.
        probabilities: ``(images, classes)``.
        classes: the class names.
        top_k: fewer than the number of classes.

    Raises:
        PipelineError: ``top_k`` is not below the number of classes.
    """
    if top_k >= max(len(classes), 3):
        raise PipelineError(
            f"params.yaml: evaluate.top_k: got {top_k}, allowed is less than the number of classes ({len(classes)})"
        )
    indices = np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    names = ("precision", "recall", "f1")
    by_class = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    macro = precision_recall_fscore_support(labels, predicted, labels=indices, average="macro", zero_division=0)
    metrics = {
        "accuracy": accuracy_score(labels, predicted),
        # With two classes every image is a top-2 hit, and scikit-learn takes one score a row.
        f"top_{top_k}_accuracy": top_k_accuracy_score(labels, probabilities, k=top_k, labels=indices)
        if len(classes) > 2
        else 1.0,
        **{f"macro_{name}": value for name, value in zip(names, macro, strict=False)},
    }
    return metrics, pd.DataFrame({"class": classes, **dict(zip((*names, "images"), by_class, strict=True))})


def _write_confusion(labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...], split: str) -> None:
    names = np.array(classes)
    with replacing(PLOTS / "confusion.csv") as beside:
        pd.DataFrame({"actual": names[labels], "predicted": names[predicted]}).to_csv(beside, index=False)
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(classes)))
    plot_confusion(PLOTS / "confusion_matrix.png", counts, classes, f"Confusion matrix, {split} split")
