"""The commands as a user types them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sections import write_photos

ROOT = Path(__file__).parent.parent


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    """A folder with the repository's parameters, where the commands work on."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys, pipeline.cli; print({'torch', 'sklearn', 'albumentations', 'pydantic'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "set()\n"
    output = run(ROOT, "--help").stdout
    for command in ("download", "augment", "train", "evaluate", "tsne", "predict", "recipe"):
        assert command in output


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  patience:", "  lrate: 1\n  patience:", "params.yaml: train.lrate: unknown key, allowed are epochs, "),
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
    result = run(folder, "download")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda photos: photos.mkdir(), "photos: holds no images"),
        (lambda photos: write_one_class(photos), "photos: holds one class (red); allowed are two or more"),
    ],
    ids=["empty folder", "one class"],
)
def test_a_folder_with_nothing_to_learn_is_refused(folder, make, line):
    make(folder / "photos")
    change(folder, "source: digits", "source: folder")
    change(folder, "location: null", "location: photos")
    result = run(folder, "download")
    assert (result.returncode, result.stderr[: len(line) + 7]) == (1, f"error: {line}")
    assert not (folder / "data").exists()


def write_one_class(photos: Path) -> None:
    write_photos(photos)
    for name in ("blue", "green"):
        for path in (photos / name).iterdir():
            path.unlink()


@pytest.mark.parametrize("stage", ["augment", "train", "evaluate", "tsne", "predict"])
def test_a_stage_without_the_files_before_it_says_what_to_run(folder, stage):
    result = run(folder, stage)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "; run dvc repro" in result.stderr
    assert result.stderr.count("\n") == 1
