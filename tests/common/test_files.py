"""A final path never holds half a file."""

import json

import pytest

from pipeline.common.files import replacing, write_json, write_text


def write_file(path, content):
    path.write_text(content)


def write_folder(path, content):
    path.mkdir()
    (path / "part.npy").write_text(content)


def content(path):
    return (path / "part.npy" if path.is_dir() else path).read_text()


KINDS = pytest.mark.parametrize("write", [write_file, write_folder], ids=["file", "folder"])


@KINDS
def test_what_was_written_takes_the_paths_place(tmp_path, write):
    path = tmp_path / "data.npy"
    for text in ("first", "second"):
        with replacing(path) as beside:
            write(beside, text)
        assert content(path) == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("old", "new"), [(write_file, write_folder), (write_folder, write_file)])
def test_a_folder_takes_a_files_place_and_a_file_a_folders(tmp_path, old, new):
    path = tmp_path / "data"
    old(path, "old")
    with replacing(path) as beside:
        new(beside, "new")
    assert content(path) == "new"
    assert list(tmp_path.iterdir()) == [path]


@KINDS
def test_the_old_content_stays_until_the_new_is_complete(tmp_path, write):
    path = tmp_path / "data"
    write(path, "old")
    with replacing(path) as beside:
        write(beside, "new")
        assert content(path) == "old"


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_content_and_nothing_beside_it(tmp_path, write, error):
    path = tmp_path / "data.npy"
    write(path, "old")
    with pytest.raises(error), replacing(path) as beside:
        write(beside, "half")
        raise error
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_first_writing_leaves_nothing(tmp_path, write, error):
    with pytest.raises(error), replacing(tmp_path / "data.npy") as beside:
        write(beside, "half")
        raise error
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_the_old_content_stays_where_nothing_was_written(tmp_path, write):
    path = tmp_path / "data"
    write(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert content(path) == "old"


def test_folders_above_the_path_are_made(tmp_path):
    write_text(tmp_path / "results/metrics/train.txt", "é")
    assert (tmp_path / "results/metrics/train.txt").read_bytes() == "é".encode()


@pytest.mark.parametrize("name", ["curve.png", "train.csv", "train.npy"])
def test_the_ending_stays_last_and_the_folder_the_same(tmp_path, name):
    path = tmp_path / name
    with replacing(path) as beside:
        assert (beside.parent, beside.suffix) == (path.parent, path.suffix)
        beside.touch()


def test_json_has_floats_of_six_decimals_at_any_depth(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"accuracy": 2 / 3, "images": 3, "classes": {"crème": [1 / 3, (0.5,), None]}, "auto": True})
    assert json.loads(path.read_text("utf-8")) == {
        "accuracy": 0.666667,
        "images": 3,
        "classes": {"crème": [0.333333, [0.5], None]},
        "auto": True,
    }
    assert "crème" in path.read_text("utf-8")
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_a_finite_number_is_refused_and_the_old_stays(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": value})
    assert json.loads(path.read_text()) == {"loss": 1}
    assert list(tmp_path.iterdir()) == [path]
