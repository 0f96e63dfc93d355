"""DVC notices when the pretrained weights change, and shares them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from pipeline.common.paths import PRETRAINED, PRETRAINED_SOURCE
from pipeline.network.models import build_model
from pipeline.network.weights import save_model
from tests.support.clones import SMALL, Clone, stages_run
from tests.support.models import SPEC

REPRO = ("dvc", "repro", "pretrained")


def save_weights(path, seed: int) -> None:
    torch.manual_seed(seed)
    spec = replace(SPEC, width=SMALL["model.width"])
    save_model(path, build_model(spec).state_dict(), spec)


@pytest.mark.slow
def test_a_changed_file_runs_the_stage_again_and_a_missing_one_does_not(tmp_path):
    weights = tmp_path / "model.safetensors"
    save_weights(weights, 1)
    clone = Clone(tmp_path / "clone", {**SMALL, "model.pretrained": "../model.safetensors"})
    assert "pretrained: model.safetensors: " in clone.run(*REPRO)
    first = (clone.folder / PRETRAINED).read_bytes()
    assert stages_run(clone.run(*REPRO)) == []
    save_weights(weights, 2)
    assert stages_run(clone.run(*REPRO)) == ["pretrained"]
    assert (clone.folder / PRETRAINED).read_bytes() != first
    clone.commit("weights")
    colleague = clone.clone_with_cache(tmp_path / "elsewhere" / "clone", checkout=False)
    output = colleague.run(*REPRO)
    assert "data/pretrained.json stays as it is, and DVC uses the weights in its cache" in output
    assert (colleague.folder / PRETRAINED).read_bytes() == (clone.folder / PRETRAINED).read_bytes()
    colleague.change({"model.pretrained": "../other.safetensors"})
    output = colleague.run(*REPRO, fails=True)
    assert "error: params.yaml: model.pretrained: the file " in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_an_experiment_starts_from_the_model_of_an_earlier_run(origin, tmp_path):
    clone = origin.clone_with_cache(tmp_path / "clone")
    output = clone.run("dvc", "exp", "run", "-n", "second", "-S", "model.pretrained=run:main", "train")
    assert [stage for stage in stages_run(output) if stage in ("augment", "pretrained", "train")] == [
        "pretrained",
        "train",
    ]
    assert "tensors are those of run:main" in output
    assert json.loads((clone.folder / PRETRAINED_SOURCE).read_text())["weights"] == "run:main"
    assert stages_run(clone.run("dvc", "repro", "train")) == []
    # In a temporary workspace, from the model of an experiment.
    output = clone.run("dvc", "exp", "run", "--temp", "-S", "model.pretrained=run:second", "train")
    assert "tensors are those of run:second" in output
    output = clone.run("dvc", "exp", "run", "-S", "model.pretrained=run:secnd", "train", fails=True)
    assert "no commit, branch, tag or experiment has this name; there are second" in output
    shutil.rmtree(clone.folder / ".dvc/cache")
    output = clone.run("dvc", "exp", "run", "-S", "model.pretrained=run:main", "train", fails=True)
    assert "is neither in DVC's cache nor in a remote storage" in output
