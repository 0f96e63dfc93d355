"""The weights file."""

import json
import math
import os
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.common.paths import MODEL
from pipeline.common.reading import with_checksum
from pipeline.errors import PipelineError
from pipeline.network.calibration import Calibration
from pipeline.network.models import build_model
from pipeline.network.weights import load_model, save_model
from tests.support.models import SPEC

SPECS = {
    "classifier": replace(SPEC, dropout=0.3, classes=("blé", "Grün", 'red, or "rot"')),
    "one output": replace(SPEC, outputs=1, classes=("no", "yes")),
    "calibrated": replace(SPEC, calibration=Calibration(0.7, -3.25, ((0.5, None, 0.0, 0.1, 1.0),) * 3)),
    "resnet18": replace(SPEC, name="resnet18", stem="small"),
    "with arguments": replace(SPEC, name="resnet50", kwargs={"width_per_group": 32}),
    "with versions of its layers": replace(SPEC, name="mnasnet0_5"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results/model.safetensors"


@pytest.fixture
def saved(path):
    save_model(path, build_model(SPEC).state_dict(), SPEC)
    return path


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_loaded_network_computes_the_same_as_the_saved_one(path, spec):
    torch.manual_seed(0)
    model = build_model(spec)
    images = torch.randn(4, 3, 32, 32)
    model(images)  # changes the statistics of batch norm
    save_model(path, model.state_dict(), spec)
    loaded, loaded_spec = load_model(path)
    assert loaded_spec == spec
    assert not loaded.training
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_saving_twice_writes_the_same_bytes(path, spec):
    state, contents = build_model(spec).state_dict(), set()
    for order in (1, -1):
        save_model(path, dict(list(state.items())[::order]), spec)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def assert_refused(path, reason="cannot be used (", fix="name one that the stage train wrote") -> None:
    with pytest.raises(PipelineError) as error:
        load_model(path)
    message = str(error.value)
    assert message.startswith(f"{path}: {reason}")
    assert message.endswith(f"; {fix}")
    assert "\n" not in message


def test_missing_file_is_refused(path):
    assert_refused(path, "no such file")


def test_missing_model_of_the_workspace_is_reported_with_the_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(MODEL, "no such file", "run dvc repro train")
    MODEL.parent.mkdir()
    MODEL.write_bytes(b"")
    assert_refused(MODEL, fix=f"run dvc checkout --force {MODEL}, or dvc repro --force train")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["FIFO", "folder"])
def test_path_that_is_no_regular_file_is_refused_without_reading_it(tmp_path, make):
    make(tmp_path / "model")
    assert_refused(tmp_path / "model", "cannot be used (is not a regular file)")


def test_huge_header_is_refused_before_it_is_read(path):
    path.parent.mkdir()
    path.write_bytes((2**30).to_bytes(8, "little"))
    os.truncate(path, 2**31)
    assert_refused(path, "cannot be used (its header has 1,073,741,824 bytes, allowed are 16,777,216)")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(path, monkeypatch, value):
    state = build_model(SPEC).state_dict()
    state["output.bias"][1] = value
    with pytest.raises(PipelineError, match=r"not written: weights are NaN or infinite \(output.bias\)"):
        save_model(path, state, SPEC)
    assert not path.exists()
    monkeypatch.setattr("pipeline.network.weights.not_finite", lambda tensors: "")
    save_model(path, state, SPEC)
    monkeypatch.undo()
    assert_refused(path, "cannot be used (weights are NaN or infinite: output.bias)")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a safetensors file at all" * 100, bytes(64)])
def test_file_that_is_not_safetensors_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert_refused(path)


@pytest.mark.parametrize("kept", [4, 100, 0.5, 0.999])
def test_truncated_file_is_refused(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: kept if kept >= 1 else int(kept * len(content))])
    assert_refused(saved)


def write(path, metadata) -> None:
    path.parent.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in build_model(SPEC).state_dict().items()}
    save_file(tensors, path, metadata)


def fields(**changes):
    """Metadata with a correct checksum, as someone writes them who wants them to be used."""
    return {"spec": json.dumps(with_checksum({**asdict(SPEC), "weights": "00000000", **changes}))}


