"""What to do next: rules that find a problem in the results, with their evidence.

Each rule returns None if it does not apply. The thresholds are rules of thumb, chosen so that small differences by
chance are not reported.
"""

from typing import Any, NamedTuple

import pandas as pd

from pipeline.common.text import listed
from pipeline.report.inputs import Inputs

# Of an accuracy: a difference that is reported, an accuracy that is low, a rise in the last quarter of the epochs, and
# an interval that is wide.
GAP, LOW, RISE, WIDE = 0.05, 0.9, 0.005, 0.1
# Of a class: training images that are few, also as a share of the median class.
FEW, FEW_SHARE = 20, 0.25
# Of a pair of classes: the share of the class, and images.
CONFUSED, CONFUSED_IMAGES = 0.1, 5
# What to try next against overfitting.
STRONGER, MIXUP = {"none": "medium", "light": "medium", "medium": "strong"}, 0.2


class Advice(NamedTuple):
    """The evidence for a problem, what to do, and a command to try, or an empty text."""

    evidence: str
    action: str
    command: str = ""


def advise(inputs: Inputs, params: dict[str, Any]) -> list[Advice]:
    """The rules that apply to a run, the most important first; ``params`` are the leaves by their dotted names."""
    audit, train, evaluate = (inputs.results[name] for name in ("audit", "train", "evaluate"))
    accuracy = train["plain_train_accuracy"], train["valid_accuracy"]
    interval = evaluate.get("interval", {}).get("accuracy", {"low": evaluate["accuracy"], "high": evaluate["accuracy"]})
    ends = interval["low"], interval["high"]
    rules = (
        leaks(audit["leaks"], audit.get("leaks_of_near_duplicates", 0), params.get("data.groups") == "near_duplicates"),
        contradictory_labels(audit.get("contradictory_labels", 0), audit.get("near_duplicates_with_two_labels", 0)),
        overfitting(*accuracy, params),
        underfitting(*accuracy, train["epochs"], params["train.epochs"]),
        not_better_than_before(
            evaluate["accuracy"], evaluate.get("baseline"), params["train.epochs"], params["train.lr"]
        ),
        still_rising(inputs.epochs, params["train.epochs"]),
        other_test_images(train["valid_accuracy"], *ends) if evaluate["split"] == "test" else None,
        few_images(audit["classes"], params.get("train.class_weights") == "balanced"),
        confused_classes(inputs.pairs),
        wide_interval(*ends, evaluate["images"]),
    )
    return [advice for advice in rules if advice]


def leaks(count: int, near: int, grouped: bool) -> Advice | None:
    """Images of valid and test that are in an earlier split, too; ``near`` of them as near-duplicates, which are
    ``grouped`` where this project draws the splits."""
    if not count:
        return None
    evidence = f"Images of valid and test that are in an earlier split, too: {count:,}. The accuracy may be too high."
    if near and grouped:
        return Advice(evidence, "Move near-duplicates into one split of the source; audit.html shows the images.")
    if near:
        return Advice(evidence, "Keep near-duplicates in one split.", "dvc exp run -S data.groups=near_duplicates")
    return Advice(evidence, "Leave out the copies in the earlier split.", "dvc exp run -S data.on_leak=drop")


def contradictory_labels(identical: int, near: int) -> Advice | None:
    """Groups of identical images, and pairs of near-duplicates, with different labels."""
    if not identical + near:
        return None
    evidence = f"Groups of images that look the same, but have different labels: {identical + near:,}."
    return Advice(evidence, "Correct the labels; audit.html shows the images.")


def overfitting(train: float, valid: float, params: dict[str, Any]) -> Advice | None:
    """The accuracy on the training images, without augmentation, is far higher than on the validation images."""
    if train - valid <= GAP:
        return None
    evidence = f"Overfitting: the accuracy is {train:.1%} on the training images and {valid:.1%} on the valid split."
    action = "Add augmentation (augment.preset, train.random_resized_crop, train.mixup_alpha) or training images"
    action += "." if params.get("model.pretrained") else ", or start from pretrained weights (model.pretrained)."
    stronger = STRONGER.get(params["augment.preset"]) if params["augment.views"] else None
    settings = [f" -S augment.preset={stronger}"] * bool(stronger)
    settings += [f" -S train.mixup_alpha={MIXUP}"] * (params["train.mixup_alpha"] < MIXUP)
    return Advice(evidence, action, f"dvc exp run{''.join(settings)}" if settings else "")


