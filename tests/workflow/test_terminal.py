"""No name and no value, wherever it comes from, sends control characters to the terminal."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import MODEL
from pipeline.network.models import build_model
from pipeline.network.weights import save_model
from tests.support.archives import packed
from tests.support.commands import run_command
from tests.support.models import SPEC
from tests.support.sections import write_photos

ROOT = Path(__file__).parents[2]
# Sets the title of the window, clears the screen, is one character of C1, and changes the direction of text.
ESCAPES = "\x1b]0;x\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture
def folder(workspace):
    """The current folder, with the parameters of the repository and a folder of photos."""
    shutil.copy(ROOT / "params.yaml", workspace)
    write_photos(workspace / "photos", per_class=2)
    return workspace


def set_data(**values) -> None:
    """Set parameters of the section data."""
    yaml, path = YAML(), Path("params.yaml")
    content = yaml.load(path)
    content["data"] |= {"source": "folder", "location": "photos", **values}
    yaml.dump(content, path)


def assert_plain(*arguments: str) -> str:
    """Run a command; what it prints has no control character."""
    result = run_command(*arguments)
    for output in (result.stdout, result.stderr):
        assert output.replace("\n", "").isprintable(), output
    return result.stdout + result.stderr


def zipped(folder: Path, **others: bytes) -> None:
    files = {path.relative_to("photos").as_posix(): path.read_bytes() for path in Path("photos").rglob("*.jpg")}
    (folder / "photos.zip").write_bytes(packed(files | others))
    set_data(source="archive", location="photos.zip")


PREPARED = {
    "class": lambda folder: (folder / "photos/blue").rename(folder / f"photos/b{ESCAPES}"),
    "image": lambda folder: (folder / "photos/blue/00.jpg").rename(folder / f"photos/blue/0{ESCAPES}.jpg"),
    "other file": lambda folder: (folder / f"photos/blue/0{ESCAPES}.txt").write_text("x"),
    "damaged image": lambda folder: (folder / f"photos/blue/0{ESCAPES}.png").write_bytes(b"x"),
    "link": lambda folder: (folder / f"photos/blue/{ESCAPES}.jpg").symlink_to(f"nowhere{ESCAPES}"),
    "pipe": lambda folder: os.mkfifo(folder / f"photos/blue/{ESCAPES}.jpg"),
    "empty folder": lambda folder: (folder / f"photos/{ESCAPES}").mkdir(),
    "class of classes.txt": lambda folder: (folder / "photos/classes.txt").write_text(f"blue{ESCAPES}\ngreen\nred\n"),
    "NUL in classes.txt": lambda folder: (folder / "photos/classes.txt").write_text("blue\0\ngreen\nred\n"),
    "table": lambda folder: (
        (folder / "photos/labels.csv").write_text(f"path,label\nblue/00.jpg,a{ESCAPES}\n{ESCAPES}.jpg,b\n"),
        set_data(labels="labels.csv"),
    ),
    "name in a zip": lambda folder: zipped(folder, **{f"blue/{ESCAPES}.jpg": b"x", f"{ESCAPES}/x.jpg": b"x"}),
    "name out of a zip": lambda folder: zipped(folder, **{f"../{ESCAPES}.jpg": b"x"}),
    "zip in a zip": lambda folder: zipped(folder, **{f"{ESCAPES}.zip": packed({f"../{ESCAPES}": b"x"})}),
    "parameter": lambda folder: set_data(classes=[f"a{ESCAPES}", "b", "c"]),
    "location": lambda folder: set_data(location=f"photos{ESCAPES}"),
    "key": lambda folder: set_data(**{f"key{ESCAPES}": 1}),
    "group": lambda folder: set_data(groups=f"(?P<group>{ESCAPES}"),
    "variable": lambda folder: os.environ.update(PIPELINE_CACHE=f"/proc/{ESCAPES}", PIPELINE_DEVICE=ESCAPES),
}


@pytest.mark.parametrize("name", PREPARED)
def test_names_and_values_are_printed_without_control_characters(folder, name):
    set_data()
    PREPARED[name](folder)
    for command in ("source", "download", "params"):
        assert assert_plain(command) or command == "params"


def test_names_of_files_to_predict_and_of_the_classes_of_a_model_are_printed_without_control_characters(folder):
    MODEL.parent.mkdir()
    spec = replace(SPEC, classes=tuple(f"{name}{ESCAPES}\0" for name in SPEC.classes))
    save_model(MODEL, build_model(spec).state_dict(), spec)
    (folder / "photos/blue/00.jpg").rename(folder / f"photos/blue/0{ESCAPES}\n.jpg")
    (folder / f"photos/blue/0{ESCAPES}.txt").write_text("x")
    assert_plain("predict", "photos", f"nowhere{ESCAPES}.png")
    assert_plain("predict", f"photos/blue/0{ESCAPES}\n.jpg", "--model", str(MODEL), "--output", f"a{ESCAPES}.csv")
    assert_plain("predict", "photos", "--model", f"a{ESCAPES}")
    for command in ("compare", "sweep"):
        assert_plain(command, ESCAPES, *([ESCAPES] if command == "compare" else []))
