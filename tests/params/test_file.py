"""params.yaml is read whole, and every complaint about it is one line with the key, what was found, what is allowed."""

import datetime
import re
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.common.yaml_file import parse_yaml
from pipeline.errors import PipelineError
from pipeline.params.file import allowed_values, check_params, load_params
from pipeline.params.schema import Params

TEXT = (Path(__file__).parents[2] / "params.yaml").read_text("utf-8")
CONTENT = YAML(typ="safe", pure=True).load(TEXT)
FIELDS = {
    **{name: field for name, field in Params.model_fields.items() if field.description},
    **{
        f"{section}.{name}": field
        for section, outer in Params.model_fields.items()
        if isinstance(outer.annotation, type) and issubclass(outer.annotation, BaseModel)
        for name, field in outer.annotation.model_fields.items()
    },
}
SECTIONS = [name for name in Params.model_fields if name not in FIELDS]


def changed(key, value):
    """What params.yaml holds, with another value at a dotted key."""
    content = deepcopy(CONTENT)
    *sections, last = key.split(".")
    place = content
    for section in sections:
        place = place[section]
    place[last] = value
    return content


def complaint(content):
    """The message with which the content is refused."""
    with pytest.raises(PipelineError) as error:
        check_params(content, Path("params.yaml"))
    return str(error.value)


def load(text):
    """Write params.yaml into the current folder and read it."""
    Path("params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_params(Path("params.yaml"))


def load_complaint(text):
    """The message with which a text is refused."""
    with pytest.raises(PipelineError) as error:
        load(text)
    return str(error.value)


def with_lr(value):
    """The text of params.yaml with another train.lr."""
    return re.sub(r"(?m)^(  lr:) [^#]*(?=  #)", lambda match: f"{match[1]} {value}", TEXT)


def test_params_yaml_of_the_repository_is_accepted(workspace):
    assert load(TEXT).model_dump(mode="json") == CONTENT


def test_params_yaml_has_exactly_the_keys_of_the_schema():
    keys = [name for name in CONTENT if name not in SECTIONS]
    assert {*keys, *(f"{section}.{key}" for section in SECTIONS for key in CONTENT[section])} == set(FIELDS)


@pytest.mark.parametrize("key", FIELDS)
def test_every_parameter_says_which_values_it_may_have(key):
    allowed = allowed_values(tuple(key.split(".")))
    assert allowed
    assert "section" not in allowed


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if get_origin(field.annotation) is Literal])
def test_every_choice_is_listed(key):
    assert allowed_values(tuple(key.split("."))) == ", ".join(map(str, get_args(FIELDS[key].annotation)))


@pytest.mark.parametrize("written", ["3e-05", "0.00003", "3.0E-5"])
def test_a_small_number_is_read_however_dvc_writes_it(workspace, written):
    assert load(with_lr(written)).train.lr == 0.00003


A_SEED = "an integer (≥ 0 and < 4,294,967,296)"
A_RATE = "a number (> 0 and ≤ 1,000,000)"
A_SECTION = "a section with its own keys"
MAPPINGS = "a list of at most 32 mappings, each with a name"
NAMES = "a list of at least 2 strings or null"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("seed", -1, A_SEED),
        ("seed", 2**32, A_SEED),
        ("seed", True, A_SEED),
        ("seed", "6666", A_SEED),
        ("seed", None, A_SEED),
        ("seed", datetime.date(2024, 1, 2), A_SEED),
        ("seed", {"value": 1}, A_SEED),
        ("data.sha256", "AB", "64 hexadecimal digits or null"),
        ("data.location", 5, "a string or null"),
        ("data.classes", "cat", NAMES),
        ("data.classes", ["cat"], NAMES),
        ("data.valid_fraction", 0, "a number (> 0 and < 0.9)"),
        ("augment.image_size", 33, "an integer (a multiple of 32, ≥ 32 and ≤ 1,024)"),
        ("augment.resize", "letterbox", "stretch, crop, pad"),
        ("augment.resize", ["crop"], "stretch, crop, pad"),
        ("augment.interpolation", "cubic", "area, bilinear, bicubic"),
        ("augment.transforms", None, MAPPINGS),
        ("augment.transforms", {"name": "Affine"}, MAPPINGS),
        ("train.epochs", 3.0, "an integer (≥ 1 and ≤ 100,000)"),
        ("train.epochs", 0, "an integer (≥ 1 and ≤ 100,000)"),
        ("train.lr", 0, A_RATE),
        ("train.lr", "fast", A_RATE),
        ("train.lr", True, A_RATE),
        ("train.lr", float("nan"), A_RATE),
        ("train.lr", float("inf"), A_RATE),
        ("train.clip_norm", -0.5, "a number (≥ 0)"),
        ("evaluate.split", "dev", "auto, test, valid, train"),
        ("tsne.layers", 5, "auto or a list of strings"),
        ("train", None, A_SECTION),
        ("train", [1], A_SECTION),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(key, value, allowed):
    assert complaint(changed(key, value)) == f"params.yaml: {key}: got {value!r}, allowed is {allowed}"


