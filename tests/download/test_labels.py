"""Tables of labels: their formats, how their images are found, and what is refused."""

import os
import posixpath
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.download.labels import _Images, read_labels
from pipeline.download.trees import folder_tree
from pipeline.errors import PipelineError
from tests.support.sections import write_photos
from tests.support.trees import tree_of

IMAGES = {f"photos/{name}.jpg": b"" for name in "abcd"}
CSV = "path,label\nphotos/a.jpg,cat\nphotos/b.jpg,dog\nphotos/c.jpg,cat\nphotos/d.jpg,dog\n"


def read(text, images=IMAGES, classes=None, **tables):
    """Read the table ``labels.csv``, or others by split."""
    files = {f"{split}.txt": content for split, content in tables.items()} or {"labels.csv": text}
    labels = {split: f"{split}.txt" for split in tables} or "labels.csv"
    return read_labels("set", tree_of(images | {name: text.encode() for name, text in files.items()}), labels, classes)


def described(source):
    """Split, class and group of each image by its path."""
    return {
        image.path: (image.split, None if image.label is None else source.classes[image.label], image.group)
        for image in source.images
    }


def complaint(*args, **more):
    with pytest.raises(PipelineError) as error:
        read(*args, **more)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


SIX = {f"photos/{name}.jpg": b"" for name in "abcdxy"}
EXPECTED = {f"photos/{name}.jpg": (None, kind, None) for name, kind in zip("abcd", ["cat", "dog"] * 2, strict=True)}


@pytest.fixture(autouse=True)
def run_in_workspace(workspace):
    """No table of the repository is found by chance."""


@given(
    st.lists(st.from_regex(r"([ab]/){0,3}[ab](\.[cd]){0,2}", fullmatch=True), unique=True),
    st.from_regex(r"(\./|\.\./|/)?([ab]/){0,2}[ab](\.[cd]){0,2}", fullmatch=True),
    st.sampled_from(["", "a", "a/b"]),
)
def test_images_are_found_by_path_then_by_its_ending_then_without_the_extension(paths, name, folder):
    paths = sorted(paths)
    wanted = posixpath.normpath(name).lstrip("/")
    exact = [path for path in (wanted, posixpath.normpath(posixpath.join(folder, wanted))) if path in paths]
    whole = [path for path in paths if f"/{path}".endswith(f"/{wanted}")]
    stems = [path for path in paths if f"/{posixpath.splitext(path)[0]}".endswith(f"/{wanted}")]
    assert _Images("set", paths).find(name, folder) == (exact[:1] or whole or stems)


def test_images_with_one_name_in_many_folders_are_found_in_a_moment():
    paths = [f"data/train/patient{number:05}/study1/frontal.jpg" for number in range(40_000)]
    images = _Images("set", paths)
    start = time.process_time()
    for path in paths:
        assert images.find(path, "") == images.find(path.removeprefix("data/"), "") == [path]
        assert images.find(path.removeprefix("data/").removesuffix(".jpg"), "") == [path]
    assert time.process_time() - start < 20