def underfitting(train: float, valid: float, epochs: int, planned: int) -> Advice | None:
    """Both accuracies are low; ``epochs`` ran of ``train.epochs``, which are ``planned``."""
    if max(train, valid) >= LOW or train - valid > GAP:
        return None
    evidence = (
        f"Underfitting: the accuracy is only {train:.1%} on the training images, and {valid:.1%} on the valid split."
    )
    others = "with a larger network or larger images, or with less augmentation."
    if epochs < planned:
        return Advice(evidence, f"It stopped after {epochs} of {planned} epochs. Train {others}")
    return Advice(evidence, f"Train for more epochs, {others}", f"dvc exp run -S train.epochs={2 * planned}")


def not_better_than_before(accuracy: float, baseline: dict[str, Any] | None, epochs: int, lr: float) -> Advice | None:
    """Logistic regression on the features of the pretrained network is more accurate than the fine-tuned network;
    ``baseline`` is that of ``evaluate``, None without one."""
    # An accuracy within the interval may be lower by chance.
    if not baseline or accuracy >= baseline["logistic_regression"]["interval"]["low"]:
        return None
    evidence = (
        f"Fine-tuning did not help: the accuracy is {accuracy:.1%}, and that of logistic regression on the features of "
        f"the pretrained network {baseline['logistic_regression']['accuracy']:.1%}."
    )
    action = "Train for more epochs with a lower learning rate, or only the last layer (train.freeze_epochs)."
    return Advice(evidence, action, f"dvc exp run -S train.epochs={2 * epochs} -S train.lr={lr / 2:g}")


def still_rising(epochs: pd.DataFrame, planned: int) -> Advice | None:
    """The accuracy of the last quarter of the epochs is higher than that of the quarter before.

    Args:
        epochs: the columns split and accuracy, in the order of the epochs.
        planned: ``train.epochs``; a run that stopped earlier does not get better.
    """
    valid = epochs.loc[epochs["split"] == "valid", "accuracy"].to_numpy()
    quarter = len(valid) // 4
    if not quarter or len(valid) < planned:
        return None
    before, last = valid[-2 * quarter : -quarter].mean(), valid[-quarter:].mean()
    if last - before <= RISE:
        return None
    evidence = (
        f"The valid accuracy still rises at the end: {before:.1%} on average in the epochs {planned - 2 * quarter + 1} "
        f"to {planned - quarter}, {last:.1%} in those after them."
    )
    return Advice(evidence, "Train for more epochs.", f"dvc exp run -S train.epochs={2 * planned}")


def other_test_images(valid: float, low: float, high: float) -> Advice | None:
    """The valid accuracy is outside the interval of the test accuracy, and far from it."""
    if low - GAP <= valid <= high + GAP:
        return None
    evidence = f"The accuracy is {valid:.1%} on the valid split, but {low:.1%} to {high:.1%} on the test split."
    return Advice(evidence, "Compare the images of both splits: they may come from other sources or other classes.")


def few_images(classes: list[dict[str, Any]], balanced: bool) -> Advice | None:
    """Classes with few training images; each row of ``classes`` has ``class`` and ``train``."""
    counts = {row["class"]: row.get("train", 0) for row in classes}
    least = max(FEW, FEW_SHARE * float(pd.Series(counts, dtype=float).median())) if counts else 0
    few = sorted((count, name) for name, count in counts.items() if count < least)
    if not few:
        return None
    names = listed([f"{name}: {count:,}" for count, name in few], 3)
    # Of classes that all have few images, weights change little.
    weigh = not balanced and few[0][0] < max(counts.values()) / 2
    action = "Add images of these classes" + (", or give each class the same weight." if weigh else ".")
    command = "dvc exp run -S train.class_weights=balanced" if weigh else ""
    return Advice(f"Classes with few training images: {len(few):,} of {len(counts):,} ({names}).", action, command)


def confused_classes(pairs: pd.DataFrame) -> Advice | None:
    """The most frequent mistake, if it is a large share of its class; ``pairs`` as in :class:`Inputs`."""
    large = pairs[(pairs["share"] >= CONFUSED) & (pairs["count"] >= CONFUSED_IMAGES)]
    if large.empty:
        return None
    first = large.iloc[0]
    evidence = f"{first['share']:.0%} of the images of {first['class']} are predicted as {first['predicted_class']}."
    return Advice(evidence, "Look at these images: are the labels right, and can a person tell the classes apart?")


def wide_interval(low: float, high: float, images: int) -> Advice | None:
    """The accuracy is uncertain."""
    if high - low <= WIDE:
        return None
    evidence = f"The accuracy is uncertain: {low:.1%} to {high:.1%}, from {images:,} images."
    return Advice(
        evidence,
        "Evaluate more images, or all of them by cross-validation.",
        "python -m pipeline folds -S data.folds=5",
    )
