"""Archives of every kind contain the same images, as a file or at a URL; the checksum is checked before reading."""

import gzip
import hashlib
import random
import zipfile
from pathlib import Path

import pytest

from pipeline.download.sources import open_archive
from pipeline.errors import PipelineError
from tests.support.archives import packed
from tests.support.loopback import LoopbackServer

PHOTOS = {
    f"food/train/{index % 2}_{index}.jpg": f"photo {index}".encode() + random.Random(index).randbytes(10_000)
    for index in range(4)
}
KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def pack(kind, files=PHOTOS, path=None):
    """Write an archive and return its path; entries of folders are included."""
    path = path or Path(f"photos.{kind}")
    path.write_bytes(packed({"food/": b""} | files, kind))
    return path


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def contents(params):
    """The classes of an archive and the bytes of each image, read in reverse order."""
    with open_archive(params) as source:
        return source.classes, {image.path: source.read(image.path) for image in reversed(source.images)}


def complaint(params):
    """The one line with which an archive is refused."""
    with pytest.raises(PipelineError) as error:
        contents(params)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_has_the_same_images(self, workspace, data_params, kind):
        assert contents(data_params("archive", location=str(pack(kind)))) == (("0", "1"), PHOTOS)

    def test_is_recognised_by_its_content_not_its_name(self, workspace, data_params, kind):
        path = pack(kind).rename("photos")
        assert contents(data_params("archive", location=str(path)))[1] == PHOTOS

    def test_is_accepted_with_the_right_checksum(self, workspace, data_params, kind):
        path = pack(kind)
        assert contents(data_params("archive", location=str(path), sha256=sha256(path)))[1] == PHOTOS

    def test_is_refused_with_another_checksum(self, workspace, data_params, kind):
        path = pack(kind)
        message = complaint(data_params("archive", location=str(path), sha256="0" * 64))
        assert message.startswith(f"data.sha256: {path} has {sha256(path)}, expected {'0' * 64}; ")

    def test_leaves_no_file_behind(self, workspace, data_params, kind):
        path = pack(kind)
        contents(data_params("archive", location=str(path)))
        assert [file for file in workspace.rglob("*") if file.is_file()] == [workspace / path]

    def test_without_images_is_refused(self, workspace, data_params, kind):
        path = pack(kind, {"food/notes.txt": b"none"})
        assert complaint(data_params("archive", location=str(path))).startswith(f"{path}: contains no images; ")

    def test_takes_the_class_names_from_classes_txt(self, workspace, data_params, kind):
        path = pack(kind, PHOTOS | {"food/classes.txt": b"bread\nsoup\n"})
        assert contents(data_params("archive", location=str(path)))[0] == ("bread", "soup")

    def test_takes_the_class_names_from_the_parameters(self, workspace, data_params, kind):
        assert contents(data_params("archive", location=str(pack(kind)), classes=("a", "b")))[0] == ("a", "b")

    def test_truncated_is_refused(self, workspace, data_params, kind):
        path = pack(kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert str(path) in complaint(data_params("archive", location=str(path)))


def test_a_tar_of_the_current_folder_has_the_same_images(workspace, data_params):
    path = pack("tar", {f"./{name}": content for name, content in PHOTOS.items()})
    assert contents(data_params("archive", location=str(path)))[1] == PHOTOS


def test_a_damaged_image_in_a_zip_is_refused(workspace, data_params):
    path = Path("photos.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in PHOTOS.items():
            archive.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(b"photo 2", b"phota 2", 1))
    assert "food/train/0_2.jpg" in complaint(data_params("archive", location=str(path)))


def test_a_missing_archive_is_refused(workspace, data_params):
    message = complaint(data_params("archive", location="nowhere/photos.zip"))
    assert message.startswith("data.location: the archive nowhere/photos.zip does not exist; ")


def test_a_folder_is_refused_and_the_message_names_the_right_source(workspace, data_params):
    (workspace / "photos").mkdir()
    message = complaint(data_params("archive", location="photos"))
    assert message.startswith("data.location: the archive photos is a folder, use data.source folder for it; ")


def test_nested_archives_are_folders(workspace, data_params):
    inner = pack("tar.gz", path=Path("inner")).read_bytes()
    path = pack("zip", {"README.md": b"photos", "photos.tar.gz": inner})
    found = contents(data_params("archive", location=str(path)))
    assert found == (("0", "1"), {f"photos/{name}": content for name, content in PHOTOS.items()})


def test_a_tar_that_ends_with_a_zip_is_a_tar(workspace, data_params):
    """A zip is recognised by its last bytes, and a tar that contains one ends with them, too."""
    path = pack("tar", {"food.zip": pack("zip", path=Path("inner")).read_bytes()})
    assert contents(data_params("archive", location=str(path)))[1] == PHOTOS


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is neither"),
        (b"no archive", "is neither"),
        (b"Rar!\x1a\x07\x01\x00 and more", "is a RAR archive, and neither"),
        (b"<!DOCTYPE html><html><title>Log in</title>", "is a web page (HTML), titled 'Log in', and neither"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer, not"),
    ],
)
def test_a_file_that_is_not_an_archive_is_described(workspace, data_params, content, says):
    (workspace / "photos.zip").write_bytes(content)
    message = complaint(data_params("archive", location="photos.zip"))
    assert message.startswith(f"data.location: photos.zip {says}")
    assert " neither a zip nor a tar; " in message


def test_a_compressed_file_that_is_not_a_tar_is_refused(workspace, data_params):
    (workspace / "photos.tar.gz").write_bytes(gzip.compress(b"label,name"))
    message = complaint(data_params("archive", location="photos.tar.gz"))
    assert message.startswith("data.location: photos.tar.gz is compressed, but not a tar; ")


class Site(LoopbackServer):
    """A web server on this machine that serves files and records the requests."""

    def __init__(self):
        self.files, self.requests = {}, []
        super().__init__()

    def answer(self, request):
        self.requests.append(request.path)
        content = self.files.get(request.path)
        request.send_response(200 if content is not None else 404)
        request.send_header("Content-Length", str(len(content or b"")))
        request.end_headers()
        request.wfile.write(content or b"")


@pytest.fixture
def cache(workspace, monkeypatch):
    """An empty cache, and no proxy between the test and its server."""
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return workspace / "cache"


@pytest.fixture
def site(cache):
    with Site() as site:
        yield site


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_url_is_fetched_once(site, data_params, kind):
    path = pack(kind)
    site.files["/photos"] = path.read_bytes()
    params = data_params("archive", location=f"{site.url}/photos", sha256=sha256(path))
    path.unlink()
    assert contents(params)[1] == PHOTOS
    assert contents(params)[1] == PHOTOS
    assert site.requests == ["/photos"]


def test_a_mirror_is_used_if_the_first_url_fails(site, data_params):
    path = pack("zip")
    site.files["/mirror.zip"] = path.read_bytes()
    urls = {"location": f"{site.url}/gone.zip", "mirrors": [f"{site.url}/mirror.zip"]}
    assert contents(data_params("archive", **urls, sha256=sha256(path)))[1] == PHOTOS
    assert site.requests == ["/gone.zip", "/mirror.zip"]
