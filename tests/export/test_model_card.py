"""The model card."""

import re
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from pipeline.export.model_card import Run, model_card
from pipeline.network.calibration import Calibration
from pipeline.params.schema import AugmentParams, ModelParams, TrainParams
from tests.support.models import SPEC
from tests.support.sections import AUGMENT, MODEL, TRAIN

AUDIT = {
    "images": 2419,
    "splits": {"train": 2400, "valid": 12, "test": 7},
    "bad_files": 0,
    "leaks": 0,
    "contradictory_labels": 0,
    "dropped": 0,
    "classes": [
        {"class": "blue", "train": 1200, "valid": 4, "test": 2},
        {"class": "green", "train": 1000, "valid": 4, "test": 2},
        {"class": "red", "train": 200, "valid": 4, "test": 3},
    ],
}
TRAINING = {"epochs": 5, "steps": 1200, "best_epoch": 3, "parameters": 12345, "valid_accuracy": 0.75}
EVALUATION = {
    **{"split": "test", "images": 7, "accuracy": 0.857143, "top_2_accuracy": 1.0, "macro_f1": 0.8},
    **{"log_loss": 0.5, "ece": 0.123, "temperature": 1.5, "calibrated": {"log_loss": 0.4, "ece": 0.05}},
    "interval": {"accuracy": {"low": 0.5, "high": 1.0}},
}


@pytest.fixture
def run(data_params):
    """Build the contents of a card, with changes."""

    def build(source="digits", location=None, **changes) -> Run:
        usual = {
            "spec": SPEC,
            "data": data_params(source, location=location, **changes.pop("data", {})),
            "augment": AugmentParams(**AUGMENT),
            "model": ModelParams(**MODEL),
            "train": TrainParams(**TRAIN),
            "seed": 1,
            "audit": AUDIT,
            "training": TRAINING,
            "evaluation": EVALUATION,
        }
        return Run(**usual | changes)

    return build


def card(run: Run) -> str:
    return model_card(run, opset=18, tolerance=1e-4, checked=7)


def header(text: str):
    return YAML(typ="safe").load(text.split("---\n")[1])


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_header_is_yaml_with_the_keys_of_the_hub(run):
    content = header(card(run()))
    assert content["library_name"] == "pytorch"
    assert content["pipeline_tag"] == "image-classification"
    assert content["metrics"] == ["accuracy", "f1"]
    assert "license" not in content
    [model] = content["model-index"]
    [result] = model["results"]
    assert model["name"] == "classifier-digits"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "digits", "name": "digits", "split": "test"}
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [("accuracy", 0.857143), ("f1", 0.8)]


def test_the_card_contains_the_numbers_of_the_run(run):
    text = card(run())
    assert "12,345 parameters" in text
    assert "2,400 train, 12 valid, 7 test images" in text
    assert "| 2 | red | 200 | 4 | 3 |" in section(text, "Classes")
    assert "epoch 3, the best on the valid split (accuracy 0.7500)" in section(text, "Training")
    assert "On the 7 images of the test split" in section(text, "Evaluation")
    rows = [
        "| accuracy | 0.8571 | 0.5000 to 1.0000 |  |",
        "| top 2 accuracy | 1.0000 |  |  |",
        "| macro f1 | 0.8000 |  |  |",
    ]
    assert "\n".join(rows) in section(text, "Evaluation")
    assert "200 images of red, the rarest class, and 1,200 of blue" in section(text, "Limitations")


def test_the_markdown_tables_have_no_gaps_and_no_blank_lines_are_repeated(run):
    text = card(run())
    assert "\n\n\n" not in text
    rows = [len(table.splitlines()) for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)]
    assert rows == [5, 7]
    assert text.endswith("\n")


def test_the_parameters_are_those_of_params_yaml(run):
    given = run()
    [settings] = re.findall(r"```yaml\n(.*?)```", card(given), re.DOTALL)
    content = YAML(typ="safe").load(settings)
    assert content["seed"] == 1
    assert AugmentParams(**content["augment"]) == given.augment
    assert ModelParams(**content["model"]) == given.model
    assert TrainParams(**content["train"]) == given.train


def test_the_card_says_how_probabilities_and_energy_follow_from_the_logits(run):
    text = section(card(run(spec=replace(SPEC, calibration=Calibration(0.5826, 3.25)))), "How to use it")
    assert "the softmax of the logits divided by the temperature 0.5826, which was fitted on the valid split" in text
    assert "less their mean, have a logsumexp below 3.2500, which 1 % of the valid images have" in text
    without = section(card(run()), "How to use it")
    assert "logsumexp" not in without
    assert "answers had a precision of 0.8, 0.9, 0.95, 0.98, 0.99 on the valid split, null where" in without


