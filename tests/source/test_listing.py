"""Which files of a source are listed, and when their content is read again."""

import os
from pathlib import Path

import pytest

from pipeline.source import listing
from pipeline.source.listing import (
    Entry,
    differences,
    find_source,
    list_files,
    list_source,
    problem_of,
    recall,
    summary,
)

# Long before the listing, so that the files' times are settled.
PAST = 1_600_000_000


@pytest.fixture
def folder(workspace):
    """The folder ``pictures`` with two files, in a DVC repository."""
    (workspace / ".dvc").mkdir()
    write("cat/1.png", b"one")
    write("dog/2.png", b"two")
    return workspace / "pictures"


def write(path: str, content: bytes) -> None:
    file = Path("pictures", path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (PAST, PAST))


def paths() -> set[str]:
    return set(list_files(find_source("folder", "pictures", None)))


def current() -> dict:
    source = find_source("folder", "pictures", None)
    return summary(source, list_source(source, recall(source)))


def test_a_change_of_a_name_or_of_a_content_changes_the_summary_and_a_change_back_restores_it(folder):
    first = current()
    assert (first["files"], first["bytes"]) == (2, 6)
    write("cat/3.png", b"three")
    assert current()["files"] == 3
    (folder / "cat/3.png").unlink()
    assert current() == first
    (folder / "cat/1.png").rename(folder / "dog/1.png")
    assert current()["sha256"] != first["sha256"]
    (folder / "dog/1.png").rename(folder / "cat/1.png")
    assert current() == first


def test_new_times_and_another_place_change_nothing(folder):
    first = current()
    (folder / "cat/1.png").touch()
    assert current() == first
    folder.rename("moved")
    moved = find_source("folder", "moved", None)
    assert summary(moved, list_source(moved, {})) == first


def test_a_replacement_of_the_same_size_and_time_is_noticed(folder):
    first = current()
    write("cat/1.png", b"eno")
    assert current() == {**first, "sha256": current()["sha256"]} != first


def test_a_change_within_the_tick_of_the_clock_is_noticed(folder, monkeypatch):
    """Both changes have the same times, as on a file system with coarse times."""
    first = current()
    source = find_source("folder", "pictures", None)
    before = list_files(source)
    write("cat/1.png", b"eno")
    monkeypatch.setattr(listing, "list_files", lambda source: before)
    assert summary(source, list_source(source, recall(source))) != first


def test_only_files_that_changed_are_read_again(folder, monkeypatch):
    monkeypatch.setattr(listing, "TICK", -(10**12))  # as if the listing were much later
    current()
    read: list[str] = []
    monkeypatch.setattr(listing, "file_sha256", lambda path: read.append(path.name) or "0")
    write("dog/2.png", b"new")
    current()
    assert read == ["2.png"]


def test_hidden_files_and_those_of_operating_systems_are_left_out(folder):
    for name in (".git/x.png", "cat/.hidden.png", "cat/Thumbs.db", "__MACOSX/1.png"):
        write(name, b"x")
    assert paths() == {"cat/1.png", "dog/2.png"}


def test_links_are_followed_but_not_those_to_a_folder_that_contains_them(folder):
    (folder / "cat/link.png").symlink_to("1.png")
    (folder / "dogs").symlink_to("dog")
    (folder / "cat/loop").symlink_to(folder)
    assert paths() == {"cat/1.png", "cat/link.png", "dog/2.png", "dogs/2.png"}
    first = current()
    write("cat/1.png", b"changed")
    assert current()["sha256"] != first["sha256"]


def test_a_broken_link_counts_by_its_name_and_a_pipe_is_not_opened(folder):
    (folder / "cat/gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "cat/pipe")
    first = current()
    assert first["files"] == 4
    (folder / "cat/gone.png").unlink()
    assert current()["sha256"] != first["sha256"]


def test_names_that_are_not_utf_8_are_remembered(folder):
    Path(os.fsdecode(b"pictures/cat/caf\xe9.png")).write_bytes(b"x")
    first = current()
    assert first["files"] == 3
    assert os.fsdecode(b"cat/caf\xe9.png") in recall(find_source("folder", "pictures", None))
    assert current() == first


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_what_cannot_be_read_is_listed_as_such(folder):
    first = current()
    (folder / "dog").chmod(0)
    (folder / "cat/1.png").chmod(0)
    try:
        assert problem_of(find_source("folder", "pictures", None)) is None
        assert current()["sha256"] != first["sha256"]
        folder.chmod(0)
        assert "cannot be read" in problem_of(find_source("folder", "pictures", None))
    finally:
        for path in (folder, folder / "dog", folder / "cat/1.png"):
            path.chmod(0o755)
    assert current() == first


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": [1]}'])
def test_a_damaged_memory_is_none(folder, text):
    first = current()
    (memory,) = Path(".dvc/tmp/source").iterdir()
    memory.write_text(text)
    assert recall(find_source("folder", "pictures", None)) == {}
    assert current() == first


def test_an_archive_counts_by_its_content_and_a_url_by_nothing(workspace):
    Path("photos.zip").write_bytes(b"zip")
    source = find_source("archive", "photos.zip", None)
    content = summary(source, list_source(source, {}))
    assert (content["source"], content["files"], content["bytes"]) == ("archive", 1, 3)
    for kind, location in (("archive", "https://localhost/a.zip"), ("modelscope", "a/b"), ("digits", None)):
        source = find_source(kind, location, None)
        assert summary(source, list_source(source, {})) == {"source": kind}


def test_tables_of_labels_outside_the_folder_count_by_their_content(folder):
    Path("train.csv").write_text("path,label\n")
    (folder / "inside.csv").write_text("path,label\n")
    source = find_source("folder", "pictures", {"train": "train.csv", "test": "inside.csv"})
    assert source.labels == {"train": Path("train.csv")}
    first = summary(source, {})
    Path("train.csv").write_text("path,label\ncat/1.png,cat\n")
    assert summary(source, {})["labels"] != first["labels"]
    assert find_source("folder", "pictures", "train.csv").labels == {"all": Path("train.csv")}


def test_differences_are_counted_by_kind():
    before = {name: Entry(1, 1, 1, name) for name in "abc"}
    after = {name: Entry(1, 1, 2, name) for name in "bcde"} | {"c": Entry(1, 1, 1, "new")}
    assert differences(before, after) == "2 added, 1 removed, 1 changed"
    assert differences(before, before) == ""
