"""Files in a folder that can belong to a dataset, with their sizes; other than regular files are refused."""

import os

import pytest

from pipeline.download.trees import folder_tree
from pipeline.errors import PipelineError


def fill(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_contains_only_images_archives_and_texts(workspace):
    kept = {"train/0_a.JPG": b"1", "b.tar.gz": b"22", "c/classes.txt": b"333"}
    others = {"README.md": b"", ".net/x.jpg": b"", "train/.hidden.jpg": b""}
    fill(workspace, kept | others)
    tree = folder_tree(workspace)
    assert tree.sizes == {name: len(content) for name, content in kept.items()}
    assert tree.left_out.keys() == others.keys()
    assert {path: tree.read(path) for path in tree.sizes} == kept


def test_what_systems_and_version_control_create_is_not_even_listed_since_other_machines_do_not_have_it(workspace):
    fill(workspace, {"train/0_a.jpg": b"1"})
    first = folder_tree(workspace)
    names = ("train/Thumbs.db", "train/.DS_Store", "train/._0_a.jpg", "@eaDir/x.jpg", "__MACOSX/train/x.jpg", ".git/x")
    fill(workspace, dict.fromkeys(names, b"1"))
    assert (folder_tree(workspace).sizes, folder_tree(workspace).left_out) == (first.sizes, {})


def test_links_to_folders_are_followed_except_to_one_that_contains_the_link(workspace):
    fill(workspace, {"elsewhere/bird/1.jpg": b"1", "photos/cat/1.jpg": b"2", "photos/.git/x": b""})
    (workspace / "photos/bird").symlink_to("../elsewhere/bird")
    (workspace / "photos/cat/loop").symlink_to("..")
    tree = folder_tree(workspace / "photos")
    assert set(tree.sizes) == {"bird/1.jpg", "cat/1.jpg"}
    assert tree.left_out == {"cat/loop": "a link to a folder that contains it"}


def test_empty_folders_are_known(workspace):
    fill(workspace, {"cat/1.jpg": b"2", "dog/.DS_Store": b""})
    (workspace / "bird" / "small").mkdir(parents=True)
    assert folder_tree(workspace).empty == {"bird/small", "dog"}


def test_a_pipe_is_refused_without_waiting_for_it(workspace):
    fill(workspace, {"train/0_a.jpg": b"1"})
    os.mkfifo(workspace / "train/1_b.jpg")
    with pytest.raises(PipelineError, match=r"train/1_b\.jpg: is not a regular file; "):
        folder_tree(workspace)


def test_a_broken_link_is_an_error(workspace):
    (workspace / "0_a.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"0_a\.jpg"):
        folder_tree(workspace)


def test_a_broken_link_to_another_kind_of_file_does_not_matter(workspace):
    fill(workspace, {"0_a.jpg": b"1"})
    (workspace / "latest").symlink_to("nowhere")
    assert list(folder_tree(workspace).sizes) == ["0_a.jpg"]
