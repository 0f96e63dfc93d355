"""Values that are allowed alone but not together are refused by name, before any command does anything."""

from copy import deepcopy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.network.models import Classifier
from pipeline.params.file import CLASSIFIER_LAYERS, check_params
from pipeline.preflight import check_ahead

CONTENT = YAML(typ="safe", pure=True).load(Path(__file__).parents[2] / "params.yaml")
ELEVEN = {"data.source": "folder", "data.location": "photos", "data.classes": [*"abcdefghijk"]}
RESNET = {"model.name": "resnet18", "model.dropout": 0.0, "tsne.layers": ["avgpool"]}

VIT = {"model.name": "vit_b_16", "model.stem": "small", "tsne.layers": "auto"}


def check(changes):
    """Check params.yaml with other values at dotted keys, and what it asks of libraries."""
    content = deepcopy(CONTENT)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        content[section][name] = value
    check_ahead(check_params(content, Path("params.yaml")))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train.loss": "bce", "train.label_smoothing": 0.0}, "train.loss: got bce, which needs 2 classes, not 10;"),
        (
            {"train.loss": "bce", "train.label_smoothing": 0.0} | ELEVEN,
            "train.loss: got bce, which needs 2 classes, not 11",
        ),
        ({"evaluate.tta": "views"}, "evaluate.tta: got views, but augment.test_views is 0; raise that,"),
        ({"predict.tta": "views"}, "predict.tta: got views, but augment.test_views is 0;"),
        (
            {"predict.tta": "views", "predict.split": "train", "augment.test_views": 1, "augment.views": 0},
            "predict.tta: got views, but augment.views is 0;",
        ),
        ({"predict.tta": True}, "predict.tta: got True, allowed is none, hflip, five_crop, ten_crop, views, auto"),
        ({"data.test_fraction": 0.0, "tsne.split": "test"}, "tsne.split: got test, but data.test_fraction is 0; raise"),
        (
            {"tsne.layers": ["hidden3"]},
            "tsne.layers: got 'hidden3', allowed with classifier are auto, blocks, blocks.0,",
        ),
        ({"model.pretrained": True}, "model.pretrained: got true, but classifier has no pretrained weights;"),
        (
            {"augment.image_size": 64, "augment.store_size": 32},
            "augment.store_size: got 32, allowed with augment.image_size 64 is that or more; raise it, or set it to",
        ),
        (
            RESNET | {"train.start_size": 32},
            "train.start_size: got 32, allowed is less than augment.image_size (32); lower it, or use null",
        ),
        (
            {"train.start_size": 32, "augment.image_size": 64},
            "train.start_size: got 32, allowed with classifier, which takes images of one size, is null",
        ),
        (
            VIT | {"model.stem": "default", "train.start_size": 160, "augment.image_size": 224},
            "train.start_size: vit_b_16 refuses 160 (Wrong image height",
        ),
        ({"augment.transforms": []}, "augment.views: got 8, which needs transforms; set augment.preset"),
        # What a library has to say.
        ({"augment.transforms": [{"name": "Afine"}]}, "augment.transforms.0: got 'Afine', allowed is the name of"),
        ({"model.name": "resnet19"}, "model.name: got 'resnet19', allowed are classifier and torchvision's"),
        (
            RESNET | {"tsne.layers": ["hidden2"]},
            "tsne.layers: got 'hidden2', allowed are auto and the layers of the network,",
        ),
        (RESNET | {"model.name": "inception_v3"}, "augment.image_size: inception_v3 refuses 32 (Calculated padded"),
        (RESNET | {"model.name": "alexnet", "tsne.layers": ["features"]}, "augment.image_size: alexnet refuses 32 ("),
        (
            RESNET | {"model.name": "vit_h_14", "tsne.layers": "auto"},
            "augment.image_size: vit_h_14 refuses 32 (Input shape indivisible",
        ),
        (
            RESNET | {"model.name": "maxvit_t", "tsne.layers": "auto"},
            "augment.image_size: maxvit_t refuses 32 (Input size ",
        ),
        (VIT, "model.stem: got small, which does not fit vit_b_16; set it to default"),
        (
            VIT | {"model.name": "maxvit_t", "augment.image_size": 224},
            "model.stem: got small, which does not fit maxvit_t; set it to default",
        ),
        ({"model.activation": "mish"}, "model.activation: got mish, allowed is default, except for networks of timm;"),
        (
            {"model.kwargs": {"depth": 3}},
            "model.kwargs: got depth, but classifier has no more arguments; set it to null",
        ),
        (
            {"model.name": "resnet18", "model.kwargs": {"depth": 3}},
            "model.kwargs: got 'depth'; allowed for resnet18 are ",
        ),
        (
            {"model.name": "resnet18", "model.kwargs": {"layers": [9999, 2]}},
            "model.kwargs: got layers: [9999, 2], allowed are num",
        ),
        ({"model.pretrained": "resnet18"}, "model.pretrained: got 'resnet18', allowed are true, false, the path of a "),
        ({"model.pretrained": "run:"}, "model.pretrained: got 'run:', allowed are true, false, the path of a "),
    ],
)
def test_a_contradiction_is_refused_in_one_line_that_names_the_key(changes, complaint):
    with pytest.raises(PipelineError) as error:
        check(changes)
    assert str(error.value).removeprefix("params.yaml: ").startswith(complaint)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.loss": "bce", "train.label_smoothing": 0.0, "evaluate.top_k": 2}
        | ELEVEN
        | {"data.classes": ["cat", "dog"]},
        {"train.loss": "bce", "train.label_smoothing": 0.0} | ELEVEN | {"data.classes": None},
        {"evaluate.tta": "views", "predict.tta": "views", "augment.test_views": 1},
        {"evaluate.tta": "auto", "predict.tta": "ten_crop", "predict.split": "train"},
        {"train.lr_min": 0.1},
        {"train.epochs": 1},
        {"train.optimizer": "sgd", "train.momentum": 0.0},
        {"train.schedule": "onecycle", "train.warmup_method": "constant"},
        {"evaluate.top_k": 10},
        {"model.stem": "small"},
        {"model.name": "resnet18"},
        {"model.name": "vgg11", "model.stem": "small"},
        {"tsne.layers": list(CLASSIFIER_LAYERS)},
        RESNET | {"model.stem": "small"},
        RESNET | {"model.name": "regnet_y_400mf"},
        RESNET | {"model.name": "mobilenet_v3_small", "train.optimizer": "muon", "model.dropout": 0.2},
        RESNET | {"model.name": "maxvit_t", "augment.image_size": 224, "tsne.layers": ["blocks.0"]},
    ],
)
def test_what_goes_together_is_accepted(changes):
    check(changes)