INCOMPLETE = asdict(SPEC)
del INCOMPLETE["stem"]


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"spec": "not JSON"}, {"spec": "[1]"}, {"spec": json.dumps(INCOMPLETE)}],
    ids=["none", "of transformers", "a string", "a list", "a missing field"],
)
def test_safetensors_file_of_another_program_is_refused(path, metadata):
    write(path, metadata)
    assert_refused(path)


WRONG = "its metadata are wrong: "
TENSORS = "its metadata do not fit its tensors: "


def test_a_class_may_have_the_name_of_a_folder_with_another_space(tmp_path):
    spec = replace(SPEC, classes=("猫\u3000犬", "a\u202fb", *SPEC.classes[2:]))
    save_model(tmp_path / "model.safetensors", build_model(spec).state_dict(), spec)
    assert load_model(tmp_path / "model.safetensors")[1].classes == spec.classes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"depth": 3}, f"{WRONG}depth: Extra inputs are not permitted"),
        ({"classes": [1, 2, 3]}, f"{WRONG}classes.0: Input should be a valid string"),
        ({"classes": ["a", "b"]}, f"{WRONG}Value error, 3 outputs do not fit 2 classes"),
        ({"classes": ["a", "b", "a"]}, f"{WRONG}Value error, two classes have the same name"),
        ({"classes": ["a", "b", "\x1b[31m"]}, f"{WRONG}Value error, the name of a class is not printable"),
        ({"mean": "grey"}, f"{WRONG}mean: Input should be a valid array"),
        ({"mean": [0.5]}, f"{WRONG}mean.1: Field required"),
        ({"mean": [0.5, 0.5, math.nan]}, f"{WRONG}mean.2: Input should be"),
        ({"std": [0.2, 0.2, 0]}, f"{WRONG}std.2: Input should be greater than or equal to 0.000000001"),
        ({"calibration": {"temperature": 0.0, "energy": None, "thresholds": []}}, f"{WRONG}calibration.temperature: "),
        (
            {"calibration": {"thresholds": [[0.5]]}},
            f"{WRONG}calibration.thresholds.0: Tuple should have at least 5 items",
        ),
        ({"calibration": {"thresholds": [[0.5] * 5]}}, f"{WRONG}Value error, it has not one row of thresholds for"),
        ({"resize": "zoom"}, f"{WRONG}resize: Input should be 'stretch', 'crop' or 'pad'"),
        ({"interpolation": "cubic"}, f"{WRONG}interpolation: Input should be 'area', 'bilinear' or 'bicubic'"),
        ({"width": 5000}, f"{WRONG}width: Input should be less than or equal to 512"),
        ({"width": "4"}, f"{WRONG}width: Input should be a valid integer"),
        (
            {"kwargs": {"layers": [2, 10**9]}},
            f"{WRONG}kwargs: Value error, got layers: [2, 1000000000], allowed are numbers with a sum up to 10,000",
        ),
        (
            {"name": "resnet18", "kwargs": {"a": 1}},
            "its metadata are of no network: model.kwargs: got 'a'; allowed for ",
        ),
        ({"image_size": 10**6}, f"{WRONG}image_size: Input should be less than or equal to 1024"),
        ({"image_size": 1024, "width": 512}, f"{TENSORS}blocks.0.0.weight is F32 [4, 3, 3, 3], classifier needs F32 "),
        ({"width": 8}, f"{TENSORS}blocks.0.0.weight is F32 [4, 3, 3, 3], classifier needs F32 [8, 3, 3, 3]"),
        ({"name": "resnet18"}, f"{TENSORS}blocks.0.0.weight is F32 [4, 3, 3, 3], resnet18 needs nothing"),
        ({"name": "../x"}, "its metadata are of no network: model.name: got '../x', allowed are classifier and "),
        ({"outputs": 4, "classes": ["a", "b", "c", "d"]}, f"{TENSORS}output.bias is F32 [3], classifier needs F32 [4]"),
        ({}, "its checksum is wrong"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_metadata_that_lie_are_refused_before_the_network_is_built(path, change, reason):
    write(path, fields(**change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(path, f"cannot be used ({reason}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("name", asdict(SPEC))
def test_metadata_without_one_of_the_fields_are_refused(path, name):
    content = {field: value for field, value in asdict(SPEC).items() if field != name}
    write(path, {"spec": json.dumps(with_checksum({**content, "weights": "00000000"}))})
    assert_refused(path, f"cannot be used ({WRONG}{name}: Field required")


def test_weights_have_the_permissions_of_other_files(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode
