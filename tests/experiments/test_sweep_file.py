"""A sweep's file is checked whole, with both ends of each range, before any work."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import overridden_params
from pipeline.experiments.sweep_file import Range, read_sweep

ROOT = Path(__file__).parents[2]
LR = "  train.lr: {low: 1e-4, high: 1e-1, log: true}\n"


@pytest.fixture
def read(workspace):
    """Write the file of a sweep next to the repository's parameters and read it."""
    (workspace / "params.yaml").write_text((ROOT / "params.yaml").read_text("utf-8"), "utf-8")

    def read(text, *overrides):
        path = Path("sweep.yaml")
        path.write_text(text, "utf-8")
        return read_sweep(path, overridden_params(overrides), overrides)

    return read


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_of_the_repository_are_allowed(read, path):
    assert len(read(path.read_text("utf-8")).space) >= 3


def test_what_is_left_out_has_its_default_and_numbers_have_their_parameter_s_type(read):
    sweep = read(
        "space:\n" + LR + "  model.width: {low: 4, high: 64}\n  train.warmup_epochs: {low: 0, high: 3, step: 1}\n"
    )
    assert (sweep.metric, sweep.seed, sweep.sampler.name, sweep.pruner.name) == (
        "train.valid_accuracy",
        0,
        "tpe",
        "median",
    )
    assert sweep.space["train.lr"] == Range(low=1e-4, high=0.1, log=True)
    assert sweep.space["model.width"].values == list(range(4, 65))
    assert [type(value) for value in sweep.space["train.warmup_epochs"].values] == [float] * 4


def test_a_metric_of_the_evaluation_needs_the_valid_split_and_is_not_pruned(read):
    text = "metric: evaluate.macro_f1\nspace:\n" + LR
    with pytest.raises(
        PipelineError, match=r"is measured on the auto split, which must not choose .*-S evaluate.split=valid"
    ):
        read(text)
    assert read(text, "evaluate.split=valid").pruner.name == "none"
    with pytest.raises(PipelineError, match=r"pruner: evaluate.macro_f1 has no value at each epoch, allowed is none"):
        read("pruner: median\n" + text, "evaluate.split=valid")


def test_values_that_are_allowed_only_together_are_allowed(read):
    """bce and label smoothing exclude each other: each trial is checked by itself."""
    sweep = read("space:\n  train.loss: [cross_entropy, bce]\n  train.label_smoothing: [0.0, 0.1]\n")
    assert sweep.space["train.loss"] == ("cross_entropy", "bce")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "space: needs a mapping from parameters to ranges or lists, such as train.lr: {low: 1e-4"),
        ("space: [a]", "space: needs a mapping"),
        ("spaces: {}\nspace:\n" + LR, "spaces: unknown key; did you mean space?"),
        (
            "metric: accuracy\nspace:\n" + LR,
            "metric: got 'accuracy', allowed is train.valid_accuracy, train.valid_loss",
        ),
        ("seed: -1\nspace:\n" + LR, "seed: got -1, allowed is an integer (≥ 0 and < 4,294,967,296)"),
        ("sampler: gp\nspace:\n" + LR, "sampler: got 'gp', allowed is tpe, random, grid; with settings, a mapping"),
        ("sampler: {startup_trials: 1}\nspace:\n" + LR, "sampler: got {'startup_trials': 1}, allowed is tpe, random"),
        (
            "pruner: {name: median, warmup: 1}\nspace:\n" + LR,
            "pruner.warmup: unknown key, allowed are name, startup_tr",
        ),
        ("pruner: {name: hyperband, min_epochs: 0}\nspace:\n" + LR, "pruner.min_epochs: got 0, allowed is an integer"),
        (
            "sampler: grid\nspace:\n" + LR,
            "space.train.lr: the sampler grid needs a list of values, or a range with step",
        ),
        ("space: {train.lrr: [1, 2]}", "space.train.lrr: no parameter of params.yaml; did you mean train.lr?"),
        ("space: {train: [1, 2]}", "space.train: no parameter of params.yaml"),
        ("space: {tsne.perplexity: [1, 2]}", "space.tsne.perplexity: a sweep cannot search it: parameters of tsne"),
        ("space: {data.valid_fraction: [0.1, 0.2]}", "space.data.valid_fraction: a sweep cannot search it"),
        ("space: {train.lr: 0.1}", "space.train.lr: got 0.1, allowed is {low: ..., high: ...} or a list of values"),
        ("space: {train.lr: [0.1]}", "space.train.lr: got [0.1], allowed is {low: ..., high: ...} or a list of values"),
        ("space: {train.lr: [0.1, 0.1]}", "space.train.lr.1: got 0.1 twice; remove one"),
        ("space: {train.lr: [0.1, [0.2]]}", "space.train.lr.1: got [0.2], allowed is a number, a text"),
        ("space: {train.lr: [0.1, 0]}", "space.train.lr.1: got 0, allowed is a number (> 0 and ≤ 1,000,000)"),
        ("space: {train.lr: {low: 0.1}}", "space.train.lr.high: missing; add it, allowed is an integer or a number"),
        (
            "space: {train.lr: {low: 0, high: 1}}",
            "space.train.lr.low: got 0, allowed is a number (> 0 and ≤ 1,000,000)",
        ),
        ("space: {train.lr: {low: a, high: 1}}", "space.train.lr.low: got 'a', allowed is an integer or a number"),
        ("space: {train.lr: {low: 1, high: .inf}}", "space.train.lr.high: got inf, allowed is an integer or a number"),
        ("space: {train.lr: {low: 2, high: 1}}", "space.train.lr.low: got 2, allowed is less than high, 1"),
        (
            "space: {train.hflip: {low: 0, high: 1.5}}",
            "space.train.hflip.high: got 1.5, allowed is a number (≥ 0 and ≤ 1)",
        ),
        ("space: {train.hflip: {low: 0, high: 1, log: true}}", "space.train.hflip: log needs low above 0"),
        ("space: {train.lr: {low: 1, high: 2, log: true, step: 1}}", "space.train.lr: log and step exclude each other"),
        (
            "space: {train.hflip: {low: 0, high: 1, step: 0.3}}",
            "space.train.hflip.high: no step of 0.3 ends at 1;",
        ),
        ("space: {train.epochs: {low: 1.5, high: 3}}", "space.train.epochs.low: got 1.5, allowed is an integer (≥ 1"),
        (
            "space: {train.epochs: {low: 1, high: 3, step: 0.5}}",
            "space.train.epochs.step: got 0.5, allowed is an integer",
        ),
        (
            "space: {augment.image_size: {low: 32, high: 96}}",
            "space.augment.image_size.step: got 33, allowed ",
        ),
        ("space: {train.optimizer: {low: 1, high: 2}}", "space.train.optimizer.low: got 1, allowed is sgd, adagrad"),
        ("space: {train.optimizer: [sgd, adm]}", "space.train.optimizer.1: got 'adm', allowed is sgd, adagrad"),
        ("space: {train.lr: [1, 2]\n", "line 2, column 1: "),
    ],
)
def test_what_is_not_allowed_is_one_line_with_file_and_key(read, text, line):
    with pytest.raises(PipelineError) as error:
        read(text)
    assert str(error.value).startswith(f"sweep.yaml: {line}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["train.lr=0.1", "params.yaml:train.lr=0.1"])
def test_an_override_of_a_searched_parameter_is_one_line(read, override):
    with pytest.raises(PipelineError) as error:
        read("space:\n" + LR, override)
    assert str(error.value) == f"-S: got {override!r}, which sweep.yaml searches; remove one of them"