class TestFormats:
    @pytest.mark.parametrize(
        "text",
        [
            CSV,
            CSV.replace("path,label", "image_id,class"),
            CSV.replace("path,label", "id,breed"),
            CSV.replace("path,label", "image,choice").replace("\n", ",x\n"),
            "\ufeff" + CSV.replace("\n", "\r\n"),
            CSV.replace(",", ";"),
            CSV.replace(",", "\t"),
            CSV.removeprefix("path,label\n"),
            CSV.removeprefix("path,label\n").replace(",", " "),
            CSV.removeprefix("path,label\n").replace(",", ", "),
            CSV.replace("photos/", ""),
            CSV.replace("photos/", "./photos/"),
            CSV.replace("photos/", "photos\\"),
            CSV.replace(".jpg", ""),
            CSV.replace("\n", ",x\n"),
        ],
    )
    def test_are_read(self, text):
        assert described(read(text)) == EXPECTED

    @pytest.mark.parametrize("label", ["label", "Class", "category", "target"])
    def test_without_a_header_the_first_class_may_have_the_name_of_a_column(self, label):
        source = read(CSV.removeprefix("path,label\n").replace("cat", label))
        assert described(source)["photos/a.jpg"] == (None, label, None)

    def test_a_header_is_none_of_an_image_of_that_name(self):
        text = "a,label\nphotos/a.jpg,cat\nphotos/b.jpg,dog\nphotos/c.jpg,cat\nphotos/d.jpg,dog\n"
        assert described(read(text)) == EXPECTED

    def test_separators_in_a_column_after_those_that_are_read_do_no_harm(self):
        noted = CSV.replace("\n", ",dark\n").replace("label,dark", "label,notes").replace("dog,dark", "dog,dark, wet")
        assert described(read(noted)) == EXPECTED

    def test_a_class_with_a_comma_is_in_quotes(self):
        assert described(read(CSV.replace("cat", '"rice, fried"')))["photos/a.jpg"] == (None, "rice, fried", None)

    def test_classes_that_have_names_but_no_images_are_named(self, capsys):
        read(CSV, classes=("cat", "dog", "eel"))
        assert "warning: set: no training images of eel; they can never be predicted" in capsys.readouterr().out

    def test_splits_and_groups_are_columns(self):
        text = "path,label,split,group\na,cat,train,x\nb,dog,Training,y\nc,cat,val,\nd,dog,test,z\n"
        assert described(read(text)) == {
            "photos/a.jpg": ("train", "cat", "x"),
            "photos/b.jpg": ("train", "dog", "y"),
            "photos/c.jpg": ("valid", "cat", None),
            "photos/d.jpg": ("test", "dog", "z"),
        }

    def test_each_split_can_have_its_own_file(self):
        source = read("", train="photos/a.jpg 3\nphotos/b.jpg 11\n", test="photos/c.jpg 11\n")
        assert source.classes == ("3", "11")
        assert described(source)["photos/c.jpg"] == ("test", "11", None)
        assert source.left_out == {"photos/d.jpg": "not in data.labels"}

    @pytest.mark.parametrize("split", ["test", "Testing"])
    def test_a_table_for_one_split_may_repeat_it_in_a_column(self, split):
        source = read("", train=CSV, test=f"path,label,split\nx.jpg,cat,{split}\ny.jpg,dog,\n", images=SIX)
        assert [described(source)[f"photos/{name}.jpg"][0] for name in "axy"] == ["train", "test", "test"]

    @pytest.mark.parametrize("folder", ["", "cifar/"])
    def test_names_that_train_and_test_share_mean_those_in_the_folder_of_their_split(self, folder):
        images = {f"{folder}{split}/{name}.png": b"" for split in ("train", "test") for name in "12"}
        source = read("", images, train="id,label\n1,cat\n2,dog\n", test="id,label\n1,cat\n2,cat\n")
        assert {path: found[:2] for path, found in described(source).items()} == {
            **{f"{folder}train/{name}.png": ("train", label) for name, label in (("1", "cat"), ("2", "dog"))},
            **{f"{folder}test/{name}.png": ("test", None) for name in "12"},
        }

    @pytest.mark.parametrize("label", ["cat", "0"])
    def test_one_label_in_all_rows_of_test_says_nothing_about_their_class(self, capsys, label):
        source = read("", train="photos/a cat\nphotos/b dog\n", test=f"photos/c {label}\nphotos/d {label}\n")
        assert described(source) == {
            **{f"photos/{name}.jpg": ("train", kind, None) for name, kind in (("a", "cat"), ("b", "dog"))},
            **{f"photos/{name}.jpg": ("test", None, None) for name in "cd"},
        }
        said = capsys.readouterr().out
        assert f"test is taken as unlabelled: all its 2 images have the label '{label}'; to evaluate on it, add" in said

    def test_two_labels_in_the_rows_of_test_are_kept_without_a_word(self, capsys):
        source = read("", train="photos/a.jpg cat\nphotos/b.jpg dog\n", test="photos/c.jpg cat\nphotos/d.jpg dog\n")
        assert [label for _, label, _ in described(source).values()] == ["cat", "dog"] * 2
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        "table",
        [
            "image_id\nc.jpg\nd.jpg\n",
            "id\nc\nd\n",
            "id,label\nc,\nd,\n",
            ",id\n0,c\n1,d\n",
            "id,width,height\nc,9,9\nd,8,8\n",
            "photos/c.jpg \nphotos/d.jpg\n",
        ],
    )
    def test_a_table_of_test_needs_only_paths(self, table):
        source = read("", train="photos/a.jpg cat\nphotos/b.jpg dog\n", test=table)
        assert {path: found for path, found in described(source).items() if path[-5] in "cd"} == {
            f"photos/{name}.jpg": ("test", None, None) for name in "cd"
        }

    def test_paths_alone_may_have_spaces(self):
        images = IMAGES | {"photos/my photo 1.jpg": b""}
        source = read("", images, train="photos/a.jpg cat\nphotos/b.jpg dog\n", test="path\nmy photo 1.jpg\n")
        assert described(source)["photos/my photo 1.jpg"] == ("test", None, None)

    def test_the_columns_are_named_with_those_that_are_not_used(self, capsys):
        read(CSV.replace("path,label", "path,label,weight").replace("\n", ",1\n").replace("weight,1", "weight"))
        assert "labels.csv: path from path, class from label; not used: weight" in capsys.readouterr().out

    def test_an_index_that_pandas_wrote_is_named_as_a_column_without_a_name(self, capsys):
        assert described(read(CSV.replace("path,label", ",path,label").replace("photos", "0,photos"))) == EXPECTED
        assert "path from path, class from label; not used: a column without a name\n" in capsys.readouterr().out

    def test_a_table_of_the_repository_is_found(self, workspace):
        (workspace / "mine.csv").write_text(CSV)
        assert described(read_labels("set", tree_of(IMAGES), "mine.csv", None)) == EXPECTED

    def test_folders_of_splits_count_if_all_images_are_in_one(self):
        images = {f"{split}/{name}.jpg": b"" for split in ("train", "test") for name in ("a", "b")}
        text = "path,label\n" + "".join(f"{path},{'cat' if 'a' in path[-5:] else 'dog'}\n" for path in images)
        assert {path: split for path, (split, *_) in described(read(text, images)).items()} == {
            path: path.split("/")[0] for path in images
        }

    def test_images_of_a_test_folder_that_no_table_lists_are_unlabelled(self):
        source = read(CSV, IMAGES | {"test/1.jpg": b"", "other/2.jpg": b"", "unlabeled/3.jpg": b""})
        assert described(source)["test/1.jpg"] == ("test", None, None)
        assert described(source)["unlabeled/3.jpg"] == ("unlabelled", None, None)
        assert source.left_out == {"other/2.jpg": "not in data.labels"}

    @pytest.mark.parametrize("folder", ["test_images", "x/Test1", "images-test"])
    def test_the_reason_for_what_may_be_test_images_says_how_to_predict_them(self, folder):
        reason = (
            "not in data.labels (to predict them as the test split, rename their folder to test, or list them in "
            "data.labels: {train: ..., test: ...})"
        )
        images = IMAGES | {f"{folder}/1.jpg": b"", "other/2.jpg": b""}
        assert read(CSV, images).left_out == {f"{folder}/1.jpg": reason, "other/2.jpg": "not in data.labels"}
        # Both ways are as they say.
        renamed = IMAGES | {f"{folder.rpartition('/')[0]}/test/1.jpg".lstrip("/"): b""}
        for source in (read(CSV, renamed), read("", images, train=CSV, test=f"path\n{folder}/1.jpg\n")):
            assert [image.label for image in source.images if image.split == "test"] == [None]
        # With a test split there is nothing to say.
        assert set(read(CSV, images | {"test/3.jpg": b""}).left_out.values()) == {"not in data.labels"}

    def test_classes_txt_names_numbers(self):
        text = CSV.replace("cat", "1").replace("dog", "0")
        assert described(read(text, IMAGES | {"classes.txt": b"dog\ncat\n"})) == EXPECTED

    def test_names_that_differ_only_in_case_and_missing_values_are_named(self, capsys):
        read(CSV.replace("c.jpg,cat", "c.jpg,Cat").replace("d.jpg,dog", "d.jpg,nan"))
        said = capsys.readouterr().out
        assert "warning: set: classes whose names differ only in case, spaces, _ or -: Cat and cat; if they" in said
        assert "warning: set: the class nan has the name of a missing value; if its images have no label" in said


