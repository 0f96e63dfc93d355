"""data/source.json, and how dvc repro notices images that were added, replaced or deleted."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.common.paths import LABEL_FILES, SOURCE
from pipeline.errors import PipelineError
from pipeline.source.listing import find_source, recall
from pipeline.source.stage import list_label_files, source
from tests.support.clones import SMALL, Clone, stages_run
from tests.support.sections import write_photos


def test_the_listing_is_written_only_when_it_changes(photos, capsys):
    (photos.parent / ".dvc").mkdir()
    count = sum(path.is_file() for path in photos.rglob("*"))
    source("folder", "photos", None)
    assert f"photos has {count} files, " in capsys.readouterr().out
    first = SOURCE.read_text(), SOURCE.stat().st_ino
    source("folder", "photos", None)
    assert capsys.readouterr().out.endswith(": unchanged\n")
    assert (SOURCE.read_text(), SOURCE.stat().st_ino) == first
    assert json.loads(first[0])["files"] == count
    (photos / "new.png").write_bytes(b"x")
    source("folder", "photos", None)
    assert capsys.readouterr().out.endswith(": 1 added\n")


def test_a_source_that_is_not_here_keeps_its_listing_and_says_so(photos, capsys):
    source("folder", "photos", None)
    first = SOURCE.read_text()
    photos.rename("elsewhere")
    capsys.readouterr()
    source("folder", "photos", None)
    assert capsys.readouterr().out == (
        "source: the folder photos is not here; data/source.json stays as it is, and DVC uses the images in its cache\n"
    )
    assert SOURCE.read_text() == first


def test_the_empty_folder_of_a_disk_that_is_not_mounted_keeps_the_listing_and_the_hashes(photos, capsys):
    (photos.parent / ".dvc").mkdir()
    source("folder", "photos", None)
    place = find_source("folder", "photos", None)
    first = SOURCE.read_text(), recall(place)
    shutil.rmtree(photos)
    for folder in (photos, photos / "cat", photos / "lost+found/x"):  # with subfolders as well
        folder.mkdir(parents=True)
        capsys.readouterr()
        source("folder", "photos", None)
        assert capsys.readouterr().out == (
            "source: the folder photos is empty (is its disk mounted?); data/source.json stays as it is, and DVC uses "
            "the images in its cache\n"
        )
        assert (SOURCE.read_text(), recall(place)) == first


@pytest.mark.parametrize("location", ["data", ".", "..", "link"])
def test_a_folder_with_the_files_that_each_run_writes_is_refused(workspace, location):
    write_photos(workspace / "data/photos", 1)
    Path("link").symlink_to("data")
    source("folder", "data/photos", None)
    with pytest.raises(PipelineError) as error:
        source("folder", location, None)
    assert str(error.value) == (
        f"data.location: got {location}, which contains the project's own files; move the images into a folder such as "
        "data/photos"
    )


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [("corrections", "id,label", "cat/1.png,drop"), ("pseudo_labels", "id,label,confidence", "1.png,cat,0.9")],
)
def test_the_hash_of_a_file_of_labels_changes_with_its_content(workspace, name, header, row):
    list_label_files({name: None})
    assert json.loads(LABEL_FILES.read_text()) == {}
    hashes = []
    for content in (f"{header}\n", f"{header}\n{row}\n"):
        Path("labels.csv").write_text(content)
        list_label_files({name: "labels.csv"})
        hashes.append(json.loads(LABEL_FILES.read_text())[name])
    assert hashes[0] != hashes[1]
    # It is refused before any work.
    Path("labels.csv").unlink()
    with pytest.raises(PipelineError, match=f"^data.{name}: labels.csv: no such file in this folder"):
        list_label_files({name: "labels.csv"})
    assert json.loads(LABEL_FILES.read_text())[name] == hashes[1]


@pytest.mark.parametrize("before", [None, "{", '{"source": "digits"}', '{"source": "archive", "sha256": "0"}'])
def test_a_source_that_is_not_here_and_was_never_listed_is_left_to_download(workspace, capsys, before):
    SOURCE.parent.mkdir()
    if before:
        SOURCE.write_text(before)
    for _ in range(2):
        source("folder", "nowhere", None)
        assert json.loads(SOURCE.read_text()) == {"source": "folder"}
    assert capsys.readouterr().out == ""


def test_a_source_that_is_pinned_has_no_listing(workspace, capsys):
    source("digits", None, None)
    assert json.loads(SOURCE.read_text()) == {"source": "digits"}
    assert capsys.readouterr().out == ""


def test_repro_notices_images_that_are_added_replaced_and_deleted(tmp_path):
    write_photos(tmp_path / "photos")
    clone = Clone(tmp_path / "clone", {**SMALL, "data.source": "folder", "data.location": "../photos"})
    repro = ("dvc", "repro", "download")
    assert stages_run(clone.run(*repro)) == ["download"]
    assert stages_run(clone.run(*repro)) == []
    one, other = sorted((tmp_path / "photos").rglob("*.jpg"))[:2]
    added = one.with_name("added.jpg")
    shutil.copy(other, added)
    output = clone.run(*repro)
    assert (stages_run(output), ": 1 added" in output) == (["download"], True)
    shutil.copy(other, one)
    output = clone.run(*repro)
    assert (stages_run(output), ": 1 changed" in output) == (["download"], True)
    added.unlink()
    output = clone.run(*repro)
    assert (stages_run(output), ": 1 removed" in output) == (["download"], True)
    one.touch()
    assert stages_run(clone.run(*repro)) == []
    shutil.rmtree(tmp_path / "photos")
    output = clone.run(*repro)
    assert (stages_run(output), "photos is not here; " in output) == ([], True)


def test_repro_without_the_folder_ends_with_the_line_of_download(tmp_path):
    clone = Clone(tmp_path / "clone", {"data.source": "folder", "data.location": "../nowhere"})
    output = clone.run("dvc", "repro", "download", fails=True)
    assert "nowhere does not exist; set it to a folder of images" in output
    assert "Traceback" not in output
    assert Path(clone.folder, SOURCE).exists()


def test_a_file_of_labels_that_dvc_tracks_is_read_from_its_cache(workspace):
    from dvc.repo import Repo

    with Repo.init(no_scm=True) as repo:
        Path("pseudo.csv").write_text("id,label,confidence\n1.png,cat,0.9\n")
        repo.add("pseudo.csv")
        list_label_files({"pseudo_labels": "pseudo.csv"})
        before = LABEL_FILES.read_text()
        Path("pseudo.csv").unlink()
        list_label_files({"pseudo_labels": "pseudo.csv"})
        assert LABEL_FILES.read_text() == before
        shutil.rmtree(".dvc/cache")
        with pytest.raises(PipelineError, match="is neither in DVC's cache nor in a remote storage"):
            list_label_files({"pseudo_labels": "pseudo.csv"})