@pytest.mark.parametrize(
    ("key", "value", "place", "found", "allowed"),
    [
        ("augment.transforms", [{"name": "Affine"}, 5], 1, 5, "name"),
        ("augment.transforms", [{"scale": 2}], 0, {"scale": 2}, "name"),
        ("data.classes", ["cat", "dog", 3], 2, 3, "string"),
        # Too few names, too, but only because one of them is no text.
        ("data.classes", ["cat", 3], 1, 3, "string"),
    ],
)
def test_a_wrong_item_of_a_list_is_named_by_its_place_in_one_line(key, value, place, found, allowed):
    message = complaint(changed(key, value))
    assert message.startswith(f"params.yaml: {key}.{place}: got {found!r}, allowed is ")
    assert allowed in message.partition(" allowed is ")[2]
    assert len(message.splitlines()) == 1


def test_each_wrong_key_has_its_own_line():
    content = changed("train.lr", 0)
    content["seed"] = "x"
    assert [line.split(": ")[1] for line in complaint(content).splitlines()] == ["seed", "train.lr"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sead", "did you mean seed?"),
        ("trian", "did you mean train?"),
        ("train.batchsize", "did you mean train.batch_size?"),
        ("train.learning_rate", "did you mean train.lr?"),
        ("train.image_size", "did you mean augment.image_size?"),
        ("train.num_workers", "set the environment variable PIPELINE_WORKERS instead"),
        ("data.valid_fractions", "did you mean data.valid_fraction?"),
    ],
)
def test_unknown_key_is_refused_with_a_hint(key, hint):
    section, _, name = key.partition(".")
    content = changed(section, {**CONTENT[section], name: 1} if name else 1)
    assert complaint(content) == f"params.yaml: {key}: unknown key; {hint}"


def test_without_a_hint_the_known_keys_of_the_section_are_listed():
    allowed = ", ".join(CONTENT["evaluate"])
    content = changed("evaluate", {**CONTENT["evaluate"], "zzz": 1})
    assert complaint(content) == f"params.yaml: evaluate.zzz: unknown key, allowed are {allowed}; remove it"


def test_a_value_in_place_of_a_section_says_where_it_belongs():
    message = complaint(changed("model", "resnet18"))
    assert message == f"params.yaml: model: got 'resnet18', allowed is {A_SECTION}; did you mean model.name?"


@pytest.mark.parametrize("key", ["seed", "train.lr", "data.classes", "augment.transforms"])
def test_a_missing_key_is_named_with_what_is_allowed(key):
    section, _, name = key.rpartition(".")
    content = deepcopy(CONTENT)
    del (content[section] if section else content)[name]
    allowed = allowed_values(tuple(key.split(".")))
    assert complaint(content) == f"params.yaml: {key}: missing; add it, allowed is {allowed}"


