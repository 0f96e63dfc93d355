"""Keys that do not exist: the message says which parameter was probably meant."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.machine import VARIABLES as ENVIRONMENT
from pipeline.params.names import SYNONYMS, VARIABLES, parameter_names, suggestion, unknown_keys
from pipeline.params.reference import print_parameters

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        # The same name in another section.
        ("train.image_size", "augment.image_size"),
        ("data.batch_size", "train.batch_size"),
        ("train.seed", "seed"),
        ("train.split", "evaluate.split or tsne.split or predict.split"),
        ("lr", "train.lr or learning_rates.lr"),
        # Other tools' names.
        ("train.learning_rate", "train.lr"),
        ("train.learningRate", "train.lr"),
        ("learning-rate", "train.lr"),
        ("train.max_lr", "train.lr"),
        ("train.bs", "train.batch_size"),
        ("train.num_epochs", "train.epochs"),
        ("train.n_epochs", "train.epochs"),
        ("train.wd", "train.weight_decay"),
        ("train.weight-decay", "train.weight_decay"),
        ("train.imgsz", "augment.image_size"),
        ("augment.input_size", "augment.image_size"),
        ("model.arch", "model.name"),
        ("model.backbone", "model.name"),
        ("train.label_smooth", "train.label_smoothing"),
        ("train.betas", "train.momentum"),
        ("train.warmup_steps", "train.warmup_epochs"),
        # Typing errors, also in other tools' names.
        ("train.lrr", "train.lr"),
        ("train.epoch", "train.epochs"),
        ("trian.lr", "train.lr"),
        ("train.leraning_rate", "train.lr"),
        ("train.dropuot", "model.dropout"),
        ("trian", "train"),
        ("sead", "seed"),
    ],
)
def test_an_unknown_key_names_the_parameter_that_was_meant(key, meant):
    assert suggestion(key) == f"did you mean {meant}?"


@pytest.mark.parametrize(
    ("key", "variable"), [("train.num_workers", "PIPELINE_WORKERS"), ("train.device", "PIPELINE_DEVICE")]
)
def test_what_depends_on_the_machine_is_an_environment_variable(key, variable):
    assert suggestion(key) == f"set the environment variable {variable} instead"


def test_a_key_like_no_parameter_has_no_suggestion():
    assert suggestion("train.zzz") is None


def test_every_synonym_belongs_to_a_parameter_or_variable_that_exists_and_to_one_only():
    assert set(SYNONYMS) <= set(parameter_names())
    assert set(VARIABLES) <= set(ENVIRONMENT)
    words = [word for table in (SYNONYMS, VARIABLES) for words in table.values() for word in words.split()]
    assert sorted(words) == sorted(set(words))
    # A parameter's own name would never be looked up; those of learning_rates are not suggested in other sections.
    sections = [name.rpartition(".") for name in parameter_names()]
    assert not set(words) & {name for section, _, name in sections if section != "learning_rates"}


def test_parameters_sections_and_parts_of_values_are_known():
    assert unknown_keys(["seed", "train", "train.lr", "augment.transforms.0.p", "augment.transforms[0]"]) == []
    assert unknown_keys(["train.x.y", "zzz"]) == [
        "train.x.y: unknown key; python -m pipeline params lists all",
        "zzz: unknown key; python -m pipeline params lists all",
    ]


@pytest.mark.parametrize("key", ["train.learning_rate", "learning_rate"])
def test_params_names_the_parameter_that_was_meant(key):
    with pytest.raises(PipelineError) as error:
        print_parameters(ROOT / "params.yaml", key)
    assert str(error.value) == f"params: got {key!r}, allowed is a parameter or a section; did you mean train.lr?"


def test_the_names_are_those_of_params_yaml():
    content = YAML(typ="safe").load(ROOT / "params.yaml")
    sections = {name: keys for name, keys in content.items() if isinstance(keys, dict)}
    keys = ["seed", *(f"{section}.{key}" for section, keys in sections.items() for key in keys)]
    assert list(parameter_names()) == keys
