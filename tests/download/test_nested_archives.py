"""Archives in folders and in archives: which are opened, and that they are equal to the loose files."""

import io
import resource
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.download.archives import archive_tree, with_archives
from pipeline.download.layout import read_layout
from pipeline.errors import PipelineError
from tests.support.archives import packed
from tests.support.examples import examples
from tests.support.trees import tree_of

KINDS = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]
TRAIN = {f"train/{index % 2}_{index}.jpg": b"train %d" % index for index in range(4)}
VALID = {f"valid/{index % 2}_{index}.jpg": b"valid %d" % index for index in range(2)}
TEST = {f"test/000{index}.jpg": b"test %d" % index for index in range(2)}
PHOTOS = TRAIN | VALID | TEST


def without(folder, files):
    return {name.removeprefix(folder): content for name, content in files.items()}


def loose(files):
    """A tree of files in memory."""
    return tree_of(files)


@contextmanager
def archive_of(files, kind="zip"):
    """Open an archive and those in it, like data.source archive."""
    data = packed(files, kind)
    with archive_tree(io.BytesIO(data), len(data), "photos") as outer, with_archives(outer) as tree:
        yield tree


def opened(files):
    """The images and class names, including those in archives."""
    with with_archives(loose(files)) as tree:
        return {path: tree.read(path) for path in tree.sizes if tree.is_image(path) or path.endswith("classes.txt")}


def left_out(files):
    """The reason for each file that does not belong to the dataset."""
    with with_archives(loose(files)) as tree:
        assert not set(tree.sizes) & set(tree.left_out)
        return tree.left_out


def complaint(files):
    with pytest.raises(PipelineError) as error:
        opened(files)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture(autouse=True)
def run_in_workspace(workspace):
    """Temporary files are created in the test's own folder."""


class TestWhatIsOpened:
    @pytest.mark.parametrize("kind", KINDS)
    def test_an_archive_without_images_beside_it(self, kind):
        found = opened({"README.md": b"", f"sets/food.{kind}": packed(PHOTOS, kind)})
        assert found == {f"sets/food/{name}": content for name, content in PHOTOS.items()}

    @pytest.mark.parametrize("name", ["backup.zip", "photos.tar.gz", "old/train_old.zip"])
    def test_no_archive_beside_images(self, name):
        files = PHOTOS | {name: b"not even an archive"}
        assert opened(files) == PHOTOS
        assert left_out(files) == {name: "an archive outside the dataset"}

    def test_the_archive_of_a_split_beside_the_images_of_other_splits(self):
        assert opened(TRAIN | {"valid.zip": packed(VALID), "testing.tar": packed(without("test/", TEST), "tar")}) == (
            TRAIN | VALID | {f"testing/{name}": content for name, content in without("test/", TEST).items()}
        )

    @pytest.mark.parametrize("name", ["train.zip", "training.zip", "Train.ZIP"])
    def test_no_archive_of_a_split_beside_its_folder(self, name):
        assert opened(PHOTOS | {name: b"not even an archive"}) == PHOTOS

    def test_no_other_archive_beside_the_archives_of_the_splits(self):
        files = {"train.zip": packed(TRAIN), "valid.zip": packed(VALID), "results.zip": b"no archive"}
        assert opened(files) == TRAIN | VALID
        assert left_out(files) == {"results.zip": "an archive outside the dataset"}

    @pytest.mark.parametrize("picture", ["cover.png", "assets/a.png", "docs/figures/1.jpg"])
    def test_an_archive_beside_the_pictures_of_a_readme_which_are_left_out(self, picture):
        files = {"README.md": b"", picture: b"x", "food.zip": packed(PHOTOS)}
        assert opened(files) == {f"food/{name}": content for name, content in PHOTOS.items()}
        assert left_out(files) == {"README.md": "not an image", picture: "a picture outside the dataset"}

    def test_what_archives_contain_beside_images_is_left_out_at_its_place(self):
        inner = TRAIN | {"train/a.mp4": b"\0\0\0\x18ftypmp42", "train/.x.jpg": b""}
        assert left_out({"hw3/train.zip": packed(inner), "hw3/valid.tar": packed(VALID, "tar")}) == {
            "hw3/train/a.mp4": "a video",
            "hw3/train/.x.jpg": "hidden, since a name begins with a dot",
        }

    def test_no_archive_beside_as_many_pictures_as_a_dataset_has(self):
        pictures = {f"docs/{label}/{index}.jpg": b"x" for label in ("bill", "letter") for index in range(20)}
        assert opened(pictures | {"old.zip": packed(PHOTOS)}) == pictures

    def test_each_of_several_archives(self):
        files = {"cat.zip": packed({"1.jpg": b"a"}), "dog.tar": packed({"dog/1.jpg": b"b"}, "tar")}
        assert opened(files) == {"cat/1.jpg": b"a", "dog/1.jpg": b"b"}

    def test_an_archive_without_images_adds_none(self):
        assert opened({"code.zip": packed({"main.py": b"x"}), "food.zip": packed(TRAIN)}) == {
            f"food/{name}": content for name, content in TRAIN.items()
        }

    def test_junk_is_not_opened(self):
        with archive_of({"__MACOSX/._food.zip": b"x", "food.zip": packed(TRAIN)}) as tree:
            assert set(tree.sizes) == {f"food/{name}" for name in TRAIN}