def test_a_missing_section_is_named():
    content = deepcopy(CONTENT)
    del content["tsne"]
    assert complaint(content) == f"params.yaml: tsne: missing; add it, allowed is {A_SECTION}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": "folder", "location": None}, "data.location"),
        ({"source": "archive", "location": ""}, "data.location"),
        ({"source": "folder", "location": "https://example.org/a.zip"}, "data.source"),
        ({"source": "archive", "location": "https://example.org/a.zip", "sha256": None}, "data.sha256"),
        ({"source": "folder", "location": "https://example.org/two\nlines"}, "data.location"),
        (
            {"source": "archive", "location": "https://me:two words@host/a", "sha256": "0" * 64},
            "data.location: contains",
        ),
        (
            {"source": "folder", "location": "${HOME}/a"},
            "data.location: contains ${, which dvc exp run -S would replace",
        ),
        ({"source": "archive", "location": "$URL", "mirrors": ["${URL}"]}, "data.mirrors: contains ${"),
        ({"source": "archive", "location": "$URL", "mirrors": ["s3://a"]}, "data.mirrors: contains 's3://a', allowed"),
        ({"source": "digits", "location": "photos"}, "data.location: got 'photos', allowed with source digits is null"),
        ({"source": "digits", "sha256": "0" * 64}, "data.sha256: got one, allowed with source digits is null"),
        (
            {"source": "digits", "classes": ["cat", "dog"]},
            "data.classes: contains 2 names, allowed with source digits are 10",
        ),
        (
            {"source": "digits", "classes": list("abcdefghi")},
            "data.classes: contains 9 names, allowed with source digits are 10",
        ),
        (
            {"source": "digits", "classes": list("abcdefghijk")},
            "data.classes: contains 11 names, allowed with source digits are 10",
        ),
        (
            {"valid_fraction": 0.5, "test_fraction": 0.46},
            "data.test_fraction: got 0.46, allowed with data.valid_fraction 0.5 is a sum of at most 0.95",
        ),
        ({"classes": ["cat", "dog", "cat"]}, "cat"),
        (
            {"source": "folder", "location": "photos", "labels": {"train": "a.csv", "val": "b.csv"}},
            "data.labels: has the key 'val', allowed are 'train', 'valid' or 'test'; correct it",
        ),
        (
            {"source": "modelscope", "location": "https://www.modelscope.cn/datasets/me/photos"},
            "datasets/me/photos', allowed with source modelscope is owner/name; correct it",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_in_one_line(changes, says):
    message = complaint(changed("data", {**CONTENT["data"], **changes}))
    assert message.startswith("params.yaml: data")
    assert says in message
    assert len(message.splitlines()) == 1


def test_the_sha256_that_a_publisher_states_in_capital_letters_is_the_same():
    archive = {"source": "archive", "location": "a.zip", "sha256": "0123456789ABCDEF" * 4}
    content = changed("data", {**CONTENT["data"], **archive})
    assert check_params(content, Path("params.yaml")).data.sha256 == "0123456789abcdef" * 4


def test_a_class_name_of_two_lines_is_refused_in_one_line():
    """classes.txt in the archive holds one name a line."""
    message = complaint(changed("data.classes", ["ice\ncream", "soup"]))
    assert message.startswith("params.yaml: data")
    assert "classes" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("content", [None, [], ["seed"], "seed", 3])
def test_content_without_keys_is_refused(content):
    assert "contains no keys" in complaint(content)


def test_missing_file_is_refused_with_where_to_run():
    with pytest.raises(PipelineError, match=r"^nowhere/params\.yaml: no such file; run .* root folder$"):
        load_params(Path("nowhere/params.yaml"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_that_is_not_utf8_is_refused_in_one_line(workspace, encoding):
    message = load_complaint("größe: 1\n".encode(encoding))
    assert re.fullmatch(r"params\.yaml: not UTF-8 text \(.+ at byte \d+\); save it as UTF-8", message)


@pytest.mark.parametrize("text", [TEXT.replace("\n", "\r\n"), "\ufeff" + TEXT], ids=["crlf", "byte order mark"])
def test_text_saved_by_a_windows_editor_is_read(workspace, text):
    assert load(text).model_dump(mode="json") == CONTENT


NO_YAML = {
    "key twice": (f"seed: 1\n{TEXT}", 'duplicate key "seed"'),
    "key twice in a section": (TEXT.replace("\n  lr:", "\n  lr: 1\n  lr:"), 'duplicate key "lr"'),
    "open bracket": ("seed: [1", "line 1, column 9: "),
    "tab": ("\tseed: 1", "line 1, column 1: "),
    "unknown alias": ("seed: *other", "undefined alias"),
    "python object": ("seed: !!python/name:os.system x", "values without tags"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "zero byte": ("a: \0", "#x0000"),
    "empty": ("", "contains no keys"),
    "comment": ("# seed: 1", "contains no keys"),
    # The reader of YAML stumbles on these with errors of other kinds than its own.
    "month 13": (with_lr("2024-13-45"), ""),
    "time zone of 25 hours": (with_lr("2001-12-14t21:59:43.10-25:00"), ""),
    "integer of letters": (with_lr("!!int abc"), ""),
    "boolean of letters": (with_lr("!!bool x"), ""),
    "5,000 digits": (with_lr("9" * 5000), ""),
    "mapping in a key": ("? [a, {b: 1}]\n: 2", ""),
    "500 brackets": ("[" * 500, ""),
}


@pytest.mark.parametrize(("text", "says"), NO_YAML.values(), ids=NO_YAML)
def test_text_that_is_no_yaml_is_refused_in_one_line(workspace, text, says):
    message = load_complaint(text)
    assert message.startswith("params.yaml: ")
    assert says in message
    assert len(message.splitlines()) == 1


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.dates()
    | st.sampled_from(["https://a.org/b.zip", "archive", "folder", "auto", "stretch", 10**400, "0" * 64])
)
# Other keys are refused when the YAML is read.
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=4)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
PLACES = [*Params.model_fields, *FIELDS]


def assert_accepted_or_refused_by_the_rules(content):
    """Either it fits the schema, or every line of the complaint begins with the file's name."""
    try:
        check_params(content, Path("params.yaml"))
    except PipelineError as error:
        assert all(re.match(r"params\.yaml: .+: ", line) for line in str(error).splitlines())


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(PLACES), JUNK, min_size=1, max_size=3))
def test_random_values_are_accepted_or_refused_by_the_rules(junk):
    content = deepcopy(CONTENT)
    for place, value in junk.items():
        section, _, name = place.rpartition(".")
        if not section:
            content[name] = value
        elif isinstance(content[section], dict):
            content[section][name] = value
    assert_accepted_or_refused_by_the_rules(content)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([None, *SECTIONS]),
    st.text(max_size=5) | st.integers() | st.none() | st.booleans() | st.floats() | st.dates(),
    JUNK,
)
@example("train", None, 1)
@example(None, "", 1)
@example(None, "\ud800", 1)
def test_random_keys_are_refused_by_the_rules(section, key, value):
    content, text = deepcopy(CONTENT), StringIO()
    (content[section] if section else content)[key] = value
    YAML().dump(content, text)
    try:
        content = parse_yaml(text.getvalue(), "params.yaml")
    except PipelineError as error:
        assert re.match(r"params\.yaml: .+: ", str(error))
    else:
        assert_accepted_or_refused_by_the_rules(content)
