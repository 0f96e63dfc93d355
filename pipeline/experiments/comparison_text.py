"""A comparison of two networks, or the results of several seeds, as lines for a terminal of 80 columns."""

import json
import textwrap
from dataclasses import asdict

import pandas as pd

from pipeline.experiments.comparison import (
    CHANGES,
    LEVEL,
    Comparison,
    Difference,
    changed_images,
    class_changes,
    least_between_means,
    seed_statistics,
)

WIDTH = 80


def comparison_lines(
    names: tuple[str, str], split: str, comparison: Comparison, pairs: pd.DataFrame, most: int
) -> list[str]:
    """The whole report on two revisions; at most so many classes and images of each kind."""
    left_out = f"; {comparison.left_out:,} that only one of them has are left out" if comparison.left_out else ""
    return [
        *textwrap.wrap(
            f"A is {names[0]}, B is {names[1]}: {comparison.images:,} images of the {split} split{left_out}", WIDTH
        ),
        "",
        *summary_lines(comparison),
        "",
        *verdict_lines(comparison),
        "",
        *class_lines(class_changes(pairs), most),
        "",
        *image_lines(changed_images(pairs), most),
        "",
        *textwrap.wrap(
            "Each is one training run: whether their settings differ, several seeds of each tell "
            "(python -m pipeline seeds).",
            WIDTH,
        ),
    ]


def comparison_json(names: tuple[str, str], split: str, comparison: Comparison) -> str:
    """The figures with the names of what was compared, as JSON."""
    return json.dumps({"a": names[0], "b": names[1], "split": split, **asdict(comparison)}, indent=2)


def summary_lines(comparison: Comparison) -> list[str]:
    """Accuracy, log loss and McNemar's test."""
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
    """What the comparison means, in two or three sentences."""
    sentences = [_about_accuracy(comparison), _about_power(comparison), _about_loss(comparison.log_loss)]
    return textwrap.wrap(" ".join(filter(None, sentences)), WIDTH)


def _about_accuracy(comparison: Comparison) -> str:
    right = {"A": comparison.only_a_right, "B": comparison.only_b_right}
    changed, better = sum(right.values()), max(right, key=lambda name: right[name])
    if not changed:
        return f"No difference: A and B are right on the same ones of {comparison.images:,} images."
    split = f"of the {changed:,} that only one of them has right, {better} has {right[better]:,}."
    if comparison.p_value >= 1 - LEVEL:
        return f"No difference that {comparison.images:,} images can show: {split}"
    chance = "less than 0.01" if comparison.p_value < 1e-4 else f"{100 * comparison.p_value:.2g}"
    return f"{better} is better: {split} Two equally good networks come to such a split in {chance} % of comparisons."


def _about_power(comparison: Comparison) -> str:
    if comparison.p_value < 1 - LEVEL:
        return ""
    return (
        f"A difference below {100 * comparison.least_significant:.1f} points is noise here; a true one of "
        f"{100 * comparison.detectable:.1f} points would be found four times in five."
    )


def _about_loss(loss: Difference) -> str:
    if loss.low <= 0 <= loss.high:
        return ""
    return f"{'A' if loss.difference > 0 else 'B'} has the better probabilities: its log loss is lower beyond chance."


def class_lines(table: pd.DataFrame, most: int) -> list[str]:
    """The rows of ``class_changes`` that changed, ``most`` that won and ``most`` that lost; how many are not shown."""
    changed = table[table["change"] != 0]
    if changed.empty:
        return ["The recall of every class is the same."]
    shown = changed if len(changed) <= 2 * most else pd.concat([changed.head(most), changed.tail(most)])
    names = {"recall_a": "recall A", "recall_b": "recall B", "change": "points"}
    formats = {"images": "{:,}", "recall A": "{:.1%}", "recall B": "{:.1%}", "points": "{:+.1f}"}
    hidden, same = len(changed) - len(shown), len(table) - len(changed)
    rest = [f"{hidden:,} more changed"] * (hidden > 0) + [f"{same:,} did not change"] * (same > 0)
    return [
        *_table(shown.assign(change=100 * shown["change"]).rename(columns=names), formats),
        *([", ".join(rest)] if rest else []),
    ]


def image_lines(table: pd.DataFrame, most: int) -> list[str]:
    """How many rows of ``changed_images`` there are of each kind, and the first ``most`` of each."""
    names = {"predicted_class_a": "A says", "predicted_class_b": "B says"}
    lines = []
    for kind in CHANGES:
        images = table[table["change"] == kind]
        first = f", the first {most:,}" if 0 < most < len(images) else ""
        lines.append(f"{kind}: {len(images):,}{first}")
        if len(images) and most:
            lines += _table(images.head(most)[["id", "class", *names]].rename(columns=names), {})
    return lines


def seed_lines(results: pd.DataFrame) -> list[str]:
    """A row a seed with its metrics, their statistics, and how large a difference means something.

    Args:
        results: indexed by the seed; the column experiment, and columns of metrics, ``accuracy`` the first.
    """
    metrics = results.drop(columns="experiment")
    statistics = seed_statistics(metrics)
    rows = pd.concat([results, statistics.assign(experiment="")]).rename_axis("seed").reset_index()
    lines = _table(rows, dict.fromkeys(metrics.columns, "{:.4f}"))
    if len(results) < 2:
        return lines
    mean, deviation, least, greatest = statistics["accuracy"]
    needed = 100 * least_between_means(deviation, len(results))
    sentences = (
        f"Accuracy {mean:.2%} ± {100 * deviation:.2f} points (mean and standard deviation of {len(results)} seeds), "
        f"{least:.2%} to {greatest:.2%}. Other settings differ from these when their mean of as many seeds is "
        f"{needed:.2f} points away or more (t test, 5 %)."
    )
    return [*lines, *textwrap.wrap(sentences, WIDTH)]


def _table(rows: pd.DataFrame, formats: dict[str, str]) -> list[str]:
    """Columns for a terminal: the first to the left, all others to the right; long text loses its middle."""
    first, *others = rows.columns
    formatters = {name: text.format for name, text in formats.items()}
    with pd.option_context("display.unicode.east_asian_width", True):
        table = rows.map(_shortened).set_index(first).rename_axis(index=None, columns=first)
        return table[others].to_string(formatters=formatters, na_rep="").splitlines()


def _shortened(value: object) -> object:
    return f"{value[:8]}…{value[-9:]}" if isinstance(value, str) and len(value) > 18 else value
