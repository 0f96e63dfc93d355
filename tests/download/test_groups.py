"""Which images stay in one split."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.download.groups import content_keys, grouped_by_path, separated_groups
from pipeline.download.layout import SourceImage
from pipeline.errors import PipelineError
from pipeline.params.schema import DataParams
from tests.support.sections import DATA


def image(path, split=None, label=0, group=None):
    return SourceImage(path, path.rpartition("/")[2], split, label, group)


@pytest.mark.parametrize("pattern", [r"person\d+", r"(person\d+)_", r"/(?:x|(?=p))(person\d+)"])
def test_a_pattern_finds_the_group_in_the_path(pattern):
    images = [image("cat/person1_a.png"), image("dog/person1_b.png"), image("cat/person22_a.png")]
    assert [found.group for found in grouped_by_path(images, pattern)] == ["person1", "person1", "person22"]


def test_a_path_without_a_group_is_one_line():
    with pytest.raises(PipelineError) as error:
        grouped_by_path([image("cat/person1.png"), image("cat/b.png"), image("cat/a.png")], r"person\d+")
    line = r"params.yaml: data.groups: 'person\\d+' finds no group in 2 of 3 paths (cat/a.png ...)"
    assert str(error.value) == f"{line}; correct it, or set it to null"


def test_an_unlabelled_image_needs_no_group():
    found = grouped_by_path([image("cat/person1.png"), image("test/1.png", "test", None)], r"person\d+")
    assert [one.group for one in found] == ["person1", None]


LEAKING = [
    image("train/a.png", "train", group="one"),
    image("valid/a.png", "valid", group="one"),
    image("test/a.png", "test", group="one"),
    image("train/b.png", "train", group="two"),
    image("valid/b.png", "valid", group="two"),
    image("train/c.png", "train", group="three"),
    image("train/d.png", "train"),
]


def test_groups_in_several_splits_are_told_and_stay(capsys):
    assert separated_groups(LEAKING, DataParams(**{**DATA, "on_leak": "warn"})) == {}
    line = "2 groups are in more than one split of the source: one, two, which makes the metrics too high"
    assert f"{line}; data.on_leak: drop leaves out 3 images" in capsys.readouterr().out


def test_drop_leaves_them_in_the_last_of_their_splits(capsys):
    dropped = separated_groups(LEAKING, DataParams(**{**DATA, "on_leak": "drop"}))
    assert dropped == {
        "train/a.png": "its group is also in test",
        "valid/a.png": "its group is also in test",
        "train/b.png": "its group is also in valid",
    }
    assert "left out 3 of their images (data.on_leak: drop)" in capsys.readouterr().out


def test_error_stops_in_one_line():
    with pytest.raises(
        PipelineError, match=r"^data.on_leak: 2 groups are in more than one split of .*: one, two; move"
    ):
        separated_groups(LEAKING, DataParams(**{**DATA, "on_leak": "error"}))


def test_folds_cut_train_and_valid_together_so_that_only_test_leaks():
    dropped = separated_groups(LEAKING, DataParams(**{**DATA, "on_leak": "drop", "folds": 2}))
    assert sorted(dropped) == ["train/a.png", "valid/a.png"]


def files():
    """Three photos with structure, and a recompressed, smaller copy of the first."""
    random, contents = np.random.default_rng(0), {}
    for name in "abc":
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
        contents[f"{name}.png"] = _as(photo, "PNG")
        if name == "a":
            contents["copy.jpg"] = _as(photo.resize((80, 80)), "JPEG", quality=60)
    return contents


def _as(photo, kind, **options):
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def test_identical_files_have_one_key_and_others_have_their_own():
    contents = files() | {"again.png": files()["b.png"]}
    keys = dict(
        zip(contents, content_keys([image(path) for path in contents], contents.__getitem__, None), strict=True)
    )
    assert keys["again.png"] == keys["b.png"]
    assert len(set(keys.values())) == len(contents) - 1


def test_a_recompressed_copy_has_the_key_of_its_original_if_asked_for():
    contents = files()
    images = [image(path) for path in contents]
    keys = dict(zip(contents, content_keys(images, contents.__getitem__, "near_duplicates"), strict=True))
    assert keys["copy.jpg"] == keys["a.png"]
    assert len(set(keys.values())) == 3
    backwards = content_keys(images[::-1], contents.__getitem__, "near_duplicates")
    assert backwards[::-1] == list(keys.values())
