"""Recipes."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.params.file import load_params
from pipeline.params.recipes import apply_recipe, list_recipes, recipe_path

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in (ROOT / "recipes").glob("*.yaml")]


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A copy of the repository's parameters."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_can_be_applied_and_keeps_every_comment(params, name):
    comments = [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line]
    apply_recipe(name, params)
    load_params(params)
    assert [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line] == comments


@pytest.mark.parametrize("name", NAMES)
def test_digits_after_any_recipe_restores_the_committed_parameters(params, name):
    apply_recipe(name, params)
    apply_recipe("digits", params)
    assert params.read_text() == (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("key", ["location: ../photos", "split_seed: 0"])
def test_a_recipe_for_any_folder_keeps_the_section_data_of_the_users_own_images(params, key):
    apply_recipe("finetune", params)
    text = params.read_text()
    assert key in text
    params.write_text(text.replace(key, f"{key}5"))
    own = load_params(params).data
    lines = apply_recipe("imagefolder", params)
    assert lines[0] == f"data: kept, as it has your own images (folder {own.location})"
    assert load_params(params).data == own
    assert load_params(params).train.optimizer == "muon"
    apply_recipe("digits", params)
    assert load_params(params).data.source == "digits"


def test_the_archive_of_a_recipe_is_not_the_users_own(params):
    apply_recipe("imagewoof", params)
    params.write_text(params.read_text().replace("split_seed: 0", "split_seed: 1"))
    apply_recipe("imagefolder", params)
    assert load_params(params).data.source == "folder"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_gives_the_same_whatever_was_applied_before(params, name):
    apply_recipe(name, params)
    direct = params.read_text()
    for before in NAMES:
        apply_recipe(before, params)
        apply_recipe(name, params)
        assert params.read_text() == direct, before


LAYOUTS = {
    "lists as DVC writes them": lambda text: text.replace("mirrors: []  # more", "mirrors:     # more").replace(
        "\n  revision: null", "\n  - https://a.org/x\n  - https://b.org/y\n  revision:     "
    ),
    "four spaces": lambda text: re.sub(r"^( +)", r"\1\1", text, flags=re.MULTILINE),
    "comments on lines of their own": lambda text: re.sub(
        r"^( *)(\S.*)  (# .*)$", r"\1\3\n\1\2", text, flags=re.MULTILINE
    ),
    "a comment before a list": lambda text: text.replace("in order, with their", "in order\n    # with their"),
    "Windows": lambda text: text.replace("\n", "\r\n"),
    "quoted keys": lambda text: re.sub(r"^( *)(\w+):", r'\1"\2" :', text, flags=re.MULTILINE),
    "a parameter is missing": lambda text: re.sub(r"\n  epochs: .*", "", text),
    "a section is missing": lambda text: re.sub(r"\nmodel:\n(  .*\n)+", "", text),
    "a section is empty": lambda text: re.sub(r"(\nmodel:)\n(  .*\n)+", r"\1\n", text),
    "no line break at the end": lambda text: text.rstrip("\n"),
    "a long list on several lines": lambda text: text.replace("rotate: [-12, 12]", "rotate: [\n      -12, 12]"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recipe_changes_values_and_nothing_else_whatever_the_layout(params, layout, name):
    text = LAYOUTS[layout](params.read_text())
    assert text != params.read_text()
    params.write_text(text, newline="")
    comments = re.findall("#.*", params.read_text())
    apply_recipe(name, params)
    assert re.findall("#.*", params.read_text()) == comments
    apply_recipe("digits", params)
    assert load_params(params) == load_params(ROOT / "params.yaml")


def test_a_layout_that_cannot_be_kept_leaves_the_parameters_as_they_were(params):
    text = params.read_text().replace("seed: 6666", "seed: &seed 6666").replace("split_seed: 0", "split_seed: *seed")
    params.write_text(text)
    with pytest.raises(PipelineError, match=r"its layout cannot be kept; write each parameter on a line of its own"):
        apply_recipe("digits", params)
    assert params.read_text() == text


def test_applying_says_what_changed(params):
    assert "model.width: 16 -> 64" in apply_recipe("food11", params)
    assert apply_recipe("food11", params) == [f"{params} already has these values"]


def test_food11_has_the_settings_of_the_homework(params):
    apply_recipe("food11", params)
    homework = load_params(params)
    assert (homework.augment.image_size, homework.model.width, len(homework.data.classes)) == (128, 64, 11)
    assert homework.seed == 6666
    train = homework.train
    assert (train.optimizer, train.lr, train.weight_decay, train.batch_size) == ("adam", 3e-4, 1e-5, 64)
    assert (train.clip_norm, train.patience, train.loss) == (10, 5, "cross_entropy")


def test_list_names_each_recipe_with_its_title(params):
    assert [recipe.name for recipe in list_recipes()] == sorted(NAMES)
    assert all(recipe.title and not recipe.title.startswith("#") for recipe in list_recipes())


def test_list_says_score_seeds_device_and_minutes_or_that_nothing_was_measured(params):
    for recipe in list_recipes():
        told = [word in recipe.measured for word in ("accuracy", "seed", "CPU", "minute")]
        assert all(told) or recipe.measured == "not measured", recipe


def test_a_recipe_of_the_users_without_such_a_line_is_not_measured(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text("# Mine\nseed: 3\n")
    monkeypatch.chdir(tmp_path)
    assert list_recipes() == [("mine", "Mine", "not measured")]


def test_an_unknown_recipe_is_refused_with_the_known_ones(params):
    known = "classifier-strong, digits, finetune, food11, food11-finetune, food11-strong, "
    with pytest.raises(PipelineError, match=f"got 'food', allowed are {known}"):
        recipe_path("food")


def test_a_recipe_with_a_wrong_value_leaves_the_parameters_as_they_were(params, tmp_path, monkeypatch):
    before = params.read_text()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/bad.yaml").write_text("# bad\ntrain:\n  epochs: abc\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"train.epochs: got 'abc'"):
        apply_recipe("bad", params)
    assert params.read_text() == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "recipes/bad.yaml: contains no keys"),
        ("[1, 2]", "recipes/bad.yaml: contains no keys"),
        ("data:\n", "params.yaml: data: got None"),
    ],
)
def test_a_recipe_without_values_is_one_line(params, tmp_path, monkeypatch, text, line):
    before = params.read_text()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/bad.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError) as error:
        apply_recipe("bad", params)
    assert line in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert params.read_text() == before


def test_parameters_without_keys_are_one_line_and_a_draft_of_another_recipe_does_no_harm(params, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "recipes/draft.yaml").write_text("# soon\n")
    monkeypatch.chdir(tmp_path)
    params.write_text(params.read_text().replace("  source: digits ", "  source: folder ").replace("null", "photos", 1))
    assert any(line.startswith("data: kept") for line in apply_recipe("finetune", params))
    params.write_text("# nothing\n")
    with pytest.raises(PipelineError, match=r"params.yaml: contains no keys; restore it"):
        apply_recipe("finetune", params)


def test_an_unknown_key_of_a_recipe_names_the_recipe(params, tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/bad.yaml").write_text("# bad\ntrain:\n  learning_rate: 1\nimgsz: 64\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError) as error:
        apply_recipe("bad", params)
    assert str(error.value).splitlines() == [
        "recipes/bad.yaml: imgsz: unknown key; did you mean augment.image_size?",
        "recipes/bad.yaml: train.learning_rate: unknown key; did you mean train.lr?",
    ]
