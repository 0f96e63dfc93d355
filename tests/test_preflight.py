"""What the classes and the splits of the images do not allow; ``tests/params/test_consistency.py`` has the rest."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.params.file import check_params
from pipeline.preflight import check_ahead, check_devices, check_images

CONTENT = read_yaml(Path(__file__).parents[1] / "params.yaml")
ALL = {"train": True, "valid": True, "test": True}


def check(changes, classes, labelled):
    """Check these images for params.yaml with a folder as its source, and with other values in some sections."""
    content = CONTENT | {name: CONTENT[name] | values for name, values in changes.items()}
    content["data"] |= {"source": "folder", "location": "photos", "classes": None}
    check_images(check_params(content, Path("params.yaml")), classes, labelled)


@pytest.mark.parametrize(
    ("changes", "classes", "labelled", "lines"),
    [
        (
            {"train": {"loss": "bce"}},
            11,
            ALL,
            ["params.yaml: train.loss: got bce, which needs 2 classes, not 11; use cross_entropy"],
        ),
        (
            {name: {"split": "test"} for name in ("evaluate", "tsne", "predict")},
            2,
            {"train": True, "valid": True},
            [
                f"params.yaml: {name}.split: got test, but there are no test images; set data.test_fraction, or choose "
                "auto or valid"
                for name in ("evaluate", "tsne", "predict")
            ],
        ),
        (
            {name: {"split": "test"} for name in ("evaluate", "tsne", "predict")},
            2,
            ALL | {"test": False},
            [
                f"params.yaml: {name}.split: got test, but the test images have no labels; choose auto or valid"
                for name in ("evaluate", "tsne")
            ],
        ),
    ],
    ids=["classes", "no test split", "unlabelled test split"],
)
def test_what_the_images_do_not_allow_has_a_line_each(changes, classes, labelled, lines):
    with pytest.raises(PipelineError) as error:
        check(changes, classes, labelled)
    assert str(error.value).splitlines() == lines


@pytest.mark.parametrize(
    ("changes", "classes", "labelled"),
    [
        ({}, 2, {"train": True, "valid": True}),
        ({}, 2, ALL | {"test": False}),
        ({"train": {"loss": "bce"}, "predict": {"split": "test"}}, 2, ALL | {"test": False}),
        ({"evaluate": {"split": "test"}, "tsne": {"split": "train"}}, 3, ALL),
    ],
)
def test_what_the_images_allow_passes(changes, classes, labelled):
    check(changes, classes, labelled)


@pytest.mark.parametrize("variables", [{"PIPELINE_PROCESSES": "3"}, {"WORLD_SIZE": "3", "PIPELINE_PROCESSES": "2"}])
def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch, variables):
    torchrun = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "::1", "MASTER_PORT": "1"}
    for name, value in (variables | torchrun).items():
        monkeypatch.setenv(name, value)
    params = check_params(CONTENT | {"train": CONTENT["train"] | {"batch_size": 64}}, Path("params.yaml"))
    with pytest.raises(PipelineError, match=r"^params.yaml: train.batch_size: got 64, allowed is a multiple of the 3 "):
        check_ahead(params)


@pytest.mark.parametrize(
    ("processes", "device", "gpus", "problem"),
    [
        ("3", None, 2, "PIPELINE_PROCESSES: got 3, but this machine has 2 GPUs"),
        ("2", "cuda", 0, "PIPELINE_PROCESSES: got 2, but this machine has 0 GPUs"),
        ("2", "cuda:1", 2, "PIPELINE_DEVICE: got cuda:1, allowed with 2 processes"),
        ("2", None, 2, None),
        ("2", None, 0, None),
        ("9", "cpu", 2, None),
        ("1", "cuda:1", 2, None),
    ],
)
def test_each_process_needs_a_gpu_of_its_own(monkeypatch, processes, device, gpus, problem):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setenv("PIPELINE_PROCESSES", processes)
    monkeypatch.delenv("PIPELINE_DEVICE", raising=False)
    if device:
        monkeypatch.setenv("PIPELINE_DEVICE", device)
    with pytest.raises(PipelineError, match=f"^{problem}") if problem else nullcontext():
        check_devices()