class TestFolders:
    @pytest.mark.parametrize(
        "inner",
        [
            without("train/", TRAIN),
            TRAIN,
            {f"food11/{name}": content for name, content in TRAIN.items()},
            {name.replace("train/", "a/b/training/"): content for name, content in TRAIN.items()},
            TRAIN | {"notes.txt": b"", "__MACOSX/train/._0_0.jpg": b""},
        ],
    )
    def test_with_the_name_of_the_archive_are_not_repeated(self, inner):
        assert opened({"hw3/train.zip": packed(inner), "hw3/valid.zip": packed(VALID)}) == {
            f"hw3/{name}": content for name, content in (TRAIN | VALID).items()
        }

    def test_of_classes_are_kept(self):
        inner = {"cat/1.jpg": b"a", "dog/1.jpg": b"b"}
        assert opened({"pets.zip": packed(inner)}) == {f"pets/{name}": content for name, content in inner.items()}

    def test_classes_txt_is_kept(self):
        assert "food/classes.txt" in opened({"food.zip": packed(PHOTOS | {"classes.txt": b"a\nb"})})


class TestTwice:
    def test_with_the_same_size_counts_once(self):
        files = {"train.zip": packed(TRAIN), "train.tar": packed(TRAIN, "tar"), "valid.zip": packed(VALID)}
        assert opened(files) == TRAIN | VALID

    def test_with_another_size_is_refused(self):
        other = TRAIN | {"train/0_0.jpg": b"something else"}
        assert complaint({"train.zip": packed(TRAIN), "train.tar": packed(other, "tar")}) == (
            "photos: train/0_0.jpg has 14 bytes in photos/train.tar and 7 bytes in photos/train.zip; "
            "remove the wrong one"
        )

    def test_beside_the_loose_file_counts_once(self):
        files = {"train.zip": packed(TRAIN | {"train/classes.txt": b"a\nb"}), "train/classes.txt": b"a\nb"}
        assert opened(files) == TRAIN | {"train/classes.txt": b"a\nb"}


