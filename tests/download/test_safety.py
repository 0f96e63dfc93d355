"""No archive writes outside its place, hides what it is, or fills memory or disk; messages name what is refused."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.download import safety
from pipeline.download.archives import archive_tree, with_archives
from pipeline.errors import PipelineError
from tests.support.examples import examples

PHOTOS = {f"train/{index % 2}_{index}.jpg": random.Random(index).randbytes(3000) for index in range(4)}
BAD_NAMES = [
    "../0_1.jpg",
    "train/../../0_1.jpg",
    "/etc/0_1.jpg",
    "C:\\0_1.jpg",
    "C:/0_1.jpg",
    "\\\\server\\0_1.jpg",
    "train\\0_1.jpg",
    "..\\0_1.jpg",
    "__MACOSX/../../._0_1.jpg",
    "/.DS_Store",
]


def zipped(*members):
    """A zip of (name or ZipInfo, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in [*PHOTOS.items(), *members]:
            archive.writestr(member, content)
    return buffer.getvalue()


def tarred(*members, mode="w:"):
    """A tar of (name or TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for member, content in [*PHOTOS.items(), *members]:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def contents(data):
    """The files of an archive, including those of nested archives."""
    with archive_tree(io.BytesIO(data), len(data), "photos") as outer, with_archives(outer) as tree:
        return {path: tree.read(path) for path in tree.sizes}


def complaint(data):
    """The one line with which an archive is refused."""
    with pytest.raises(PipelineError) as error:
        contents(data)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def zip_entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def tar_entry(name, kind, **more):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


@pytest.fixture(autouse=True)
def run_in_workspace(workspace):
    """Temporary files are created in the test's own folder."""


class Unmarked(zipfile.ZipInfo):
    """A zip entry whose name is written in another encoding, without the mark of UTF-8."""

    encoding = "gbk"

    def _encodeFilenameFlags(self):  # noqa: N802 - that of zipfile
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def unmarked(encoding, *names):
    """A zip of files with names in an encoding."""
    entries = [(Unmarked(name), b"x") for name in names]
    for entry, _ in entries:
        entry.encoding = encoding
    return zipped(*entries)


class TestEncodings:
    def test_utf8_without_its_mark_is_read(self):
        assert {"苹果/1.jpg", "crème/2.jpg"} <= contents(unmarked("utf-8", "苹果/1.jpg", "crème/2.jpg")).keys()

    def test_gbk_is_read_and_said(self, capsys):
        assert {"苹果/1.jpg", "香蕉/2.jpg"} <= contents(unmarked("gbk", "苹果/1.jpg", "香蕉/2.jpg")).keys()
        assert "names are not marked as UTF-8 and were read as GBK: 苹果/1.jpg, 香蕉/2.jpg" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("encoding", "name"), [("cp437", "crème/1.jpg"), ("shift_jis", "りんご/1.jpg"), ("big5", "蘋果/1.jpg")]
    )
    def test_other_encodings_are_refused(self, encoding, name):
        assert "the encoding of names such as " in complaint(unmarked(encoding, name))

    def test_a_unicode_path_field_is_preferred(self):
        entry = Unmarked("crème/1.jpg")
        entry.encoding = "cp437"
        field = b"\1" + zlib.crc32("crème/1.jpg".encode("cp437")).to_bytes(4, "little") + "crème/1.jpg".encode()
        entry.extra = struct.pack("<HH", 0x7075, len(field)) + field
        assert "crème/1.jpg" in contents(zipped((entry, b"x")))


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES)
    @pytest.mark.parametrize("pack", [zipped, tarred, lambda *members: tarred(*members, mode="w:gz")])
    def test_that_lead_elsewhere_are_refused(self, pack, name, workspace):
        assert f"the member {name!r} " in complaint(pack((name, b"x")))
        assert not list(workspace.rglob("*_1.jpg"))

    @pytest.mark.parametrize("name", ["../", "/tmp/", "a/../../b/"])
    def test_of_folders_that_lead_elsewhere_are_refused(self, name):
        assert f"{name!r} " in complaint(zipped((name, b"")))
        assert f"{name.rstrip('/')!r} " in complaint(tarred((tar_entry(name, tarfile.DIRTYPE), b"")))

    @pytest.mark.parametrize("pack", [zipped, tarred])
    @pytest.mark.parametrize("other", ["train/0_0.jpg", "./train/0_0.jpg", "train//0_0.jpg"])
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_that_are_listed_twice_are_refused(self, pack, other):
        assert f"the member {other!r} is listed twice; " in complaint(pack((other, b"x")))

    def test_with_a_zero_byte_are_refused(self):
        data = zipped(("train/0_9.jpgZ../x", b"x")).replace(b"train/0_9.jpgZ../x", b"train/0_9.jpg\0../x")
        assert "has a zero byte in its name" in complaint(data)

    def test_that_are_empty_are_refused(self):
        assert "has no name" in complaint(zipped((".", b"x")))

    @pytest.mark.parametrize("name", ["a..b.jpg", "train/...jpg", "x:y.jpg", "train/ñ 1.jpg"])
    @pytest.mark.parametrize("pack", [zipped, tarred])
    def test_that_only_look_unusual_are_accepted(self, pack, name):
        assert contents(pack((name, b"x"))).get(name, b"x") == b"x"