def test_several_contradictions_have_a_line_each():
    with pytest.raises(PipelineError) as error:
        check({"evaluate.tta": "views", "predict.tta": "views", "tsne.layers": ["x"]})
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == [
        "evaluate.tta",
        "predict.tta",
        "tsne.layers",
    ]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        (
            {"model.name": "maxvit_t", "model.stem": "small", "tsne.layers": ["hidden2", "blocks.0", "fc"]},
            ["augment.image_size", "model.stem", "tsne.layers", "tsne.layers"],
        ),
        (
            {"model.name": "vit_h_14", "model.pretrained": True, "tsne.layers": ["hidden2"]},
            ["augment.image_size", "tsne.layers"],
        ),
        ({"model.name": "alexnet", "tsne.layers": ["hidden2"]}, ["augment.image_size", "tsne.layers"]),
        ({"model.name": "vit_b_17", "model.pretrained": True, "model.stem": "small"}, ["model.name"]),
        (
            {"augment.transforms": [{"name": "Affin"}], "model.name": "vgg12"},
            ["augment.transforms.0", "model.name"],
        ),
    ],
)
def test_all_that_libraries_refuse_is_said_at_once(changes, keys):
    with pytest.raises(PipelineError) as error:
        check(changes)
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == keys


def test_the_layers_of_classifier_are_those_that_the_schema_knows():
    model = Classifier(width=2, dropout=0.1, image_size=32, outputs=2)
    assert tuple(name for name, _ in model.named_modules() if name) == CLASSIFIER_LAYERS


def test_a_huge_value_makes_no_huge_line():
    nested = ["x"]
    for _ in range(40):
        nested = [nested, nested, nested]
    for value in ("x" * 100_000, [*range(100_000)], nested, 10**4000):
        with pytest.raises(PipelineError) as error:
            check({"train.lr": value})
        assert len(str(error.value)) < 300
