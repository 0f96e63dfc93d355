"""The weights file."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.common.paths import MODEL
from pipeline.errors import PipelineError
from pipeline.network.models import build_model
from pipeline.network.weights import load_model, save_model
from tests.support.models import SPEC

SPECS = {
    "classifier": replace(SPEC, dropout=0.3, classes=("blé", "Grün", 'red, or "rot"')),
    "one output": replace(SPEC, outputs=1, classes=("no", "yes")),
    "resnet18": replace(SPEC, name="resnet18", stem="small"),
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


def assert_refused(
    path, reason="not a weights file of this project", fix="name one that the stage train wrote"
) -> None:
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
    assert_refused(MODEL, fix="run dvc repro train")


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
    return {"spec": json.dumps({**asdict(SPEC), **changes})}


INCOMPLETE = asdict(SPEC)
del INCOMPLETE["stem"]


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"spec": "not JSON"}, {"spec": "[1]"}, {"spec": json.dumps(INCOMPLETE)}, fields(depth=3)],
    ids=["none", "of transformers", "a string", "a list", "a missing field", "an unknown field"],
)
def test_safetensors_file_of_another_program_is_refused(path, metadata):
    write(path, metadata)
    assert_refused(path)


@pytest.mark.parametrize("change", [{"width": 8}, {"name": "resnet18"}, {"outputs": 4}])
def test_weights_of_another_network_are_refused(path, change):
    write(path, fields(**change))
    assert_refused(path)


def test_weights_have_the_permissions_of_other_files(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode
