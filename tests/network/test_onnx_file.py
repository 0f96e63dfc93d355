"""An ONNX file is used only if its metadata are within the bounds of the weights file."""

import json

import onnx
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.export.onnx_model import write_onnx
from pipeline.export.resizing import PhotoClassifier
from pipeline.network.inference import PixelClassifier
from pipeline.network.models import build_model
from pipeline.network.onnx_file import open_onnx
from tests.support.models import SPEC


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    torch.manual_seed(0)
    write_onnx(path, PhotoClassifier(PixelClassifier(build_model(SPEC), SPEC), SPEC).eval(), SPEC)
    return onnx.load(path)


def written(exported, path, **changes):
    """A copy of the file with other metadata; None removes them."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    facts = {entry.key: entry.value for entry in model.metadata_props} | changes
    onnx.helper.set_model_props(model, {key: value for key, value in facts.items() if value is not None})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        *({"image_size": size} for size in ("-5", "0", "33", "1056", "200000", "32.5", "x")),
        {"resize": "zoom"},
        {"interpolation": "cubic"},
        {"classes": json.dumps([SPEC.classes[0]] * len(SPEC.classes))},
        {"classes": json.dumps([*SPEC.classes[1:], "\x1b[31m"])},
        {"classes": json.dumps([*SPEC.classes[1:], 3])},
        {"classes": '"abc"'},
        *({name: None} for name in ("classes", "network", "image_size", "resize", "interpolation", "calibration")),
    ],
    ids=str,
)
def test_metadata_beyond_the_bounds_are_refused_in_one_line(exported, tmp_path, changes):
    with pytest.raises(PipelineError, match=r"m\.onnx: is not an ONNX file of this pipeline, ") as error:
        open_onnx(written(exported, tmp_path / "m.onnx", **changes), 1)
    assert len(str(error.value).splitlines()) == 1