def test_there_can_be_more_archives_than_the_limit_of_open_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        with archive_of({f"{name:03}.zip": packed({"1.jpg": b"%d" % name}) for name in range(100)}) as tree:
            assert sorted(tree.read(path) for path in tree.sizes) == sorted(b"%d" % name for name in range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class TestDepth:
    @staticmethod
    def wrapped(times):
        files = {"food.zip": packed(PHOTOS)}
        for _ in range(times):
            files = {"food.zip": packed(files)}
        return files

    def test_of_three_is_opened(self):
        assert list(opened(self.wrapped(2)).values()) == list(PHOTOS.values())

    def test_of_more_is_refused(self):
        assert "food.zip is more than 3 archives deep; " in complaint(self.wrapped(3))


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"<html><title>404</title></html>", "photos/a/train.zip is a web page (HTML), titled '404', and neither"),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                "photos/a/train.zip is a Git LFS pointer, not the file",
            ),
            (packed(TRAIN)[:-30], "photos/a/train.zip is damaged ("),
            (packed({"../x.jpg": b""}), "photos/a/train.zip: the member '../x.jpg' leads out of its folder by ..; "),
        ],
        ids=["page", "pointer", "cut", "evil"],
    )
    def test_message_names_the_path(self, content, says):
        assert complaint({"a/train.zip": content}).startswith(says)

    def test_message_names_the_path_through_the_archives(self):
        assert complaint({"a.zip": packed({"b.tar": packed({"c.zip": b"x"}, "tar")})}).startswith(
            "photos/a.zip/b.tar/c.zip is neither"
        )


def test_the_temporary_file_has_no_name(workspace):
    with archive_of({"train.zip": packed(TRAIN), "valid.tar.gz": packed(VALID, "tar.gz")}) as tree:
        assert [path for path in workspace.rglob("*") if path.is_file()] == []
        assert sorted(tree.read(path) for path in tree.sizes) == sorted((TRAIN | VALID).values())


def described(tree):
    """The classes and images of a dataset, independent of their paths."""
    source = read_layout("photos", tree)
    return source.classes, sorted(
        (image.split or "", -1 if image.label is None else image.label, image.name, source.read(image.path))
        for image in source.images
    )


LABELS = {"prefixed": "{label}_{index}.jpg", "folders": "class{label}/{index}.jpg"}


@st.composite
def datasets(draw):
    """A dataset as loose files, and the same dataset in nested archives."""
    form = LABELS[draw(st.sampled_from(sorted(LABELS)))]
    splits = draw(st.sampled_from([["train", "valid", "test"], ["training", "val"], ["train", "testing"], [None]]))
    files, parts = {}, {}
    for split in splits:
        count = draw(st.integers(2, 4))
        names = [form.format(label=index % 2, index=index) for index in range(count)]
        parts[split] = {name: b"%r %d" % (split, index) for index, name in enumerate(names)}
        files |= {(f"{split}/" if split else "") + name: content for name, content in parts[split].items()}
    nested = {}
    for split, members in parts.items():
        loose_files = {(f"{split}/" if split else "") + name: content for name, content in members.items()}
        if split and draw(st.booleans()):
            folder = draw(st.sampled_from(["", f"{split}/", f"data/{split}/"]))
            kind = draw(st.sampled_from(KINDS))
            nested[f"{split}.{kind}"] = packed({folder + name: content for name, content in members.items()}, kind)
        else:
            nested |= loose_files
    deepest = 2 if any(name.endswith(tuple(KINDS)) for name in nested) else 3
    for _ in range(draw(st.integers(0, deepest))):
        folder = draw(st.sampled_from(["", "food/", "a/b/"]))
        kind = draw(st.sampled_from(KINDS))
        name = draw(st.sampled_from(["food", "hw3_data", "set 1"]))
        others = draw(st.sampled_from([{}, {"README.md": b"x"}, {"__MACOSX/._x.jpg": b"x"}, {"code.zip": packed({})}]))
        inner = {folder + path: content for path, content in nested.items()} | {"notes.txt": b""}
        nested = {f"{name}.{kind}": packed(inner, kind)} | others
    return files, nested


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datasets(), st.sampled_from(["loose", "zip", "tar", "tar.xz"]))
def test_nested_archives_are_equal_to_the_loose_files(sets, outermost):
    files, nested = sets
    if outermost == "loose":
        with with_archives(loose(nested)) as tree:
            assert described(tree) == described(loose(files))
    else:
        with archive_of(nested, outermost) as tree:
            assert described(tree) == described(loose(files))
