"""Is one network better than another on the same images? Paired statistics, and the report for a terminal.

A comparison is about two trained networks. How much another training run with the same settings would differ is
unknown (Dietterich 1998); ``seeds.py`` measures it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, bootstrap
from sklearn.metrics import recall_score

from pipeline.common.shares import LEVEL, bonett_price
from pipeline.common.text import listed
from pipeline.errors import PipelineError
from pipeline.evaluate.metrics import image_scores
from pipeline.progress import table_lines, wrapped

POWER = 0.8
RESAMPLES = 9_999
# Fewer changed images are not significant even if all favour one network: 2 · 0.5⁵ = 0.06.
FEWEST_IMAGES = 6
# More at once would need gigabytes in the bootstrap.
BATCH_IMAGES = 2_000_000
# An id is unique in one dataset; another image of the same name changes it.
SHARED_COLUMNS = ["source", "id", "class"]
OWN_COLUMNS = ["predicted_class", "confidence", "loss"]
CHANGES = ("right -> wrong", "wrong -> right", "wrong -> another wrong")


@dataclass(frozen=True)
class Difference:
    """The mean over the images for A and for B, and B − A with its 95 % interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images; accuracies and their differences from 0 to 1, the log loss in nats.

    ``only_a_right`` and ``only_b_right`` count the images that only one of them classifies correctly; ``left_out``
    counts the images that are in only one of the two tables; see the functions of the same name for
    ``least_significant`` and ``detectable``.
    """

    images: int
    left_out: int
    accuracy: Difference
    log_loss: Difference
    only_a_right: int
    only_b_right: int
    p_value: float
    least_significant: float
    detectable: float


def prediction_table(
    sources: Sequence[str], ids: Sequence[str], labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]
) -> pd.DataFrame:
    """A table for :func:`pair`, whose classes are indices; the log loss is that of ``evaluate``.

    Args:
        sources, ids: of the images.
        labels: true class indices, ``(images,)``.
        probabilities: ``(images, classes)``.
    """
    return pd.DataFrame(
        {
            "source": sources,
            "id": ids,
            "class": labels,
            "predicted_class": probabilities.argmax(axis=1),
            "confidence": probabilities.max(axis=1),
            "loss": image_scores(labels, probabilities.astype(np.float64), 2)["log_loss"],
        }
    )


def pair(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Join the predictions of two networks for the same images.

    Args:
        a, b: tables of predictions as ``evaluate`` writes them, one row per image, with unique sources.

    Returns:
        One row per image that both have: source, id in A and class; predicted_class, confidence and loss with ``_a``
        and ``_b``; and right_a and right_b, whether the prediction is the class.

    Raises:
        PipelineError: fewer than half of the images are in both, too few are, or the labels of an image differ.
    """
    columns = SHARED_COLUMNS + OWN_COLUMNS
    pairs = a[columns].merge(b[columns], on="source", suffixes=("_a", "_b"), validate="one_to_one")
    if len(pairs) < max(len(a), len(b)) / 2:
        raise PipelineError(
            f"only {len(pairs):,} images are in both, of {len(a):,} in A and {len(b):,} in B; evaluate both "
            "on the same images: the same data, data.split_seed and evaluate.split"
        )
    if len(pairs) < FEWEST_IMAGES:
        raise PipelineError(f"{len(pairs)} images cannot show a difference; allowed are {FEWEST_IMAGES} or more")
    differing = pairs[pairs["class_a"] != pairs["class_b"]]
    if len(differing):
        rows = differing.itertuples()
        examples = listed((f"{row.source} is {row.class_a} in A and {row.class_b} in B" for row in rows), 2)
        raise PipelineError(f"the labels differ: {examples}; compare networks that were evaluated with the same labels")
    pairs = pairs.rename(columns={"id_a": "id", "class_a": "class"}).drop(columns=["id_b", "class_b"])
    return pairs.assign(**{f"right_{name}": pairs[f"predicted_class_{name}"] == pairs["class"] for name in "ab"})


