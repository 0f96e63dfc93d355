"""Both layouts are recognised from the paths alone, and others are refused."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.file_types import IMAGE_ENDINGS
from pipeline.download.layout import read_layout
from pipeline.errors import PipelineError
from tests.support.trees import tree_of

PREFIXED = ["0_a.jpg", "1_b.png", "1_c_d.jpeg"]
FOLDERS = ["cat/a.jpg", "dog/b.png", "dog/c_d.jpeg"]


def layout(paths, classes=None, text="", depth=None):
    """Read a layout; ``text`` is the content of classes.txt."""
    return read_layout("photos", tree_of({path: text.encode() for path in paths}), classes, depth)


def described(images):
    """Split, label and name of each image by its path."""
    return {image.path: (image.split, image.label, image.name) for image in images}


def complaint(paths, classes=None, text="", depth=None):
    """The one line with which a layout is refused."""
    with pytest.raises(PipelineError) as error:
        layout(paths, classes, text, depth)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("above", ["", "photos/", "set 1/food-11/"], ids=["not enclosed", "enclosed", "enclosed twice"])
class TestBothLayouts:
    def test_class_indices_before_the_underscore(self, above):
        source = layout([above + name for name in PREFIXED])
        assert source.classes == ("0", "1")
        assert described(source.images) == {
            f"{above}0_a.jpg": (None, 0, "a.jpg"),
            f"{above}1_b.png": (None, 1, "b.png"),
            f"{above}1_c_d.jpeg": (None, 1, "c_d.jpeg"),
        }

    def test_a_folder_for_each_class(self, above):
        source = layout([above + name for name in FOLDERS])
        assert source.classes == ("cat", "dog")
        assert described(source.images) == {
            f"{above}cat/a.jpg": (None, 0, "a.jpg"),
            f"{above}dog/b.png": (None, 1, "b.png"),
            f"{above}dog/c_d.jpeg": (None, 1, "c_d.jpeg"),
        }

    @pytest.mark.parametrize("names", [PREFIXED, FOLDERS], ids=["prefixed", "folders"])
    def test_each_split_has_a_folder(self, above, names):
        source = layout([f"{above}{split}/{name}" for split in ("train", "valid", "test") for name in names])
        assert [(image.split, image.label) for image in source.images] == [
            (split, label) for split in ("test", "train", "valid") for label in (0, 1, 1)
        ]


@pytest.mark.parametrize("names", [PREFIXED, FOLDERS], ids=["prefixed", "folders"])
@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("training", "train"),
        ("Train", "train"),
        ("val", "valid"),
        ("valid", "valid"),
        ("validation", "valid"),
        ("VAL", "valid"),
        ("test", "test"),
        ("testing", "test"),
        ("evaluation", "test"),
    ],
)
def test_other_names_of_the_splits_are_known(folder, split, names):
    train = [] if split == "train" else [f"train/{name}" for name in names]
    source = layout([*train, *(f"{folder}/{name}" for name in names)])
    assert {image.split for image in source.images if image.path.startswith(f"{folder}/")} == {split}


def test_folders_below_a_class_are_joined_into_the_name():
    source = layout(["cat/a/1.jpg", "cat/b/1.jpg", "dog/1.jpg"])
    assert [image.name for image in source.images] == ["a__1.jpg", "b__1.jpg", "1.jpg"]


@pytest.mark.parametrize("name", ["a.JPG", "a.Jpeg", "a.PNG", "a.bmp", "a.webp", "a.gif", "a.tif", "a.TIFF"])
def test_every_usual_ending_is_an_image(name):
    assert described(layout([f"cat/{name}", "dog/b.jpg"]).images)[f"cat/{name}"] == (None, 0, name)


def test_folders_with_numbers_for_names_are_sorted_as_numbers():
    assert layout(["10/a.jpg", "9/a.jpg", "2/a.jpg"]).classes == ("2", "9", "10")


class TestClassNames:
    @pytest.mark.parametrize("paths", [["0_a.jpg", "1_b.jpg"], ["0/a.jpg", "1/b.jpg"], ["01/b.jpg", "0/a.jpg"]])
    def test_classes_txt_names_the_indices(self, paths):
        source = layout([*paths, "classes.txt"], text="pear\napple\n")
        assert source.classes == ("pear", "apple")
        assert {image.label for image in source.images} == {0, 1}

    def test_classes_txt_orders_the_folders(self):
        source = layout(["apple/a.jpg", "pear/b.jpg", "classes.txt"], text="pear\nkiwi\napple\n")
        assert source.classes == ("pear", "kiwi", "apple")
        assert [image.label for image in source.images] == [2, 0]

    def test_classes_txt_may_have_blank_lines_windows_line_ends_and_a_byte_order_mark(self):
        text = "\ufeffpear \r\n\r\napple\r\n"
        assert layout(["0_a.jpg", "1_b.jpg", "classes.txt"], text=text).classes == ("pear", "apple")

    def test_an_empty_classes_txt_names_nothing(self):
        assert layout(["cat/a.jpg", "dog/b.jpg", "classes.txt"], text="\n").classes == ("cat", "dog")

    def test_the_outermost_classes_txt_counts(self):
        texts = {"set/classes.txt": b"pear\napple", "set/train/classes.txt": b"x\ny", "set/a/b/classes.txt": b"u\nv"}
        source = read_layout("photos", tree_of({"set/train/0_a.jpg": b"", "set/train/1_b.jpg": b""} | texts))
        assert source.classes == ("pear", "apple")

    def test_data_classes_takes_precedence_over_classes_txt(self):
        source = layout(["cat/a.jpg", "dog/b.jpg", "classes.txt"], ("dog", "cat"), text="cat\ndog\n")
        assert source.classes == ("dog", "cat")
        assert [image.label for image in source.images] == [1, 0]

    def test_classes_txt_of_another_encoding_is_refused(self):
        with pytest.raises(PipelineError, match=r"^classes\.txt: not UTF-8 text; "):
            read_layout("photos", tree_of({"0_a.jpg": b"", "1_b.jpg": b"", "classes.txt": b"p\xeache\npomme"}))

    @pytest.mark.parametrize("paths", [["0_a.jpg", "1_b.jpg"], ["cat/a.jpg", "dog/b.jpg"]])
    def test_a_name_that_is_twice_in_classes_txt_is_refused(self, paths):
        assert "cat" in complaint([*paths, "classes.txt"], text="cat\ncat\ndog\n")

    def test_a_class_index_beyond_the_names_is_refused(self):
        message = complaint(["0_a.jpg", "2_b.jpg"], ("cat", "dog"))
        assert "2_b.jpg is of class 2, but 2 classes are named (0 to 1)" in message

    def test_a_folder_beyond_the_names_is_refused(self):
        message = complaint(["cat/a.jpg", "eel/b.jpg"], ("cat", "dog"))
        assert "the folder or class eel is none of the named classes (cat, dog)" in message

    def test_a_numbered_folder_beyond_the_names_is_refused(self):
        assert "the folder or class 2 is none of the named classes" in complaint(["0/a.jpg", "2/b.jpg"], ("cat", "dog"))

    @pytest.mark.parametrize("paths", [["202301_a.jpg", "202302_b.jpg"], ["train/0_a.jpg", "train/202301_b.jpg"]])
    def test_a_date_is_not_kept_for_a_class_index(self, paths):
        assert paths[-1] in complaint(paths)


class TestJunk:
    @pytest.mark.parametrize(
        "junk",
        [
            "__MACOSX/train/._0_a.jpg",
            "train/.DS_Store",
            "train/._0_a.jpg",
            ".ipynb_checkpoints/0_a-checkpoint.jpg",
            "train/Thumbs.db",
            "desktop.ini",
            "README.md",
            "labels/train.csv",
            "train/@eaDir/0_a.jpg/SYNOFILE_THUMB.jpg",
            "$RECYCLE.BIN/S-1-5/0_a.jpg",
            "System Volume Information/0_a.jpg",
            "train/.ipynb_checkpoints/0_a-checkpoint.jpg",
            "#recycle/0_a.jpg",
            "lost+found/0_a.jpg",
            ".git/0_a.jpg",
        ],
    )
    def test_files_created_by_operating_systems_change_nothing(self, junk):
        paths = [f"train/{name}" for name in PREFIXED]
        assert layout([*paths, junk]).images == layout(paths).images

    def test_junk_beside_an_enclosing_folder_changes_nothing(self):
        paths = [f"photos/{name}" for name in FOLDERS]
        assert layout([*paths, "__MACOSX/photos/cat/._a.jpg"]).images == layout(paths).images


class TestPicturesAroundTheSplits:
    SPLITS = tuple(f"hw3_data/{split}/{name}" for split in ("train", "valid") for name in PREFIXED)

    @pytest.mark.parametrize("above", ["", "LeeDL/", "a/b/"])
    @pytest.mark.parametrize("picture", ["cover.png", "assets/cover.png", "notebooks/plots/1.png", "x/cat/1.jpg"])
    def test_outside_are_left_out(self, above, picture):
        paths = [above + path for path in self.SPLITS]
        source = layout([*paths, above + picture, above + "README.md"])
        assert source.images == layout(paths).images
        assert source.left_out[above + picture] == "a picture outside the folders of the splits"

    @pytest.mark.parametrize("picture", ["cover.png", "assets/cover.png", "docs/figures/1.png"])
    def test_beside_the_splits_are_left_out_if_their_folder_is_one_of_a_readme(self, picture):
        paths = [path.removeprefix("hw3_data/") for path in self.SPLITS]
        source = layout([*paths, picture])
        assert source.images == layout(paths).images
        assert source.left_out == {picture: "a picture outside the folders of the splits"}

    def test_a_folder_beside_the_splits_that_may_be_a_misspelt_split_is_refused(self):
        assert "vaild is next to the folders of the splits" in complaint([*self.SPLITS, "hw3_data/vaild/0_a.jpg"])

    def test_as_many_pictures_as_a_dataset_has_are_refused(self):
        pictures = [f"hw3_data/assets/{index}.jpg" for index in range(21)]
        assert "assets is next to the folders of the splits" in complaint([*self.SPLITS, *pictures])

    def test_a_split_outside_is_refused(self):
        assert "hw3_data is next to the folders of the splits" in complaint([*self.SPLITS, "test/0001.jpg"])

    def test_a_class_may_have_the_name_of_a_folder_of_a_readme(self):
        paths = [f"{split}/{name}/1.jpg" for split in ("train", "valid") for name in ("docs", "assets")]
        assert len(layout(paths).images) == 4


class TestUnlabelledTestSplit:
    @pytest.mark.parametrize("names", [PREFIXED, FOLDERS], ids=["prefixed", "folders"])
    @pytest.mark.parametrize(
        ("path", "name"),
        [("test/0001.jpg", "0001.jpg"), ("test/all/0001.jpg", "0001.jpg")],
        ids=["flat", "nested"],
    )
    def test_images_without_a_class_are_unlabelled(self, names, path, name):
        source = layout([*(f"train/{image}" for image in names), path])
        assert described(source.images)[path] == ("test", None, name)
        assert len(source.classes) == 2

    def test_one_name_without_a_class_index_makes_the_whole_split_unlabelled(self):
        source = layout(["train/0_a.jpg", "train/1_b.jpg", "test/0_a.jpg", "test/b.jpg"])
        assert described(source.images)["test/0_a.jpg"] == ("test", None, "0_a.jpg")

    @pytest.mark.parametrize("stray", ["test/b.jpg", "test/eel/b.jpg"])
    def test_a_stray_image_in_a_labelled_test_split_is_refused(self, stray):
        message = complaint([*(f"train/{name}" for name in FOLDERS), "test/cat/a.jpg", stray])
        assert f"{stray} is in no folder of a training class (cat, dog)" in message

    @pytest.mark.parametrize(
        ("names", "says"),
        [(PREFIXED, "has no class index before an underscore"), (FOLDERS, "is in no folder of a class")],
        ids=["prefixed", "folders"],
    )
    def test_an_unlabelled_image_in_another_split_is_refused(self, names, says):
        paths = [f"{split}/{name}" for split in ("train", "valid") for name in names]
        assert f"valid/b.jpg {says}; " in complaint([*paths, "valid/b.jpg"])


class TestRefused:
    @pytest.mark.parametrize("paths", [[], ["readme.txt", "a/b.csv"], [".hidden/a.jpg"]])
    def test_no_images(self, paths):
        message = complaint(paths)
        assert f"photos: contains no images; allowed endings are {', '.join(sorted(IMAGE_ENDINGS))}" in message
        assert all(path in message for path in paths if not path.endswith((".txt", ".csv")))

    @pytest.mark.parametrize(
        ("paths", "classes", "name"),
        [
            (["cat/a.jpg", "cat/b.jpg"], None, "cat"),
            (["train/cat/a.jpg", "test/b.jpg"], None, "cat"),
            (["dog/a.jpg"], ("cat", "dog"), "dog"),
            (["3_a.jpg", "3_b.jpg"], None, "3"),
            (["1_a.jpg"], ("cat", "dog"), "dog"),
        ],
    )
    def test_one_class(self, paths, classes, name):
        assert f"photos: contains one class ({name}), needs two or more; " in complaint(paths, classes)

    def test_names_that_are_not_printable_are_counted(self):
        names = ["cat/a\nb.jpg", "cat/\u202egpj.exe.jpg", "dog/\udcff.jpg", "dog/a.jpg"]
        assert complaint(names[2:]).startswith(
            r"photos: the name 'dog/\udcff.jpg' is not printable UTF-8; allowed are "
        )
        assert r"photos: the name 'cat/a\nb.jpg' and those of 2 more files are not printable UTF-8; " in complaint(
            names
        )

    @pytest.mark.parametrize("stamp", ["20230101", "1672574400", "999999999999999999"])
    def test_a_date_in_all_names_is_refused_before_a_name_is_made_for_each_lower_index(self, stamp):
        tracemalloc.start()
        try:
            one = complaint([f"{stamp}_{number}.jpg" for number in range(5)])
            several = complaint(["0_a.jpg", f"{stamp}_1.jpg", f"{stamp}_2.jpg"])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert f"photos: contains one class ({stamp}), needs two or more; " in one
        assert f"photos: {stamp}_1.jpg would be of class {stamp}, but there are only 3 images; " in several
        assert most < 2**20

    @pytest.mark.parametrize("other", ["extra/a.jpg", "preview.jpg"])
    def test_other_files_beside_the_splits(self, other):
        message = complaint([*(f"train/{name}" for name in PREFIXED), other])
        assert f"{other.split('/')[0]} is next to the folders of the splits" in message

    def test_splits_without_train(self):
        assert "has folders for test, valid but none for train" in complaint(["valid/0_a.jpg", "test/1_b.jpg"])

    def test_an_image_without_a_class_index(self):
        assert "photos: b.jpg has no class index before an underscore" in complaint(["0_a.jpg", "b.jpg"])

    def test_images_beside_the_folders_of_the_classes(self):
        assert "photos: cat/a.jpg is in a folder and others next to it are not" in complaint(["cat/a.jpg", "0_b.jpg"])

    def test_a_stray_image_beside_the_folders_of_the_classes_is_named(self):
        assert complaint([f"{kind}/{name}.jpg" for kind in ("cat", "dog") for name in "ab"] + ["cover.jpg"]) == (
            "photos: cover.jpg is in no folder of a class, but 4 others are; move it into one, or away"
        )


PARTS = st.sampled_from(["train", "val", "Test", "evaluation", "cat", "dog", "0", "2", "set", "__MACOSX"])
NAMES = st.sampled_from(["0_a.jpg", "1_b.JPG", "2_a.png", "a.jpg", "b.png", "classes.txt", ".DS_Store", "notes.md"])
PATHS = st.builds(lambda folders, name: "/".join([*folders, name]), st.lists(PARTS, max_size=3), NAMES)
CLASSES = st.none() | st.sampled_from([("cat", "dog"), ("dog", "cat", "10", "eel")])


@st.composite
def datasets(draw):
    """The paths of a realistic dataset with two or more classes."""
    names, more = draw(
        st.sampled_from([(PREFIXED, ["0_x.JPG", "3_a.jpg"]), (FOLDERS, ["10/a.jpg", "cat/x/a.jpg", "eel/a.jpg"])])
    )
    above = draw(st.sampled_from(["", "set/", "set/1/"]))
    if draw(st.booleans()):
        return [above + name for name in names + draw(st.lists(st.sampled_from(more), unique=True))]
    paths = [f"training/{name}" for name in names]
    paths += draw(st.lists(st.sampled_from([f"val/{name}" for name in names + more]), unique=True))
    paths += draw(st.lists(st.sampled_from(["test/0001.jpg", "test/0_1.jpg"]), unique=True))
    return [above + path for path in [*paths, *draw(st.sampled_from([[], ["classes.txt"], ["notes.md"]]))]]


def outcome(paths, classes):
    """The classes and images, or the error message."""
    try:
        source = layout(paths, classes, text="dog\ncat\n")
    except PipelineError as error:
        return str(error)
    return source.classes, source.images


@settings(max_examples=200, deadline=None)
@given(
    st.lists(PATHS, unique=True, max_size=6) | datasets(),
    CLASSES,
    st.data(),
)
def test_the_order_of_the_paths_never_matters(paths, classes, data):
    assert outcome(data.draw(st.permutations(paths)), classes) == outcome(paths, classes)


@settings(max_examples=200, deadline=None)
@given(datasets() | st.lists(PATHS, unique=True, max_size=6), CLASSES)
def test_every_image_is_kept_and_its_label_is_below_the_number_of_classes(paths, classes):
    found = outcome(paths, classes)
    if isinstance(found, str):
        return
    names, images = found
    assert all(image.label is None or 0 <= image.label < len(names) for image in images)
    assert all(image.label is not None for image in images if image.split != "test")
    is_image = {path for path in paths if path.lower().endswith((".jpg", ".jpeg", ".png")) and "__MACOSX" not in path}
    kept = {image.path for image in images}
    assert kept <= is_image
    # Pictures around the one folder with train and another split are ignored; a split never is.
    splits = {"train", "val", "test", "training", "evaluation"}
    assert all(not splits & set(path.lower().split("/")[:-1]) for path in is_image - kept)
    assert kept == is_image or len({image.split for image in images}) > 1


class TestClassesAreThoseOfTheTrainingImages:
    @pytest.mark.parametrize("split", ["valid", "test"])
    def test_a_folder_of_another_class_is_refused(self, split):
        paths = ["train/Cat/1.jpg", "train/dog/1.jpg", f"{split}/cat/1.jpg", f"{split}/dog/1.jpg"]
        assert f"{split}/cat/1.jpg is in no folder of a training class (Cat, dog)" in complaint(paths)

    def test_an_index_that_train_lacks_is_refused_in_valid(self):
        message = complaint(["train/0_a.jpg", "train/1_b.jpg", "valid/2_c.jpg", "valid/0_d.jpg"])
        assert "valid/2_c.jpg would be of class 2, which train does not have" in message

    def test_test_images_with_running_numbers_are_unlabelled(self, capsys):
        source = layout([*PREFIXED_TRAIN, *(f"test/{index}_scan.png" for index in range(1, 41))])
        assert source.classes == ("0", "1", "2")
        assert {(image.label, image.name) for image in source.images if image.split == "test"} == {
            (None, f"{index}_scan.png") for index in range(1, 41)
        }
        assert "test is taken as unlabelled: test/10_scan.png would be of class 10" in capsys.readouterr().out

    def test_a_few_wrong_indices_in_a_labelled_test_split_are_refused(self):
        message = complaint([*PREFIXED_TRAIN, "test/0_a.png", "test/1_b.png", "test/7_c.png"])
        assert "test/7_c.png would be of class 7, which train does not have" in message

    def test_one_folder_for_all_test_images_says_nothing_about_their_class(self, capsys):
        train = [f"training/0{index}/{name}.jpg" for index in range(3) for name in "ab"]
        source = layout([*train, "testing/00/1.jpg", "testing/00/2.jpg"])
        assert {(image.label, image.name) for image in source.images if image.split == "test"} == {
            (None, "1.jpg"),
            (None, "2.jpg"),
        }
        assert "test is taken as unlabelled: all its images are in one folder, 00; " in capsys.readouterr().out

    def test_homework_3_of_2021_is_read_as_labelled_unlabelled_valid_and_test(self):
        paths = [f"f/training/labeled/0{index}/{name}.jpg" for index in range(3) for name in "ab"]
        paths += [f"f/validation/0{index}/1.jpg" for index in range(3)]
        paths += ["f/training/unlabeled/00/1.jpg", "f/training/unlabeled/00/2.jpg", "f/testing/00/1.jpg"]
        source = layout(paths)
        assert source.classes == ("00", "01", "02")
        assert [(image.split, image.label) for image in source.images if image.split != "train"] == [
            ("test", None),
            *[("unlabelled", None)] * 2,
            *(("valid", label) for label in range(3)),
        ]
        assert source.left_out == {}

    def test_a_folder_of_unlabelled_images_can_be_next_to_train(self):
        found = described(
            layout([*(f"train/{name}" for name in FOLDERS), "unlabeled/1.jpg", "Unlabelled/x/2.jpg"]).images
        )
        assert found["unlabeled/1.jpg"] == ("unlabelled", None, "1.jpg")
        assert found["Unlabelled/x/2.jpg"] == ("unlabelled", None, "2.jpg")
        assert [split for split, *_ in found.values()].count("train") == len(FOLDERS)

    def test_without_folders_of_splits_unlabeled_is_a_class_or_next_to_labeled(self):
        assert layout([*FOLDERS, "unlabeled/1.jpg"]).classes == ("cat", "dog", "unlabeled")
        source = layout([*(f"labeled/{name}" for name in FOLDERS), "unlabeled/1.jpg"])
        assert source.classes == ("cat", "dog")
        assert [(image.split, image.label) for image in source.images] == [
            *((None, n) for n in (0, 1, 1)),
            ("unlabelled", None),
        ]

    def test_classes_without_training_images_are_named(self, capsys):
        layout(["0_a.jpg", "2_b.jpg"], ("cat", "dog", "eel"))
        assert "warning: photos: no training images of dog; they can never be predicted" in capsys.readouterr().out

    def test_a_folder_of_a_split_without_images_is_refused(self):
        for files in (["test/notes.doc"], ["test/"], ["test/cat/.DS_Store", "test/x.doc"]):
            assert "photos: the folder test contains no images" in complaint([*FOLDERS, *files])

    def test_a_folder_without_images_is_named(self, capsys):
        assert layout([*FOLDERS, "bird/1.cr2", "fox/"]).classes == ("cat", "dog")
        assert "no images in the folders bird, fox, so they are no classes" in capsys.readouterr().out

    def test_classes_can_be_called_bus_car_and_train(self):
        assert layout(["bus/1.jpg", "car/1.jpg", "train/1.jpg"]).classes == ("bus", "car", "train")

    @pytest.mark.parametrize("others", [["test/b.jpg", "sample/c.jpg"], ["test1/b.jpg"], ["images/b.jpg"]])
    def test_train_and_test_without_labels_are_not_taken_for_classes(self, others):
        assert "put all of them into a folder train/" in complaint(["train/a.jpg", *others])

    def test_the_folders_of_the_splits_can_be_in_those_of_the_classes(self):
        source = layout(["cat/train/1.jpg", "cat/test/2.jpg", "dog/train/1.jpg", "dog/test/2.jpg"])
        assert source.classes == ("cat", "dog")
        assert [(image.split, image.label) for image in source.images] == [
            (split, label) for label in (0, 1) for split in ("test", "train")
        ]

    def test_other_folders_than_those_of_the_classes_are_named(self, capsys):
        source = layout(["train/00/1.jpg", "train/01/1.jpg", "test/0/1.jpg", "test/1/1.jpg"])
        assert [image.label for image in source.images if image.split == "test"] == [None, None]
        assert "test is taken as unlabelled: no class of train has the name 0, 1" in capsys.readouterr().out


PREFIXED_TRAIN = [f"train/{index % 3}_{index}.png" for index in range(60)]


class TestNamesThatContradictTheSource:
    @pytest.mark.parametrize("paths", [["0_a.jpg", "1_b.jpg"], ["cat/a.jpg", "dog/b.jpg"]])
    def test_other_classes_than_those_of_classes_txt_are_refused(self, paths):
        message = complaint([*paths, "classes.txt"], ("Bread", "Soup", "Rice"), text="cat\ndog\n")
        assert (
            "data.classes: names 3 classes (Bread, Soup, Rice), but classes.txt in photos names 2 (cat, dog)" in message
        )

    @pytest.mark.parametrize("paths", [["0_a.jpg", "1_b.jpg"], ["0/a.jpg", "01/b.jpg"]])
    def test_another_order_is_refused_where_it_would_rename_the_class_indices(self, paths):
        message = complaint([*paths, "classes.txt"], ("dog", "cat"), text="cat\ndog\n")
        assert "data.classes: orders the classes dog, cat, but classes.txt in photos orders them cat, dog" in message


class TestNamesThatMayBeMistakes:
    @pytest.mark.parametrize(
        "names", [["Apple_pie", "apple_pie"], ["apple pie", "apple-pie", "applepie"], ["1-1", "1_1"], ["Ä", "ä"]]
    )
    def test_names_that_differ_only_in_case_or_separators_are_named(self, capsys, names):
        assert set(layout([*(f"{name}/1.jpg" for name in names), "soup/1.jpg"]).classes) == {*names, "soup"}
        assert capsys.readouterr().out == (
            "download: warning: photos: classes whose names differ only in case, spaces, _ or -: "
            f"{' and '.join(names)}; if they are the same class, correct the table or rename the folder\n"
        )

    def test_all_such_names_are_in_one_line(self, capsys):
        layout([f"{name}/1.jpg" for name in ("A", "a", "B b", "b_b")])
        assert "spaces, _ or -: A and a, B b and b_b; if" in capsys.readouterr().out

    @pytest.mark.parametrize("names", [["-1", "1"], ["B", "B-", "B+"], ["1_10", "11_0", "110"], ["cat", "cats"]])
    def test_other_names_are_not(self, capsys, names):
        layout([f"{name}/1.jpg" for name in names])
        assert capsys.readouterr().out == ""

    def test_names_that_are_given_are_not(self, capsys):
        layout(["A/1.jpg", "a/1.jpg"], classes=("A", "a"))
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("name", ["nan", "NaN", "<NA>"])
    def test_a_missing_value_is_named(self, capsys, name):
        layout([f"{name}/1.jpg", "soup/1.jpg"])
        assert f"warning: photos: the class {name} has the name of a missing value; if its" in capsys.readouterr().out


NESTED = ["Fruit/Apple/Gala/1.jpg", "Fruit/Apple/Fuji/1.jpg", "Fruit/Kiwi/1.jpg", "Veg/Leek/1.jpg", "Veg/Kiwi/2.jpg"]


class TestClassDepth:
    def test_the_choices_are_listed_if_folders_are_in_folders(self):
        message = complaint([f"train/{path}" for path in NESTED])
        assert "data.class_depth: got null, but photos has folders in folders" in message
        assert "set it to 1 (2 classes: Fruit, Veg) or 2 (4 classes: Apple, Kiwi, Leek)" in message

    @pytest.mark.parametrize("above", ["", "set/", "train/", "set/train/"])
    def test_chooses_the_level_of_the_folders(self, above):
        paths = [above + path for path in NESTED]
        assert layout(paths, depth=1).classes == ("Fruit", "Veg")
        # Two folders with the same name are two classes.
        assert layout(paths, depth=2).classes == ("Apple", "Fruit/Kiwi", "Leek", "Veg/Kiwi")

    def test_an_image_that_is_not_as_deep_is_named(self):
        assert "Fruit/Kiwi/1.jpg in photos is 2 folders deep" in complaint(NESTED, depth=3)

    @pytest.mark.parametrize("above", ["", "set/train/"])
    def test_folders_in_only_some_of_the_folders_are_mentioned(self, capsys, above):
        folders = ["Sweet/pie", "Sweet/baklava", "Savoury/bibimbap", "Savoury/ramen"]
        paths = [f"{above}{folder}/1.jpg" for folder in folders]
        assert layout([*paths, f"{above}Other/1.jpg"]).classes == ("Other", "Savoury", "Sweet")
        assert (
            "photos: several folders of images are one class: Savoury (bibimbap, ramen), Sweet (baklava, pie); to make "
            "these folders the classes, set data.class_depth to 2, and move each image that is less deep, such as "
            f"{above}Other/1.jpg to {above}Other/Other/1.jpg\n"
        ) in capsys.readouterr().out
        moved = layout([*paths, f"{above}Other/Other/1.jpg"], depth=2)
        assert moved.classes == ("Other", "baklava", "bibimbap", "pie", "ramen")

    def test_one_folder_in_some_of_the_folders_is_not_mentioned(self, capsys):
        assert layout(["cat/1.jpg", "cat/more/2.jpg", "dog/1.jpg"]).classes == ("cat", "dog")
        assert layout(["cat/a/1.jpg", "cat/b/1.jpg", "dog/1.jpg"], depth=1).classes == ("cat", "dog")
        assert "class_depth to" not in capsys.readouterr().out

    def test_one_folder_that_all_classes_have_is_no_class(self):
        assert layout(["cat/images/1.jpg", "dog/images/1.jpg"]).classes == ("cat", "dog")


class TestImagesByTheirFirstBytes:
    JPEG = b"\xff\xd8\xff\xe0"

    def test_are_read_whatever_their_ending(self):
        files = {"cat/a": self.JPEG, "dog/b.dat": self.JPEG, "dog/c.xyz": b"?", "dog/d.nef": b"MM\0*"}
        source = read_layout("photos", tree_of(files))
        assert [image.path for image in source.images] == ["cat/a", "dog/b.dat"]
        assert source.left_out == {"dog/c.xyz": "not an image", "dog/d.nef": "a camera RAW file: convert it to JPEG"}


FOLDER_NAMES = PARTS | st.just(".net")
CONTENTS = st.sampled_from([b"", b"text", b"\xff\xd8\xff\xe0", b"\0\0\0\x18ftypmp42", b"%PDF-"])
ANY_FILES = st.sampled_from(
    ["0_a.jpg", "a.jfif", "b.heic", "1_c", "notes.txt", "x.doc", ".hid.jpg", "Thumbs.db", "v.mp4", "classes.txt"]
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.builds(
            lambda parts, name: "/".join([*parts, name]), st.lists(PARTS | st.just(".net"), max_size=3), ANY_FILES
        ),
        CONTENTS,
        max_size=8,
    ),
    st.none() | st.integers(1, 3),
)
def test_every_file_is_read_or_counted_as_left_out(files, depth):
    files = {"train/cat/1.jpg": b"", "train/dog/1.jpg": b""} | files
    try:
        source = read_layout("photos", tree_of(files), None, depth)
    except PipelineError:
        return
    read = {image.path for image in source.images}
    used = {path for path in files if path.endswith("classes.txt")} - source.left_out.keys()
    assert len(used) <= 1
    assert read | source.left_out.keys() | used == files.keys()
    assert len(read) + len(source.left_out) + len(used) == len(files)
