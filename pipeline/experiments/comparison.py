"""Is one network better than another on the same images? Paired statistics, and those of several seeds.

A comparison judges two trained networks. What a training run of the same settings would have given by other chances
of its own it cannot know (Dietterich 1998): the statistics of several seeds answer that.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, bootstrap, t
from sklearn.metrics import recall_score

from pipeline.errors import PipelineError, listed

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 9_999
# Of fewer changed images even all on one side come by chance more often than once in twenty: 2 · 0.5⁵ = 0.06.
FEWEST_IMAGES = 6
# Beyond that a bootstrap would hold gigabytes at once.
BATCH_IMAGES = 2_000_000
SHARED_COLUMNS = ["id", "class"]
OWN_COLUMNS = ["predicted_class", "confidence", "loss"]
CHANGES = ("right -> wrong", "wrong -> right", "wrong -> another wrong")


@dataclass(frozen=True)
class Difference:
    """A mean over the images for A and for B, and B − A with its 95 % interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images; every accuracy and difference of it from 0 to 1, the log loss in nats.

    ``only_a_right`` and ``only_b_right`` count the images that one of them has right and the other has not;
    ``least_significant`` and ``detectable`` are those of :func:`least_significant` and :func:`detectable`.
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


def pair(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Bring the predictions of two networks for the same image into one row.

    Args:
        a, b: tables of predictions as ``evaluate`` writes them, a row an image; ids are unique.

    Returns:
        The columns id and class, predicted_class, confidence and loss with ``_a`` and with ``_b``, and right_a and
        right_b, whether the prediction is the class. Images that only one of them has are not in it.

    Raises:
        PipelineError: fewer than half of the images are in both, too few are, or the classes of an image differ.
    """
    pairs = a[SHARED_COLUMNS + OWN_COLUMNS].merge(
        b[SHARED_COLUMNS + OWN_COLUMNS], on="id", suffixes=("_a", "_b"), validate="one_to_one"
    )
    if len(pairs) < max(len(a), len(b)) / 2:
        raise PipelineError(
            f"only {len(pairs):,} images are in both, of {len(a):,} of A and {len(b):,} of B; evaluate both "
            "on the same images: the same data, data.split_seed and evaluate.split"
        )
    if len(pairs) < FEWEST_IMAGES:
        raise PipelineError(f"{len(pairs)} images show no difference at all; allowed are {FEWEST_IMAGES} or more")
    differing = pairs[pairs["class_a"] != pairs["class_b"]]
    if len(differing):
        rows = differing.itertuples()
        examples = listed((f"{row.id} is {row.class_a} for A and {row.class_b} for B" for row in rows), 2)
        raise PipelineError(f"the labels differ: {examples}; compare networks that were judged by the same labels")
    pairs = pairs.rename(columns={"class_a": "class"}).drop(columns="class_b")
    right = {f"right_{name}": pairs[f"predicted_class_{name}"] == pairs["class"] for name in ("a", "b")}
    return pairs.assign(**right)


def compare(pairs: pd.DataFrame, left_out: int = 0) -> Comparison:
    """Compute every figure of a comparison.

    Args:
        pairs: as :func:`pair` returns it.
        left_out: so many images are in one of the two tables alone.
    """
    images = len(pairs)
    only_a, only_b = (int((pairs[f"right_{x}"] & ~pairs[f"right_{y}"]).sum()) for x, y in ("ab", "ba"))
    right = [pairs[f"right_{name}"].to_numpy(float) for name in "ab"]
    accuracy = _difference(*right)
    if only_a + only_b == 0:
        # No resample differs from the images: what could have changed is an exact binomial interval's to say.
        most = binomtest(0, images).proportion_ci(LEVEL, "exact").high
        accuracy = Difference(accuracy.a, accuracy.b, 0.0, -most, most)
    return Comparison(
        images=images,
        left_out=left_out,
        accuracy=accuracy,
        log_loss=_difference(*(pairs[f"loss_{name}"].to_numpy(float) for name in "ab")),
        only_a_right=only_a,
        only_b_right=only_b,
        p_value=mcnemar(only_a, only_b),
        least_significant=least_significant(images, only_a + only_b),
        detectable=detectable(images, (only_a + only_b) / images),
    )


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    """The means of ``(images,)`` and the paired bootstrap percentile interval of their difference (Efron &
    Tibshirani 1993): the images are drawn, and with an image both its values; always the same ones."""
    changes = b - a
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
    """The exact p-value, two-sided, of McNemar's test (McNemar 1947) that two networks are equally often right.

    Args:
        only_a, only_b: how many images A alone and B alone has right. Images that both have right, or both wrong,
            say nothing about which of them is better.
    """
    changed = only_a + only_b
    return float(binomtest(only_b, changed).pvalue) if changed else 1.0


def _critical(changed: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """How many of the changed images one network must have right for McNemar's test to come below 0.05."""
    needed: NDArray[np.float64] = binom.isf((1 - LEVEL) / 2, changed, 0.5) + 1
    return needed


def least_significant(images: int, changed: int) -> float:
    """The least difference of accuracy, 0 to 1, that McNemar's exact test does not put down to chance.

    Args:
        images: so many were compared.
        changed: so many of them only one of the two networks has right.
    """
    changed = max(changed, FEWEST_IMAGES)
    return float((2 * _critical(changed) - changed) / images)


def detectable(images: int, changed: float, power: float = POWER) -> float:
    """The difference of the true accuracies, 0 to 1, that McNemar's exact test finds with the probability ``power``.

    The sum of the binomial probabilities of all outcomes, no approximation (its subject is Connor 1987, "Sample size
    for testing differences in proportions for the paired-sample design").

    Args:
        images: so many are compared, 6 at least.
        changed: the share of images, 0 to 1, that only one of the two networks has right.
    """
    counts = np.arange(images + 1)
    needed = _critical(counts)

    def found(difference: float) -> float:
        share = max(changed, difference)
        of_the_better = binom.sf(needed - 1, counts, (share + difference) / (2 * share))
        return float(of_the_better @ binom.pmf(counts, images, share))

    return float(brentq(lambda difference: found(difference) - power, 1e-9, 1.0))


def class_changes(pairs: pd.DataFrame) -> pd.DataFrame:
    """The columns class, images, recall_a, recall_b and change, a row a class, the class that won most first."""
    names = np.unique(pairs["class"].to_numpy(object))
    recall_a, recall_b = (
        recall_score(
            pairs["class"].to_numpy(object),
            pairs[f"predicted_class_{name}"].to_numpy(object),
            labels=names,
            average=None,
        )
        for name in "ab"
    )
    table = pd.DataFrame({"class": names, "recall_a": recall_a, "recall_b": recall_b, "change": recall_b - recall_a})
    table.insert(1, "images", table["class"].map(pairs["class"].value_counts()).astype(int))
    return table.sort_values(["change", "images"], ascending=False, kind="stable", ignore_index=True)


def changed_images(pairs: pd.DataFrame) -> pd.DataFrame:
    """The images for which the networks say different classes, with a column ``change``; in the order of CHANGES."""
    changed = pairs[pairs["predicted_class_a"] != pairs["predicted_class_b"]]
    kind = np.select([changed["right_a"], changed["right_b"]], [0, 1], 2)
    order = np.argsort(kind, kind="stable")
    return changed.assign(change=np.array(CHANGES, dtype=object)[kind]).iloc[order].reset_index(drop=True)


def seed_statistics(results: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation (n − 1), least and greatest of each column, a row a seed; NaN of one seed."""
    return results.agg(["mean", "std", "min", "max"])


def least_between_means(deviation: float, seeds: int) -> float:
    """The least difference of two means over ``seeds`` seeds each that a t test (5 %, two-sided) calls one.

    Args:
        deviation: the standard deviation over the seeds, taken for that of both.
    """
    return float(t.isf((1 - LEVEL) / 2, 2 * seeds - 2) * deviation * np.sqrt(2 / seeds))
