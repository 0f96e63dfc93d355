"""Archives of every kind give the same images, here or at a URL, and nothing is read before its checksum is right."""

import hashlib
import io
import random
import re
import socket
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.sources.archive import open_archive

PHOTOS = {
    f"food/train/{index % 2}_{index}.jpg": f"photo {index}".encode() + random.Random(index).randbytes(10_000)
    for index in range(4)
}
KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def pack(kind, files=PHOTOS, path=None):
    """Write an archive with an entry for each folder, too, and return its path."""
    path = path or Path(f"photos.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("food")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{kind.partition('.')[2]}") as archive:
        folder = tarfile.TarInfo("food")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
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
    def test_gives_the_same_images(self, workspace, data_params, kind):
        assert contents(data_params("archive", location=str(pack(kind)))) == (("0", "1"), PHOTOS)

    def test_is_known_by_its_content_not_its_name(self, workspace, data_params, kind):
        path = pack(kind).rename("photos")
        assert contents(data_params("archive", location=str(path)))[1] == PHOTOS

    def test_is_accepted_with_the_right_checksum(self, workspace, data_params, kind):
        path = pack(kind)
        assert contents(data_params("archive", location=str(path), sha256=sha256(path)))[1] == PHOTOS

    def test_is_refused_with_another_checksum(self, workspace, data_params, kind):
        path = pack(kind)
        message = complaint(data_params("archive", location=str(path), sha256="0" * 64))
        assert message.startswith(f"data.sha256: {path} has {sha256(path)}, expected is {'0' * 64}; ")

    def test_leaves_no_file_behind(self, workspace, data_params, kind):
        path = pack(kind)
        contents(data_params("archive", location=str(path)))
        assert [file for file in workspace.rglob("*") if file.is_file()] == [workspace / path]

    def test_without_images_is_refused(self, workspace, data_params, kind):
        path = pack(kind, {"food/notes.txt": b"none"})
        assert complaint(data_params("archive", location=str(path))).startswith(f"{path}: holds no images; ")

    def test_takes_the_names_of_classes_from_classes_txt(self, workspace, data_params, kind):
        path = pack(kind, PHOTOS | {"food/classes.txt": b"bread\nsoup\n"})
        assert contents(data_params("archive", location=str(path)))[0] == ("bread", "soup")

    def test_takes_the_names_of_classes_from_the_parameters(self, workspace, data_params, kind):
        assert contents(data_params("archive", location=str(pack(kind)), classes=("a", "b")))[0] == ("a", "b")

    def test_that_was_cut_off_is_refused(self, workspace, data_params, kind):
        path = pack(kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert str(path) in complaint(data_params("archive", location=str(path)))


def test_a_tar_of_the_current_folder_has_the_same_images(workspace, data_params):
    path = pack("tar", {f"./{name}": content for name, content in PHOTOS.items()})
    assert contents(data_params("archive", location=str(path)))[1] == PHOTOS


def test_a_hard_link_in_a_tar_is_an_image_like_its_target(workspace, data_params):
    path = pack("tar")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("food/train/1_copy.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, next(iter(PHOTOS))
        archive.addfile(link)
    found = contents(data_params("archive", location=str(path)))[1]
    assert sorted(found) == sorted([*PHOTOS, link.name])
    assert found[link.name] == PHOTOS[link.linkname]


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


def test_a_folder_given_as_an_archive_is_refused_with_the_right_source(workspace, data_params):
    (workspace / "photos").mkdir()
    message = complaint(data_params("archive", location="photos"))
    assert message.startswith("data.location: the archive photos is a folder, use data.source folder for it; ")


@pytest.mark.parametrize("content", [b"", b"Rar!\x1a\x07\x01\x00 and more", b"<html>please log in</html>" * 100])
def test_a_file_that_is_no_archive_is_refused(workspace, data_params, content):
    (workspace / "photos.zip").write_bytes(content)
    message = complaint(data_params("archive", location="photos.zip"))
    assert message.startswith("data.location: photos.zip is neither a zip nor a tar; ")


class Site:
    """A web server on this machine: its address, the files it serves, and the requests that came."""

    def __init__(self):
        self.files, self.requests = {}, []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.requests.append(self.path)
                content = site.files.get(self.path)
                self.send_response(200 if content is not None else 404)
                self.send_header("Content-Length", str(len(content or b"") + (1000 if "broken" in self.path else 0)))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def cache(workspace, monkeypatch):
    """The folder for downloads, empty; no proxy stands between the test and its server."""
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return workspace / "cache"


@pytest.fixture
def site(cache):
    with Site() as site:
        yield site


class TestUrl:
    @pytest.mark.parametrize("kind", ["zip", "tar.gz"])
    def test_is_fetched_once(self, site, data_params, kind):
        path = pack(kind)
        site.files["/photos"] = path.read_bytes()
        params = data_params("archive", location=f"{site.url}/photos", sha256=sha256(path))
        path.unlink()
        assert contents(params)[1] == PHOTOS
        assert contents(params)[1] == PHOTOS
        assert site.requests == ["/photos"]

    def test_is_not_asked_where_a_mirror_gave_the_same_archive(self, site, data_params):
        path = pack("zip")
        site.files["/one.zip"] = path.read_bytes()
        for name in ("one", "two"):
            contents(data_params("archive", location=f"{site.url}/{name}.zip", sha256=sha256(path)))
        assert site.requests == ["/one.zip"]

    def test_with_another_checksum_is_refused_and_not_kept(self, site, cache, data_params):
        site.files["/photos.zip"] = pack("zip").read_bytes()
        url = f"{site.url}/photos.zip"
        message = complaint(data_params("archive", location=url, sha256="0" * 64))
        assert message.startswith(f"data.sha256: {url} has another SHA-256 than {'0' * 64}; ")
        assert list(cache.iterdir()) == []

    @pytest.mark.parametrize(("name", "says"), [("missing.zip", "404"), ("broken.zip", "IncompleteRead")])
    def test_that_gives_no_whole_file_is_refused(self, site, cache, data_params, name, says):
        site.files["/broken.zip"] = b"half of it"
        url = f"{site.url}/{name}"
        message = complaint(data_params("archive", location=url, sha256="0" * 64))
        assert re.match(rf"data\.location: {url} could not be fetched \(.*{says}.*\); ", message)
        assert list(cache.iterdir()) == []

    def test_where_nobody_listens_is_refused(self, cache, data_params):
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/photos.zip"
        message = complaint(data_params("archive", location=url, sha256="0" * 64))
        assert message.startswith(f"data.location: {url} could not be fetched (")

    def test_that_is_no_address_is_refused(self, cache, data_params):
        message = complaint(data_params("archive", location="http://[photos.zip", sha256="0" * 64))
        assert message.startswith("data.location: 'http://[photos.zip' is no URL (")

    def test_a_damaged_copy_in_the_cache_is_fetched_again(self, site, cache, data_params):
        path = pack("zip")
        site.files["/photos.zip"] = path.read_bytes()
        cache.mkdir()
        (cache / sha256(path)).write_bytes(path.read_bytes()[:100])
        params = data_params("archive", location=f"{site.url}/photos.zip", sha256=sha256(path))
        assert contents(params)[1] == PHOTOS