def compare(pairs: pd.DataFrame, left_out: int = 0) -> Comparison:
    """Compute all figures of a comparison of ``pairs``, the result of :func:`pair`."""
    images = len(pairs)
    only_a, only_b = (int((pairs[f"right_{x}"] & ~pairs[f"right_{y}"]).sum()) for x, y in ("ab", "ba"))
    a, b = (float(pairs[f"right_{name}"].mean()) for name in "ab")
    low, high = bonett_price(only_b, only_a, images).tolist()
    return Comparison(
        images=images,
        left_out=left_out,
        accuracy=Difference(a, b, b - a, low, high),
        log_loss=_difference(pairs["loss_a"], pairs["loss_b"]),
        only_a_right=only_a,
        only_b_right=only_b,
        p_value=mcnemar(only_a, only_b),
        least_significant=least_significant(images, only_a + only_b),
        detectable=detectable(images, (only_a + only_b) / images),
    )


def _difference(a: pd.Series, b: pd.Series) -> Difference:
    """The means of two columns, and the percentile interval of their difference from a paired bootstrap (Efron
    & Tibshirani 1993), which resamples images with both values; the same resamples in every call."""
    changes = (b - a).to_numpy(float)
    low = high = changes.mean()
    if np.ptp(changes) > 0:
        low, high = bootstrap(
            (changes,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=max(BATCH_IMAGES // len(changes), 1),
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return Difference(*map(float, (a.mean(), b.mean(), changes.mean(), low, high)))


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947) that two networks are equally often right, from the
    numbers of images that only A and only B classifies correctly."""
    changed = only_a + only_b
    return float(binomtest(only_b, changed).pvalue) if changed else 1.0


def _critical(changed: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """How many of the changed images one network must classify correctly for a p-value below 0.05."""
    needed: NDArray[np.float64] = binom.isf((1 - LEVEL) / 2, changed, 0.5) + 1
    return needed


def least_significant(images: int, changed: int) -> float:
    """The smallest difference of accuracies, 0 to 1, that McNemar's exact test finds significant if only one of the two
    networks is right on ``changed`` of the images."""
    changed = max(changed, FEWEST_IMAGES)
    return float((2 * _critical(changed) - changed) / images)


def detectable(images: int, changed: float, power: float = POWER) -> float:
    """The difference of the true accuracies, 0 to 1, that McNemar's exact test finds with probability ``power``.

    The exact sum over all outcomes; Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design", approximates it. There are 6 images or more; ``changed`` is the share of them, 0 to 1, that
    only one of the two networks classifies correctly.
    """
    counts = np.arange(images + 1)
    needed = _critical(counts)

    def found(difference: float) -> float:
        share = max(changed, difference)
        of_the_better = binom.sf(needed - 1, counts, (share + difference) / (2 * share))
        return float(of_the_better @ binom.pmf(counts, images, share))

    return float(brentq(lambda difference: found(difference) - power, 1e-9, 1.0))


def class_changes(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per class, the largest gain first: class, images, recall_a, recall_b and change."""
    labels = pairs["class"].to_numpy(object)
    names = np.unique(labels)
    a, b = (
        recall_score(labels, pairs[f"predicted_class_{name}"].to_numpy(object), labels=names, average=None)
        for name in "ab"
    )
    table = pd.DataFrame({"class": names, "recall_a": a, "recall_b": b, "change": b - a})
    table.insert(1, "images", table["class"].map(pairs["class"].value_counts()).astype(int))
    return table.sort_values(["change", "images"], ascending=False, kind="stable", ignore_index=True)


def changed_images(pairs: pd.DataFrame) -> pd.DataFrame:
    """The images that the networks classify differently, with a column ``change``, in the order of CHANGES."""
    changed = pairs[pairs["predicted_class_a"] != pairs["predicted_class_b"]]
    kind = np.select([changed["right_a"], changed["right_b"]], [0, 1], 2)
    order = np.argsort(kind, kind="stable")
    return changed.assign(change=np.array(CHANGES, dtype=object)[kind]).iloc[order].reset_index(drop=True)


def comparison_facts(names: tuple[str, str], split: str, comparison: Comparison) -> dict[str, Any]:
    """The figures, with the names of what was compared."""
    return {"a": names[0], "b": names[1], "split": split, **asdict(comparison)}


def comparison_lines(
    names: tuple[str, str], split: str, comparison: Comparison, pairs: pd.DataFrame, most: int
) -> list[str]:
    """The report for a terminal; at most ``most`` classes and images of each kind."""
    left_out = f"; {comparison.left_out:,} that only one of them has are left out" if comparison.left_out else ""
    sections = (
        wrapped(f"A is {names[0]}, B is {names[1]}: {comparison.images:,} images of the {split} split{left_out}"),
        summary_lines(comparison),
        verdict_lines(comparison),
        _class_lines(class_changes(pairs), most),
        _image_lines(changed_images(pairs), most),
        wrapped("Each is one training run; several seeds show whether the settings differ (python -m pipeline seeds)."),
    )
    return "\n\n".join("\n".join(lines) for lines in sections).split("\n")


def summary_lines(comparison: Comparison) -> list[str]:
    """Accuracy and log loss of A and B with the intervals of their differences, and McNemar's test."""
    accuracy, loss = comparison.accuracy, comparison.log_loss
    difference, low, high = (100 * value for value in (accuracy.difference, accuracy.low, accuracy.high))
    return [
        f"{'':<8}{'A':>10}{'B':>10}{'B - A':>16}   95 % interval",
        f"accuracy{accuracy.a:>10.2%}{accuracy.b:>10.2%}{difference:>+9.2f} points   {low:+.2f} to {high:+.2f}",
        f"log loss{loss.a:>10.4f}{loss.b:>10.4f}{loss.difference:>+16.4f}   {loss.low:+.4f} to {loss.high:+.4f}",
        f"McNemar's test: images that only A has right: {comparison.only_a_right:,}, only B: "
        f"{comparison.only_b_right:,}; p = {comparison.p_value:.2g}",
    ]


def verdict_lines(comparison: Comparison) -> list[str]:
    """What the comparison means, in one to three sentences."""
    right = {"A": comparison.only_a_right, "B": comparison.only_b_right}
    changed, better = sum(right.values()), max(right, key=lambda name: right[name])
    split = f"of the {changed:,} that only one of them has right, {better} has {right[better]:,}."
    noise = (
        f"A difference below {100 * comparison.least_significant:.1f} points is noise here; a true difference of "
        f"{100 * comparison.detectable:.1f} points would be found four times in five."
    )
    if not changed:
        sentences = [f"No difference: A and B are right on the same images, of {comparison.images:,}.", noise]
    elif comparison.p_value >= 1 - LEVEL:
        sentences = [f"No difference that {comparison.images:,} images can show: {split}", noise]
    else:
        chance = "less than 0.01" if comparison.p_value < 1e-4 else f"{100 * comparison.p_value:.2g}"
        by_chance = f"Two equally good networks would differ this much in {chance} % of comparisons."
        sentences = [f"{better} is better: {split}", by_chance]
    loss = comparison.log_loss
    if not loss.low <= 0 <= loss.high:
        name = "A" if loss.difference > 0 else "B"
        sentences.append(f"{name} has the better probabilities: its log loss is significantly lower.")
    return wrapped(" ".join(sentences))


def _class_lines(table: pd.DataFrame, most: int) -> list[str]:
    """The ``most`` largest gains and losses of ``class_changes``, and how many rows are not shown."""
    changed = table[table["change"] != 0]
    if changed.empty:
        return ["The recall of every class is the same."]
    shown = changed if len(changed) <= 2 * most else pd.concat([changed.head(most), changed.tail(most)])
    names = {"recall_a": "recall A", "recall_b": "recall B", "change": "points"}
    formats = {"images": "{:,}", "recall A": "{:.1%}", "recall B": "{:.1%}", "points": "{:+.1f}"}
    hidden, same = len(changed) - len(shown), len(table) - len(changed)
    rest = [f"{hidden:,} more changed"] * (hidden > 0) + [f"{same:,} did not change"] * (same > 0)
    lines = table_lines(shown.assign(change=100 * shown["change"]).rename(columns=names), formats) if most else []
    return lines + [", ".join(rest)] * bool(rest)


def _image_lines(table: pd.DataFrame, most: int) -> list[str]:
    """The number of rows of ``changed_images`` of each kind, and the first ``most`` of each."""
    names = {"predicted_class_a": "A says", "predicted_class_b": "B says"}
    lines = []
    for kind in CHANGES:
        images = table[table["change"] == kind]
        first = f", the first {most:,}" if 0 < most < len(images) else ""
        lines.append(f"{kind}: {len(images):,}{first}")
        if len(images) and most:
            lines += table_lines(images.head(most)[["id", "class", *names]].rename(columns=names), {})
    return lines