def test_intervals_calibrated_metrics_and_test_time_augmentation_have_columns(run):
    evaluation = EVALUATION | {
        "tta": {"method": "hflip", "accuracy": 0.9, "interval": {"accuracy": {"low": 0.5, "high": 1.0}}},
    }
    text = card(run(evaluation=evaluation))
    table = section(text, "Evaluation")
    assert "| metric | value | 95 % interval | at temperature 1.500 | with test-time augmentation (hflip) |" in table
    assert "| accuracy | 0.8571 | 0.5000 to 1.0000 |  | 0.9000 |" in table
    assert "| log loss | 0.5000 |  | 0.4000 |  |" in table
    assert "Its calibrated confidence differs from its accuracy by 5.0%" in section(text, "Limitations")
    left_off = card(run(evaluation=EVALUATION | {"tta": {"method": "none", "valid": {}}}))
    assert left_off == card(run())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"evaluation": EVALUATION | {"split": "valid"}},
            "also selected the best epoch, so the metrics are",
        ),
        ({"evaluation": EVALUATION | {"split": "train"}}, "evaluated on its training images"),
        ({"audit": AUDIT | {"leaks": 3}}, "3 images of valid and test are in an earlier split, too"),
        ({"audit": AUDIT | {"contradictory_labels": 2}}, "2 pictures have more than one label"),
        ({"audit": AUDIT | {"bad_files": 1}}, "1 files of the data could not be decoded"),
        ({"spec": replace(SPEC, resize="crop")}, "parts outside the central square are lost"),
        ({"spec": replace(SPEC, resize="pad")}, "images that are not square have fewer pixels than the input"),
    ],
    ids=["valid", "train", "leaks", "labels", "bad files", "crop", "pad"],
)
def test_limitations_follow_from_the_facts(run, changes, line):
    assert line in section(card(run(**changes)), "Limitations")
    if "spec" not in changes:
        assert line not in section(card(run()), "Limitations")


def test_dropped_leaks_are_no_limitation(run):
    assert "optimistic" not in card(run(audit=AUDIT | {"leaks": 0, "dropped": 5}))


def test_a_class_name_is_not_interpreted_as_markup(run):
    names = ("a|b", "<script>alert(1)</script>", "*bold* [link](x) `code`")
    classes = [{"class": name, "train": 1, "valid": 1, "test": 1} for name in names]
    text = card(run(spec=replace(SPEC, classes=names), audit=AUDIT | {"classes": classes}))
    table = section(text, "Classes")
    assert r"| 0 | a\|b | 1 | 1 | 1 |" in table
    assert "<script>" not in text
    assert r"\*bold\* \[link\](x) \`code\`" in table


@pytest.mark.parametrize(
    ("source", "location", "name", "said"),
    [
        ("digits", None, "digits", "`sklearn.datasets.load_digits`"),
        ("folder", "/home/jane/secret/photos", "photos", "The folder `photos`"),
        ("archive", "../x/my.photos.tar.gz", "my.photos", "The archive `my.photos.tar.gz`"),
        ("archive", "photos.zip", "photos", "The archive `photos.zip`"),
        (
            "archive",
            "https://jane:pass@example.org/a/photos.zip?token=123#x",
            "photos",
            "The archive `https://***@example.org/a/photos.zip?***`, SHA-256 `aaa",
        ),
        ("modelscope", "someone/food-11", "food-11", "The ModelScope dataset `someone/food-11`, revision `v1`"),
    ],
)
def test_the_card_names_the_source_without_folder_password_or_token(run, source, location, name, said):
    data = {}
    if source == "modelscope":
        data["revision"] = "v1"
    if location and location.startswith("https"):
        data["sha256"] = "a" * 64
    text = card(run(source, location, data=data))
    assert header(text)["model-index"][0]["name"] == f"classifier-{name}"
    assert said in section(text, "Training data")
    assert not any(secret in text for secret in ("jane", "secret", "pass@", "token", "123#"))


def test_an_unlabelled_test_split_is_counted(run):
    audit = AUDIT | {"splits": {"train": 2400, "valid": 12, "test": 99}}
    assert "99 test images" in card(run(audit=audit))


def test_without_a_test_split_its_column_is_missing(run):
    classes = [{name: value for name, value in row.items() if name != "test"} for row in AUDIT["classes"]]
    audit = AUDIT | {"splits": {"train": 2400, "valid": 12}, "classes": classes}
    text = card(run(audit=audit, evaluation=EVALUATION | {"split": "valid"}))
    assert "| index | class | train | valid |\n" in text
