"""The commands as a user types them."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import typer

from pipeline.cli import app
from pipeline.common import files
from pipeline.errors import MachineError
from tests.support.commands import run_command
from tests.support.sections import write_photos

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(workspace):
    """The current folder, with the parameters of the repository."""
    shutil.copy(ROOT / "params.yaml", workspace)
    for name in ("recipes", "dvc.yaml"):
        (workspace / name).symlink_to(ROOT / name)
    return workspace


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "params.yaml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys, pipeline.cli; print({'torch', 'sklearn', 'albumentations', 'pydantic'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "set()\n"
    result = run_command("--help")
    assert result.code == 0
    commands = typer.main.get_command(app).commands
    assert {"train", "recipe"} < commands.keys()
    for command in commands:
        assert re.search(rf"^\W*{command}\b", result.stdout, re.MULTILINE), command


def test_the_module_is_a_command_whose_errors_end_in_one_line_and_exit_code_1(folder):
    change(folder, "epochs: 15", "epochs: many")
    command = [sys.executable, "-m", "pipeline", "train"]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: params.yaml: train.epochs: got 'many', allowed is an integer")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  patience:", "  lrate: 1\n  patience:", "params.yaml: train.lrate: unknown key; did you mean train.lr?"),
        ("image_size: 32", "image_size: 100", "params.yaml: augment.image_size: got 100, allowed is an integer"),
        ("location: null", "location: nowhere.zip", "data.location: the archive nowhere.zip does not exist"),
        ("location: null", "location: photos.zip", "data.sha256: photos.zip has e3b0c44298fc1c149afbf4c8996fb9242"),
        (
            "{name: Affine",
            "{name: Affin",
            "params.yaml: augment.transforms.0: got 'Affin', allowed is the name of an albumentations",
        ),
        (
            "shear: [-8, 8]",
            "sheer: 8",
            "params.yaml: augment.transforms.0: Affine has no argument 'sheer', allowed are scale,",
        ),
        ("p: 1}", "p: 7}", "params.yaml: augment.transforms.0: Affine: p: got 7"),
    ],
)
def test_wrong_input_is_one_line_exit_code_1_and_nothing_written(folder, old, new, line):
    (folder / "photos.zip").write_bytes(b"")
    change(folder, old, new)
    if "location" in old:
        change(folder, "source: digits", "source: archive")
        change(folder, "sha256: null", f"sha256: {'a' * 64}")
    result = run_command("download")
    assert result.code == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1
    assert not (folder / "data").exists()


def write_one_class(photos: Path) -> None:
    write_photos(photos)
    for name in ("blue", "green"):
        shutil.rmtree(photos / name)


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (Path.mkdir, "photos: contains no images"),
        (write_one_class, "photos: contains one class (red), needs two or more"),
    ],
    ids=["empty folder", "one class"],
)
def test_a_folder_with_nothing_to_learn_is_refused(folder, write, line):
    write(folder / "photos")
    change(folder, "source: digits", "source: folder")
    change(folder, "location: null", "location: photos")
    result = run_command("download")
    assert result.code == 1
    assert result.stderr.startswith(f"error: {line}")
    assert not (folder / "data").exists()


THREE_LIMITS = """\
error: params.yaml: train.loss: got bce, which needs 2 classes, not 3; use cross_entropy
error: params.yaml: evaluate.split: got test, but the test images have no labels; choose auto or valid
error: params.yaml: tsne.split: got test, but the test images have no labels; choose auto or valid
"""


def test_what_the_classes_and_splits_do_not_allow_is_said_at_once_by_download_and_by_train(folder):
    write_photos(folder / "photos" / "train", per_class=4)
    (folder / "photos" / "test").mkdir()
    for number, photo in enumerate(sorted((folder / "photos").rglob("*3.jpg"))):
        photo.rename(folder / "photos" / "test" / f"scan{number}.jpg")
    change(folder, "source: digits", "source: folder")
    change(folder, "location: null", "location: photos")
    text = (folder / "params.yaml").read_text("utf-8")
    split = re.sub(r"split: auto", "split: test", re.sub("loss: cross_entropy", "loss: bce", text))
    (folder / "params.yaml").write_text(split, "utf-8")
    result = run_command("download")
    assert (result.code, result.stderr) == (1, THREE_LIMITS)
    assert not (folder / "data").exists()
    (folder / "params.yaml").write_text(text, "utf-8")
    assert run_command("download").code == run_command("augment").code == 0
    (folder / "params.yaml").write_text(split, "utf-8")
    result = run_command("train")
    assert (result.code, result.stderr) == (1, THREE_LIMITS)


@pytest.mark.parametrize("stage", ["augment", "train", "evaluate", "tsne", "predict"])
def test_a_stage_without_its_input_files_says_what_to_run(folder, stage):
    result = run_command(stage)
    assert result.code == 1
    assert result.stderr.startswith("error: ")
    assert "; run dvc repro" in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_ends_with_exit_code_130(folder, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.params.file.load_params", interrupted)
    assert run_command("download").code == 130


@pytest.mark.parametrize("arguments", [("params",), ("predict", "photos"), ("train",)])
def test_each_command_removes_what_a_killed_one_left(folder, arguments):
    ended = f"{files._host()}-{2**22 + 1}-5"
    left = [
        Path(place, f".x.{ended}.part.csv") for place in ("data", "results/live/plots", ".sweeps/lr-1", ".checkpoints")
    ]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    Path(f"results/.live.{ended}.old").mkdir()
    run_command(*arguments)
    assert not any(file.exists() for file in left)
    assert {path.name for path in Path("results").iterdir()} == {"live"}
    assert list(Path("results/live").iterdir()) == []


def fail_with(monkeypatch, error: Exception) -> None:
    def load(path):
        raise error

    monkeypatch.setattr("pipeline.params.file.load_params", load)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("key"), "unexpected KeyError in pipeline/cli.py:"),
        (RecursionError("maximum recursion\ndepth"), "unexpected RecursionError in pipeline/cli.py:"),
        (MemoryError(), "out of memory (MemoryError); close other programs"),
        (EOFError("Ran out of input"), "a file, or what another process sends, ends too early (Ran out of input); "),
        (BrokenProcessPool("A process was terminated"), "a worker process was killed, probably because "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_error_is_one_line_and_its_traceback_is_shown_on_request(folder, monkeypatch, error, line):
    fail_with(monkeypatch, error)
    result = run_command("download")
    assert result.code == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("PIPELINE_DEBUG", "1")
    traceback, _, last = run_command("download").stderr.rstrip("\n").rpartition("\n")
    assert last == result.stderr.rstrip("\n")
    assert traceback.startswith("Traceback (most recent call last):")
    assert "in load\n" in traceback


@pytest.mark.parametrize(
    "arguments", [["predict", ""], ["predict", "photos", "--model", ""], ["predict", "photos", "--model="]]
)
def test_an_empty_argument_is_refused_since_it_would_be_the_current_folder(folder, arguments):
    result = run_command(*arguments)
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: argument {len(arguments)} is empty")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("sweep", "--hours", "nan"), ("predict", "photos", "--abstain=-NaN")])
def test_an_argument_that_is_not_a_number_is_refused_although_no_limit_excludes_it(folder, arguments):
    result = run_command(*arguments)
    assert result.code == 1
    assert result.stderr.startswith(f"error: argument {len(arguments)}: got {arguments[-1]}, allowed is a number")


@pytest.mark.parametrize("option", [("--class", "nan"), ("--class=nan",)])
def test_a_class_may_be_called_nan(folder, option):
    assert "argument" not in run_command("explain", "photos", *option).stderr


def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "params.yaml").unlink()
    (folder / "params.yaml").mkdir()
    result = run_command("download")
    assert result.code == 1
    assert result.stderr.startswith("error: params.yaml: ")


def run_in_shell(command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a command line that calls ``$PIPELINE``; its exit code is that of the first command of a pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIPELINE": f"{sys.executable} -m pipeline", **variables}
    shell = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(shell, env=environment, capture_output=True, encoding="utf-8", errors="replace")


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda variables: next(iter(variables.values())),
)
def test_a_character_that_the_output_lacks_is_shown_as_a_question_mark(folder, variables):
    result = run_in_shell("$PIPELINE params train.lr && $PIPELINE recipe list", **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert "a number (> 0 and ? 1,000,000)" in result.stdout
    change(folder, "location: null", "location: 图/苹果")
    change(folder, "source: digits", "source: folder")
    result = run_in_shell("$PIPELINE download", **variables)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: data.location: the folder ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["$PIPELINE recipe list | true", "$PIPELINE params | head -1", "$PIPELINE params train.lr | true"]
)
def test_an_output_that_nobody_reads_to_its_end_is_no_error_message(folder, command):
    result = run_in_shell(f"{command}; exit ${{PIPESTATUS[0]}}")
    assert (result.returncode in (0, 1), result.stderr) == (True, "")


def test_an_output_that_is_closed_is_no_error_message(folder):
    result = run_in_shell("$PIPELINE params train.lr >&-")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_an_output_on_a_full_disk_is_one_line(folder):
    result = run_in_shell("$PIPELINE params train.lr > /dev/full")
    assert result.returncode == MachineError.exit_code
    assert result.stderr.startswith("error: No space left on device; ")
    assert result.stderr.count("\n") == 1


def test_a_file_that_cannot_be_written_is_named(folder):
    # The kernel refuses to write more than 8 KB to a file.
    result = run_in_shell("ulimit -f 8 && $PIPELINE download")
    assert result.returncode == MachineError.exit_code
    assert result.stderr.startswith("error: data/raw.zip: File too large; the disk at /")
    assert result.stderr.count("\n") == 1
    assert list((folder / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("Unable to allocate 9 GiB"), "out of memory (Unable to allocate 9 GiB); close other programs"),
        (EOFError("Ran out of input"), "a file, or what another process sends, ends too early (Ran out of input); "),
    ],
)
def test_an_error_of_the_machine_is_one_line(folder, monkeypatch, error, line):
    def fails(path):
        raise error

    monkeypatch.setattr("pipeline.params.file.load_params", fails)
    result = run_command("download")
    assert result.code == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "error: No such command 'trian'. Did you mean 'train'?; "),
        (["train", "a\x1b[31m\x9b"], "error: Got unexpected extra argument(s) (a"),
        (["predict", "--top", "a\x1b[31m"], "error: Invalid value for '--top': "),
        (["sweep", "--\x1b]0;x\x07"], "error: No such option: --"),
        (
            ["compare", "A", "B", "https://ann:s3cr3t@host/?token=s3cr3t"],
            "error: Got unexpected extra argument(s) (https",
        ),
        (["params", "a\x1b[31m\u202e\nb"], "error: params: got 'a"),
        (["recipe", "show", "https://ann:s3cr3t@host/\x1b"], "error: recipe: got 'https://***@host/"),
    ],
)
def test_wrong_arguments_are_one_printable_line_without_secrets(folder, arguments, line):
    result = run_command(*arguments)
    assert result.code == (1 if arguments[0] in ("params", "recipe") else 2)
    assert result.stderr.startswith(line)
    assert result.stderr[:-1].isprintable()
    assert result.stderr.endswith("\n")
    assert "s3cr3t" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["recipe"]])
def test_a_command_without_a_subcommand_prints_its_help(folder, arguments):
    result = run_command(*arguments)
    assert result.code == 2
    assert "Usage: " in result.stdout
    assert result.stderr.strip() == ""


STAGES = (
    *("source", "download", "augment", "train", "evaluate", "tsne", "predict", "explain", "export", "report"),
    "learning_rates",
)


@pytest.mark.parametrize(
    "command", [*STAGES, "lr-find", "seeds", "folds", "sweep x.yaml", "predict x.png", "explain x.png"]
)
def test_a_variable_with_a_wrong_value_is_refused_before_any_work(folder, monkeypatch, command):
    monkeypatch.setenv("PIPELINE_CHECKPOINTS", "/proc")
    before = sorted(folder.rglob("*"))
    result = run_command(*command.split())
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: PIPELINE_CHECKPOINTS: got '/proc', where nothing can be written")
    assert result.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