class TestKinds:
    @pytest.mark.parametrize(
        ("mode", "says"),
        [
            (stat.S_IFLNK, "is a link"),
            (stat.S_IFIFO, "is a device or a pipe"),
            (stat.S_IFCHR, "is a device or a pipe"),
            (stat.S_IFBLK, "is a device or a pipe"),
            (stat.S_IFSOCK, "is a device or a pipe"),
        ],
    )
    def test_of_zip_entries_that_are_not_files_are_refused(self, mode, says):
        entry = zip_entry("train/0_9.jpg", mode | 0o644)
        assert f"the member 'train/0_9.jpg' {says}; " in complaint(zipped((entry, b"/etc/passwd")))

    @pytest.mark.parametrize("mode", ["w:", "w:gz", "w:xz"])
    @pytest.mark.parametrize(
        ("kind", "says"),
        [
            (tarfile.SYMTYPE, "is a link to '/etc/passwd'"),
            (tarfile.LNKTYPE, "is a hard link to '/etc/passwd'"),
            (tarfile.FIFOTYPE, "is a device or a pipe"),
            (tarfile.CHRTYPE, "is a device or a pipe"),
            (tarfile.BLKTYPE, "is a device or a pipe"),
            (b"Z", "is a device or a pipe"),
        ],
    )
    def test_of_tar_members_that_are_not_files_are_refused(self, mode, kind, says):
        entry = tar_entry("train/0_9.jpg", kind, linkname="/etc/passwd")
        assert f"the member 'train/0_9.jpg' {says}; " in complaint(tarred((entry, b""), mode=mode))

    def test_of_sparse_files_are_refused(self):
        headers = {"major": "1", "minor": "0", "realsize": "9", "name": "a.jpg"}
        headers = {f"GNU.sparse.{key}": value for key, value in headers.items()}
        entry = tar_entry("a.jpg", tarfile.REGTYPE, pax_headers=headers)
        assert "'a.jpg' is a sparse file" in complaint(tarred((entry, b"1\n0\n9\n".ljust(521, b"\0"))))

    @pytest.mark.parametrize("bit", [0x1, 0x41])
    def test_of_encrypted_entries_are_refused(self, bit):
        data = bytearray(zipped())
        place = data.index(b"PK\x01\x02")
        data[place + 8] |= bit
        assert "the member 'train/0_0.jpg' is encrypted; " in complaint(bytes(data))

    def test_of_unknown_compression_are_refused(self):
        data = bytearray(zipped())
        place = data.index(b"PK\x01\x02")
        data[place + 10 : place + 12] = struct.pack("<H", 9)
        assert "(number 9) that Python cannot read" in complaint(bytes(data))

    @pytest.mark.parametrize("name", ["__MACOSX/._x", ".DS_Store", "notes.txt"])
    def test_of_members_that_would_not_be_read_are_refused_too(self, name):
        assert f"{name!r} is a link" in complaint(zipped((zip_entry(name, stat.S_IFLNK | 0o777), b"/")))
        assert f"{name!r} is a hard link" in complaint(tarred((tar_entry(name, tarfile.LNKTYPE, linkname="/"), b"")))


PACKERS = [zipped, tarred, *(lambda *m, mode=mode: tarred(*m, mode=mode) for mode in ("w:gz", "w:bz2", "w:xz"))]