def test_a_path_may_lead_out_of_the_folder_of_the_table():
    tree = tree_of(IMAGES | {"lists/labels.csv": CSV.replace("photos/", "../photos/").encode()})
    assert described(read_labels("set", tree, "lists/labels.csv", None)) == EXPECTED


SEVERAL = "line 6: 'x.jpg' is not in the source set (likewise 4 more rows: 'y.jpg', 'z.jpg', 'u' and 1 more); correct "


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "labels.csv is empty"),
            ("x,y\nz,w\n", "labels.csv begins with 'x,y'; allowed is a header with path and label"),
            (CSV + "x.jpg,cat\n", "line 6: 'x.jpg' is not in the source set"),
            (CSV + "photos/a.jpg,dog\n", "line 6: photos/a.jpg is 'dog' in no split here, but 'cat' in no split at "),
            (CSV.replace("b.jpg,dog", "b.jpg,"), "line 3: has no class"),
            (CSV + ",cat\n", "line 6: has no path"),
            ("path\na.jpg\n", "labels.csv begins with 'path'; allowed is a header with path and label"),
            (",path\n0,a.jpg\n", "labels.csv begins with ',path'; allowed is a header with path and label"),
            ("a.jpg\nb.jpg\n", "needs only paths"),
            (CSV.replace("dog", "cat"), "data.labels: names one class (cat)"),
            ("path,label,split\na,cat,train\nb,dog,train\nc,eel,valid\n", "of the class 'eel', which has no training"),
            ("path,label,split\na,cat,train\nb,dog,\n", "line 3: has no split, but other rows have one"),
            ("path,label,split\na,cat,valid\nb,dog,test\n", "has rows for test, valid, but none for train"),
            ("path,label,split\na,cat,train\nb,dog,holdout\n", "line 3: got the split 'holdout', allowed are train, "),
            (
                CSV.replace("dog", '"do\ng"'),
                r"line 4: got 'do\ng', allowed are up to 500 printable characters on one line",
            ),
            (CSV.replace("dog", "\x1b[31mdog"), r"line 3: got '\x1b[31mdog', allowed are up to 500 printable"),
            (CSV.replace("a.jpg", "a.jpg\0"), r"line 2: got 'photos/a.jpg\x00', allowed are up to 500 printable"),
            (CSV.replace("dog", "x" * 200_000), "line 3: field larger than field limit (131072); correct it"),
            (CSV.replace("cat", "rice, fried"), "line 2: has 3 values, but the first line has 2; put a value that"),
            (CSV.removeprefix("path,label\n").replace("dog", "soup,hot"), "line 2: has 3 values, but the first line"),
            (CSV + "x.jpg,cat\ny.jpg,dog\nz.jpg,dog\nu,dog\nv,dog\n", SEVERAL),
            (CSV.replace("photos/b", '"photos/b') + "x,y\n" * 50_000, "field larger than field limit (131072)"),
        ],
    )
    def test_what_a_table_lacks(self, text, says):
        assert says in complaint(text)

    def test_a_name_that_two_images_have(self):
        message = complaint("path,label\n1.jpg,cat\n", {"x/1.jpg": b"", "y/1.jpg": b""})
        assert "'1.jpg' can be x/1.jpg, y/1.jpg in set; write the path in the source" in message

    def test_a_name_that_an_image_of_train_and_one_of_test_have(self):
        images = {f"{split}/{name}.png": b"" for split in ("train", "test") for name in "12"}
        message = complaint("id,label\n1,cat\n2,dog\n", images)
        assert "line 2: '1' can be test/1.png, train/1.png in set (likewise 1 more rows: '2'); write the " in message
        assert message.endswith(", or name a table for each split: {train: ..., test: ...}")

    def test_a_row_of_another_split_than_its_table(self):
        message = complaint("", train="path,label,split\na,cat,train\nb,dog,train\nc,cat,val\n", test="path\nd\n")
        assert message == (
            "data.labels: train.txt, line 4: is of the split valid, but data.labels lists the file for train; move "
            "the row to the table of its split, or set data.labels to train.txt alone"
        )

    def test_a_file_that_is_no_table(self):
        images = IMAGES | {"labels.xlsx": b"PK\3\4"}
        with pytest.raises(PipelineError, match=r"labels.xlsx in set is no table \(a zip archive\); allowed are files"):
            read_labels("set", tree_of(images), "labels.xlsx", None)

    def test_a_missing_table(self):
        with pytest.raises(PipelineError, match=r"data\.labels: there is no file no\.csv in set or in the repository"):
            read_labels("set", tree_of(IMAGES), "no.csv", None)

    def test_an_image_that_was_left_out_is_said_to_be_none(self):
        assert "'v.mp4' is no image (a video) in set" in complaint(
            CSV + "v.mp4,cat\n", IMAGES | {"v.mp4": b"\0\0\0\x18ftypmp42"}
        )

    def test_a_class_that_data_classes_does_not_name(self):
        assert "the folder or class dog is none of the named classes" in complaint(CSV, classes=("cat", "eel"))

    def test_numbers_whose_names_data_classes_and_classes_txt_order_differently(self):
        text = CSV.replace("cat", "1").replace("dog", "0")
        message = complaint(text, IMAGES | {"classes.txt": b"dog\ncat\n"}, classes=("cat", "dog"))
        assert message.startswith("data.classes: orders the classes cat, dog, but classes.txt in set orders them dog, ")

    @pytest.mark.parametrize("label", ["²", "9" * 400, "٣"])
    def test_what_only_looks_like_the_number_of_a_class(self, label):
        text = CSV.replace("dog", label)
        assert label in read(text).classes
        assert " is none of the named classes (cat, dog)" in complaint(text, classes=("cat", "dog"))

    @pytest.mark.parametrize("name", ["labels.csv", "classes.txt"])
    def test_a_file_of_any_size_is_not_read(self, workspace, name):
        write_photos(workspace / "set", 4)
        (workspace / "set" / name).touch()
        os.truncate(workspace / "set" / name, 2**30)
        with pytest.raises(PipelineError, match=rf"^set: {name}: 1,073,741,824 bytes, allowed are "):
            read_labels("set", folder_tree(Path("set")), "labels.csv", None)
