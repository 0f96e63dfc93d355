"""A sweep's file is checked whole, with both ends of each range, before any work."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.experiments.dvc_command import overridden_params
from pipeline.experiments.sweep_file import Range, read_sweep, with_parameters

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
    ranges = "train.start_size: {low: 32, high: 96, step: 32}\n  augment.store_size: {low: 128, high: 160, step: 32}"
    optional = read(f"space:\n  {ranges}\n", "augment.image_size=128").space.values()
    assert {type(value) for dimension in optional for value in dimension.values} == {int}


def test_arguments_of_the_network_can_be_searched_also_those_in_others(read):
    base = ("model.name=timm/resnet18d",)
    names = ("model.kwargs.output_stride", "model.kwargs.stem_width", "model.kwargs.block_args.attn_layer")
    text = f"space:\n  {names[0]}: [16, 32]\n  {names[1]}: {{low: 16, high: 64, step: 16}}\n  {names[2]}: [null, se]\n"
    sweep = read(text, *base)
    assert sweep.space[names[0]] == (16, 32)
    assert sweep.space[names[1]].values == [16, 32, 48, 64]
    assert {type(value) for value in sweep.space[names[1]].values} == {int}
    halves = read("space:\n  model.kwargs.drop_block_rate: {low: 0, high: 1.5, step: 0.5}\n", *base)
    assert halves.space["model.kwargs.drop_block_rate"].values == [0, 0.5, 1, 1.5]
    trial = dict(zip(names, (16, 48, "se"), strict=True))
    expected = with_parameters(overridden_params(base), trial)
    assert expected["model"]["kwargs"] == {"output_stride": 16, "stem_width": 48, "block_args": {"attn_layer": "se"}}
    assert overridden_params([*base, *(f"++{name}={value}" for name, value in trial.items())]) == expected
    with pytest.raises(PipelineError, match=r"space.model.kwargs.stem_width.1: .*10,000"):
        read("space:\n  model.kwargs.stem_width: [64, 100000]\n", *base)
    with pytest.raises(PipelineError, match=r"space.train.lr.low: no parameter of params.yaml"):
        read("space:\n  train.lr.low: [0.1, 0.2]\n")


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
            "pruner: {name: hyperband, min_epochs: 5}\nspace:\n  train.epochs: [2, 5]",
            "pruner.min_epochs: got 5, with which no trial of 5 epochs is pruned; allowed is less than that",
        ),
        (
            "pruner: {name: median, warmup_epochs: 9}\nspace:\n  train.epochs: {low: 2, high: 5}",
            "pruner.warmup_epochs: got 9, with which no trial of 5 epochs is pruned; allowed is less than that",
        ),
        (
            "sampler: grid\nspace:\n" + LR,
            "space.train.lr: the sampler grid needs a list of values, or a range with step",
        ),
        ("space: {train.lrr: [1, 2]}", "space.train.lrr: no parameter of params.yaml; did you mean train.lr?"),
        ("space: {train: [1, 2]}", "space.train: train is a section; name one of its parameters"),
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


NINES = "9" * 90
NUMBERS = ", ".join(map(str, range(2, 1002, 2)))
NAMES = ("train.batch_size", "train.patience", "train.lr_step_size", "seed")
HOSTILE = {
    "grid": (
        "sampler: grid\nspace:\n" + "".join(f"  {name}: [{NUMBERS}]\n" for name in NAMES),
        "has 62,500,000,000 points",
    ),
    "list": (
        f"space:\n  seed: [{', '.join(map(str, range(2000)))}]\n",
        "space.seed: got 2,000 values, allowed are 1,000",
    ),
    "tiny step": (
        "space:\n  train.lr: {low: 0.001, high: 1, step: 1e-300}\n",
        "space.train.lr.step: got 1e-300, which",
    ),
    "subnormal step": (
        "space:\n  train.lr: {low: 0.001, high: 1, step: 1e-320}\n",
        "which makes inf steps, allowed are 1",
    ),
    "large step": ("space:\n  train.clip_norm: {low: 0, high: 1, step: 1e300}\n", "which makes 0 steps, allowed are 1"),
    "many steps": ("space:\n  seed: {low: 0, high: 1000000, step: 1}\n", "which makes 1,000,000 steps, allowed are 1"),
    "low": ("space:\n  train.lr: {low: .nan, high: 1}\n", "space.train.lr.low: got nan"),
    "high": ("space:\n  train.clip_norm: {low: 0, high: .inf}\n", "space.train.clip_norm.high: got inf"),
    "sampler": ("space: &s\n" + LR + "sampler: *s\n", "sampler: got {'train.lr'"),
    "long sampler": (f"sampler: [{'tpe, ' * 5000}]\nspace:\n" + LR, "sampler: got ['tpe'"),
    "key of a sampler": ("sampler: {name: tpe, null: 1}\nspace:\n" + LR, "line 1, column 22: a key 'null', allowed"),
    "key of the file": ("2001-01-01: 1\nspace:\n" + LR, "line 1, column 1: a key '2001-01-01', allowed"),
    "key of the space": ("space:\n  5: [1, 2]\n", "line 2, column 3: a key '5', allowed"),
    "start": (f"sampler: {{name: tpe, startup_trials: {NINES}}}\nspace:\n" + LR, "sampler.startup_trials: got 999"),
    "factor": (
        f"pruner: {{name: hyperband, reduction_factor: {NINES}}}\nspace:\n" + LR,
        "pruner.reduction_factor: got 9",
    ),
    "metric": (f"metric: {'m' * 10_000}\nspace:\n" + LR, "metric: got 'mmm"),
}


@pytest.mark.parametrize(("text", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_what_no_search_can_use_is_refused_in_one_line_before_it_is_expanded(read, text, problem):
    with pytest.raises(PipelineError) as error:
        read(text)
    assert str(error.value).startswith("sweep.yaml: ")
    assert problem in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_a_grid_of_as_many_points_as_a_sweep_can_have_trials_is_allowed(read):
    patience = "  train.patience: {low: 1, high: 100, step: 1}\n"
    sweep = read("sampler: grid\nspace:\n  seed: {low: 1, high: 1000, step: 1}\n" + patience)
    assert [dimension.count for dimension in sweep.space.values()] == [1000, 100]
