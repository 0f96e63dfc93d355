"""The model card."""

import ast
import re
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.export.model_card import Run, model_card, read_metrics
from pipeline.params.schema import AugmentParams, ModelParams, TrainParams
from tests.support.models import SPEC
from tests.support.sections import AUGMENT, MODEL, TRAIN

AUDIT = {
    "images": {"train": 2400, "valid": 12, "test": 7},
    "bad_images": 0,
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
EVALUATION = {"split": "test", "images": 7, "accuracy": 0.857143, "top_2_accuracy": 1.0, "macro_f1": 0.8}


@pytest.fixture
def run(data_params):
    """Build what a card is written from, with changes."""

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


def head(text: str):
    return YAML(typ="safe").load(text.split("---\n")[1])


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_head_is_yaml_with_the_keys_of_the_hub(run):
    content = head(card(run()))
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


def test_the_card_states_the_figures_of_the_run(run):
    text = card(run())
    assert "12,345 parameters" in text
    assert "2,400 train, 12 valid, 7 test images" in text
    assert "| 2 | red | 200 | 4 | 3 |" in section(text, "Classes")
    assert "epoch 3, the best on the valid split (accuracy 0.7500)" in section(text, "Training")
    assert "On the 7 images of the test split" in section(text, "Evaluation")
    assert "| accuracy | 0.8571 |\n| top 2 accuracy | 1.0000 |\n| macro f1 | 0.8000 |" in section(text, "Evaluation")
    assert "200 images of red, the rarest class, and 1,200 of blue" in section(text, "Limitations")


def test_markdown_has_no_gaps_in_its_tables_and_no_runs_of_blank_lines(run):
    text = card(run())
    assert "\n\n\n" not in text
    rows = [len(table.splitlines()) for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)]
    assert rows == [5, 5]
    assert text.endswith("\n")


def test_the_settings_are_those_of_params_yaml(run):
    given = run()
    [settings] = re.findall(r"```yaml\n(.*?)```", card(given), re.DOTALL)
    content = YAML(typ="safe").load(settings)
    assert content["seed"] == 1
    assert AugmentParams(**content["augment"]) == given.augment
    assert ModelParams(**content["model"]) == given.model
    assert TrainParams(**content["train"]) == given.train


def test_intervals_and_other_readings_get_columns(run):
    evaluation = EVALUATION | {
        "log_loss": 0.5,
        "ece": 0.123,
        "interval": {"accuracy": {"low": 0.5, "high": 1.0}},
        "temperature": 1.5,
        "calibrated": {"log_loss": 0.4, "ece": 0.05},
        "tta": {"views": 4, "accuracy": 0.9, "interval": {"accuracy": {"low": 0.5, "high": 1.0}}},
    }
    text = card(run(evaluation=evaluation))
    table = section(text, "Evaluation")
    assert "| metric | value | 95 % interval | at temperature 1.500 | mean with 4 views |" in table
    assert "| accuracy | 0.8571 | 0.5000 to 1.0000 |  | 0.9000 |" in table
    assert "| log loss | 0.5000 |  | 0.4000 |  |" in table
    assert "Its confidence is 12.3% away from its accuracy" in section(text, "Limitations")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"evaluation": EVALUATION | {"split": "valid"}}, "also chose the epoch, so the figures flatter"),
        ({"evaluation": EVALUATION | {"split": "train"}}, "judged by the images that it learned from"),
        ({"audit": AUDIT | {"leaks": 3}}, "3 pictures lie in more than one split, so the figures flatter"),
        ({"audit": AUDIT | {"contradictory_labels": 2}}, "2 pictures have more than one label"),
        ({"audit": AUDIT | {"bad_images": 1}}, "1 files of the data could not be decoded"),
        ({"spec": replace(SPEC, resize="crop")}, "what lies outside the central square is not seen"),
    ],
    ids=["valid", "train", "leaks", "labels", "bad images", "crop"],
)
def test_limitations_follow_from_the_facts(run, changes, line):
    assert line in section(card(run(**changes)), "Limitations")
    if "spec" not in changes:
        assert line not in section(card(run()), "Limitations")


def test_dropped_leaks_do_not_flatter(run):
    assert "flatter" not in card(run(audit=AUDIT | {"leaks": 3, "dropped": 5}))


def test_a_class_name_is_no_markup(run):
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
            "The archive `https://example.org/a/photos.zip`, SHA-256 `aaa",
        ),
        ("modelscope", "someone/food-11", "food-11", "The ModelScope dataset `someone/food-11`, revision `v1`"),
    ],
)
def test_the_card_names_the_source_but_no_folder_password_or_token(run, source, location, name, said):
    data = {}
    if source == "modelscope":
        data["revision"] = "v1"
    if location and location.startswith("https"):
        data["sha256"] = "a" * 64
    text = card(run(source, location, data=data))
    assert head(text)["model-index"][0]["name"] == f"classifier-{name}"
    assert said in section(text, "Training data")
    assert not any(secret in text for secret in ("jane", "secret", "pass@", "token", "123#"))


@pytest.mark.parametrize(("resize", "call"), [("stretch", "photo.resize((32"), ("crop", "ImageOps.fit(photo, (32")])
def test_the_snippet_is_python_and_resizes_as_the_network_needs_it(run, resize, call):
    [code] = re.findall(r"```python\n(.*?)```", card(run(spec=replace(SPEC, resize=resize))), re.DOTALL)
    ast.parse(code)
    assert call in code


def test_an_unlabelled_test_split_is_counted(run):
    audit = AUDIT | {"images": {"train": 2400, "valid": 12, "test": 99}}
    assert "99 test images" in card(run(audit=audit))


def test_without_a_test_split_there_is_no_column_for_it(run):
    classes = [{name: value for name, value in row.items() if name != "test"} for row in AUDIT["classes"]]
    audit = AUDIT | {"images": {"train": 2400, "valid": 12}, "classes": classes}
    text = card(run(audit=audit, evaluation=EVALUATION | {"split": "valid"}))
    assert "| index | class | train | valid |\n" in text


@pytest.mark.parametrize(("name", "stage"), [("audit", "augment"), ("train", "train"), ("evaluate", "evaluate")])
def test_a_missing_metrics_file_is_one_line_that_names_its_stage(workspace, name, stage):
    with pytest.raises(PipelineError, match=rf"{name}\.json: no such file; run dvc repro {stage}$"):
        read_metrics(workspace / f"{name}.json")