class TestBombs:
    """The limits are lowered to make the tests fast; one slow test has a bomb that exceeds the real limits."""

    @pytest.fixture(autouse=True)
    def limits(self, monkeypatch):
        for name, value in {"MOST_MEMBERS": 50, "LARGEST_FILE": 2**18, "MOST_BYTES": 2**21}.items():
            monkeypatch.setattr(safety, name, value)
        monkeypatch.setattr(safety, "RATIO_COUNTS_FROM", 2**19)
        monkeypatch.setattr(safety, "LARGEST_RATIO", 20)
        monkeypatch.setattr(safety, "LARGEST_HEADERS", 2**16)

    @pytest.mark.parametrize("pack", PACKERS)
    def test_more_members_than_allowed(self, pack):
        members = [(f"train/0_x{index}.jpg", b"x") for index in range(50)]
        assert "contains more than 50 members" in complaint(pack(*members))
        assert len(contents(pack(*members[:40]))) == 44

    @pytest.mark.parametrize("pack", PACKERS)
    def test_a_file_larger_than_allowed(self, pack):
        assert "has 262,145 bytes, more than" in complaint(pack(("train/0_9.jpg", os.urandom(2**18 + 1))))
        assert len(contents(pack(("train/0_9.jpg", os.urandom(2**18))))) == 5

    @pytest.mark.parametrize("pack", PACKERS)
    def test_more_bytes_than_allowed(self, pack):
        members = [(f"train/0_x{index}.jpg", os.urandom(2**18)) for index in range(8)]
        assert "contains more than 0.00195312 GiB" in complaint(pack(*members))
        assert len(contents(pack(*members[:7]))) == 11

    @pytest.mark.parametrize("pack", [packer for packer in PACKERS if packer is not tarred])
    def test_more_bytes_for_its_size_than_allowed(self, pack, workspace):
        members = [(f"train/0_x{index}.jpg", bytes(2**18)) for index in range(7)]
        assert "unpacks to more than 20 times its size" in complaint(pack(*members))
        assert len(contents(pack(*members[:1]))) == 5

    @pytest.mark.parametrize("pack", [packer for packer in PACKERS if packer is not tarred])
    def test_in_an_archive_inside(self, pack):
        bomb = pack(*[(f"train/0_x{index}.jpg", bytes(2**18)) for index in range(3)])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("one.zip", bomb)
            archive.writestr("two.tar.gz", bomb)
        assert "unpacks to more than 20 times its size" in complaint(buffer.getvalue())

    def test_an_archive_inside_may_be_larger_than_a_file(self):
        inner = zipped(*[(f"train/0_x{index}.jpg", os.urandom(2**17)) for index in range(3)])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("photos.zip", inner)
        assert len(inner) > 2**18
        assert len(contents(buffer.getvalue())) == 7

    def test_headers_larger_than_allowed(self):
        entry = tar_entry("train/0_9.jpg", tarfile.REGTYPE, pax_headers={"comment": "x" * 2**17})
        assert "headers take more than" in complaint(tarred((entry, b"x"), mode="w:gz"))

    def test_entries_that_overlap(self):
        """Two entries that point to one compressed block: the simplest form of David Fifield's bomb (2019)."""
        data = bytearray(zipped(("train/1_9.jpg", PHOTOS["train/0_0.jpg"])))
        start = data.index(b"PK\x01\x02")
        second = data.index(b"PK\x01\x02", start + 4)
        data[second + 42 : second + 46] = data[start + 42 : start + 46]
        assert "'train/0_0.jpg' and 'train/1_1.jpg' overlap" in complaint(bytes(data))


@pytest.mark.slow
def test_a_bomb_that_exceeds_the_real_limits_is_stopped_early(workspace):
    path = workspace / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for index in range(3):
            info = tarfile.TarInfo(f"train/{index}_1.jpg")
            info.size = 900 * 2**20
            archive.addfile(info, Zeros())
    with (
        pytest.raises(PipelineError, match=r"^bomb: unpacks to more than 200 times its size and 1 GiB"),
        path.open("rb") as file,
        archive_tree(file, path.stat().st_size, "bomb"),
    ):
        pass
    assert [entry.name for entry in workspace.rglob("*") if entry.is_file()] == ["bomb.tar.gz"]


class Zeros(io.RawIOBase):
    """An endless file of zeros."""

    def read(self, size=-1):
        return bytes(size)


def test_a_disk_without_space_is_reported_before_it_is_full(monkeypatch):
    usage = type("Usage", (), {"free": 5000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "photos: needs 0 MB more, but data has 0 MB free; free some space" in complaint(
        tarred(("train/0_9.jpg", bytes(6000)), mode="w:gz")
    )


SEEDS = [*(pack() for pack in PACKERS), zipped(("train.zip", zipped()))]


class TestDamage:
    def test_a_header_in_the_middle_of_a_tar_is_not_taken_for_its_end(self):
        data = bytearray(tarred())
        data[2 * (512 + 3072) + 10] ^= 1  # in the third member's name
        assert "photos is damaged (" in complaint(bytes(data))

    @pytest.mark.parametrize("mode", ["w:", "w:gz"])
    def test_an_unreadable_header_in_a_tar_is_reported(self, mode):
        data = bytearray(tarred())
        data[2 * (512 + 3072) : 2 * (512 + 3072) + 512] = b"x" * 512
        data = bytes(data) if mode == "w:" else gzip.compress(bytes(data))
        assert "photos is damaged (" in complaint(data)

    @settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
    @example(SEEDS[0], [(0.0, 0)])
    def test_of_any_kind_ends_in_one_line_or_does_not_matter(self, data, changes):
        data = bytearray(data)
        for place, value in changes:
            data[int(place * (len(data) - 1))] = value
        try:
            contents(bytes(data))
        except PipelineError as error:
            assert len(str(error).splitlines()) == 1


def test_nothing_is_left_behind(workspace):
    contents(tarred(mode="w:gz"))
    assert [path for path in Path(workspace).rglob("*") if path.is_file()] == []
