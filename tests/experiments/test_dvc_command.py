"""DVC's overrides and messages."""

import pytest

from pipeline.common.paths import PARAMS
from pipeline.errors import MachineError, PipelineError
from pipeline.experiments.dvc_command import DvcError, overridden_params, override_key, run_dvc
from pipeline.params.file import check_params

OUTPUT = """
Running stage 'train':
> python -m pipeline train
train: epoch 1 of 3
error: train: the loss is nan
error: train: lower train.lr
ERROR: failed to reproduce 'train': failed to run: python -m pipeline train, exited with 75
"""


def test_overrides_change_the_content_of_params_yaml_as_dvc_does(repository):
    content = overridden_params([])
    changed = overridden_params(["train.lr=3e-05", "params.yaml:tsne.layers=[hidden1]", "train.optimizer='sgd'"])
    assert content["train"]["lr"] == 0.001
    assert (changed["train"]["lr"], changed["train"]["optimizer"], changed["tsne"]["layers"]) == (
        3e-05,
        "sgd",
        ["hidden1"],
    )
    assert override_key("params.yaml:tsne.layers=[hidden1]") == "tsne.layers"


def test_null_removes_the_arguments_of_the_network_and_an_empty_mapping_is_refused_as_dvc_would_keep_them(repository):
    more = ["model.name=resnet18", "+model.kwargs.zero_init_residual=true"]
    assert check_params(overridden_params([*more, "model.kwargs=null"]), PARAMS).model.kwargs == {}
    with pytest.raises(PipelineError, match=r"^-S: got model\.kwargs={}, which changes nothing, as DVC merges"):
        overridden_params([*more, "model.kwargs={}"])
    assert overridden_params(["model.kwargs={}"])["model"]["kwargs"] == {}
    with pytest.raises(PipelineError, match=r"^-S: got train={}, which changes nothing, .*name one of its parameters$"):
        overridden_params(["train={}"])
    with pytest.raises(PipelineError, match=r"^-S: "):
        overridden_params(["augment.transforms=[Blur]", "augment.transforms.0={}"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.lr", "-S: got 'train.lr', allowed is key=value"),
        ("train.epochs=abc", "-S: train.epochs: got 'abc', allowed is an integer"),
        ("train.epoch=3", "-S: train.epoch: unknown key; did you mean train.epochs?"),
        ("train.epochs=3,4", "-S: "),
        ("train.epochs=range(1,3)", "-S: DVC rejects train.epochs=range(1,3) ("),
        ("train.epochs={", "-S: DVC rejects train.epochs={ ("),
    ],
)
def test_a_wrong_override_is_one_line(repository, override, line):
    with pytest.raises(PipelineError) as error:
        overridden_params([override])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_disk_that_is_full_for_dvc_itself_is_a_failure_of_the_machine(tmp_path, monkeypatch):
    line = "ERROR: failed to reproduce 'train': [Errno 28] No space left on device: '.dvc/cache'"
    (tmp_path / "dvc.py").write_text(f'print("""{line}"""); raise SystemExit(1)')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DvcError) as error:
        run_dvc(tmp_path, "exp", "run")
    assert error.value.exit_code == MachineError.exit_code


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (OUTPUT, "train: the loss is nan; train: lower train.lr"),
        ("ERROR: The output paths:\n  'a'('x')\noverlap.\n\nhint", "The output paths: 'a'('x') overlap."),
        ("", "dvc exp failed"),
    ],
)
def test_a_failure_is_one_line_of_the_stages_or_of_dvc(tmp_path, monkeypatch, output, line, capsys):
    """A package of this name stands in for DVC."""
    (tmp_path / "dvc.py").write_text(f"print({output!r}); raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DvcError) as error:
        run_dvc(tmp_path, "exp", "run")
    assert str(error.value) == line
    assert (error.value.stage, error.value.exit_code) == (("train", 75) if output == OUTPUT else (None, 1))
    assert capsys.readouterr().out == ("  train: epoch 1 of 3\n" if output == OUTPUT else "")


def test_stop_ends_dvc_and_all_that_it_started(tmp_path, monkeypatch):
    (tmp_path / "dvc.py").write_text(
        "import subprocess, time\nprint(\"Running stage 'train':\", flush=True)\n"
        "subprocess.Popen(['sleep', '60'])\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stages = []

    def stop(stage):
        stages.append(stage)
        return stage == "train"

    assert not run_dvc(tmp_path, "exp", "run", stop=stop)
    assert stages[-1] == "train"
