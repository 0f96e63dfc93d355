"""Tests of the stage ``augment``."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.augment.stage import augment
from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import AUDIT_PAGE, AUDIT_TABLE, DATASET, PLOTS, RAW_ARCHIVE
from pipeline.common.raw_archive import RawReader, read_raw_archive, write_raw_archive
from pipeline.common.results import read_results
from pipeline.download.stage import download
from pipeline.errors import PipelineError
from pipeline.images.decoding import decode
from pipeline.images.transforms import augmented_view, view_seed
from pipeline.params.schema import AugmentParams, DataParams
from tests.support.hostile_images import hostile_files
from tests.support.sections import AUGMENT, DATA
from tests.support.small_disks import ROOT, run_on_small_disk


def pack_photos(seed=1, on_bad_image="error", on_leak="warn", **changes) -> None:
    augment(AugmentParams(**{**AUGMENT, **changes}), seed, on_bad_image, on_leak)


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_arrays_have_the_documented_shape_and_order(dataset):
    packed = PackedDataset(DATASET)
    assert packed.manifest.classes == ("blue", "green", "red")
    assert packed.split("train").images.shape == (24, 3, 32, 32, 3)
    assert packed.split("valid").images.shape == packed.split("test").images.shape == (12, 1, 32, 32, 3)
    for name in ("train", "valid", "test"):
        split = packed.split(name)
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        assert not split.images.flags.writeable
        assert [Path(source).stem for source in split.sources] == [id.partition("_")[2] for id in split.ids]
        # The photos of a class have one colour, which is the brightest channel of each image.
        brightest = split.images[:, 0].reshape(len(split), -1, 3).mean(1).argmax(1)
        assert (brightest == np.array([2, 1, 0])[split.labels]).all()


def test_names_with_other_spaces_and_joiners_are_in_the_tables_and_pages_as_they_are(photos):
    screenshot, family = "Screenshot 2026-11-27 at 9.41.00\u202fAM", "👨\u200d👩\u200d👧\u3000一"
    for name, folder in ((screenshot, "red"), (family, "blue")):
        Image.new("RGB", (40, 40), 3).save(photos / folder / f"{name}.png")  # too dark, and twice
    (photos / "red").rename(photos / "赤\u3000い")
    download(DataParams(**DATA))
    pack_photos(on_leak="warn")
    packed = PackedDataset(DATASET)
    splits = [packed.split(name) for name in ("train", "valid", "test")]
    sources = {f"赤\u3000い/{screenshot}.png", f"blue/{family}.png"}
    assert packed.manifest.classes == ("blue", "green", "赤\u3000い")
    assert {screenshot, family} <= {id.partition("_")[2] for split in splits for id in split.ids}
    assert sources <= {source for split in splits for source in split.sources}
    assert sources <= set(pd.read_csv(AUDIT_TABLE)["source"])
    assert all(source in AUDIT_PAGE.read_text("utf-8") for source in sources)


def test_mean_and_std_are_those_of_the_plain_training_images(dataset):
    packed = PackedDataset(DATASET)
    pixels = packed.split("train").images[:, 0].reshape(-1, 3) / 255
    np.testing.assert_allclose(packed.manifest.mean, pixels.mean(0), atol=1e-9)
    np.testing.assert_allclose(packed.manifest.std, pixels.std(0), atol=1e-9)


def test_bytes_do_not_depend_on_the_number_of_workers(photos, monkeypatch):
    download(DataParams(**DATA))
    digests = set()
    for workers in ("1", "2", "5"):
        monkeypatch.setenv("PIPELINE_WORKERS", workers)
        pack_photos()
        digests.add(digest(DATASET))
    assert len(digests) == 1


def test_bytes_of_a_cluster_are_those_of_one_machine(photos, monkeypatch, capsys):
    pytest.importorskip("ray", reason="Ray is not installed")
    break_two(photos)
    digests = set()
    for address in (None, "local"):
        if address:
            monkeypatch.setenv("PIPELINE_RAY", address)
        pack_photos(on_bad_image="skip")
        digests.add((digest(DATASET), AUDIT_TABLE.read_text()))
        assert ("ray: machines: 1, CPUs: " in capsys.readouterr().out) == bool(address)
    assert len(digests) == 1


def test_a_large_split_is_in_several_files_and_has_the_same_images(dataset, photos, monkeypatch):
    one = PackedDataset(DATASET).split("train")
    monkeypatch.setattr("pipeline.common.sharded_array.SHARD_BYTES", 20_000)
    break_two(photos)
    pack_photos(on_bad_image="skip")
    files = sorted(path.name for path in DATASET.glob("train*.npy"))
    assert 4 < len(files) <= 16
    assert all(name.endswith("-of-00016.npy") for name in files)
    many = PackedDataset(DATASET).split("train")
    assert set(one.ids) - set(many.ids) <= {"2_03", "0_07"}
    for row, name in enumerate(many.ids):
        other = one.ids.index(name)
        np.testing.assert_array_equal(many.images[row], one.images[other])
        assert many.labels[row] == one.labels[other]


def test_an_image_that_is_added_to_a_large_split_changes_one_file(photos, monkeypatch):
    monkeypatch.setattr("pipeline.common.sharded_array.SHARD_BYTES", 20_000)
    classes = list(photos.iterdir())
    for split in ("train", "valid"):
        for folder in classes:
            shutil.copytree(folder, photos / split / folder.name)
    for folder in classes:
        shutil.rmtree(folder)
    packed = []
    for _ in range(2):
        download(DataParams(**DATA))
        pack_photos()
        packed.append({path.name: path.read_bytes() for path in DATASET.glob("train-*.npy")})
        shutil.copy(photos / "train/red/03.jpg", photos / "train/red/new.jpg")
    assert len(packed[0]) > 16
    assert sum(packed[0].get(name) != content for name, content in packed[1].items()) == 1


def test_another_seed_changes_only_the_views(dataset):
    before = PackedDataset(DATASET).split("train").images.copy()
    pack_photos(seed=2)
    after = PackedDataset(DATASET).split("train").images
    assert (before[:, 0] == after[:, 0]).all()
    assert (before[:, 1:] != after[:, 1:]).any()


def test_views_of_one_image_differ_from_it_and_from_each_other(dataset):
    images = PackedDataset(DATASET).split("train").images
    assert all(len({copy.tobytes() for copy in copies}) == 3 for copies in images)


def test_view_seeds_differ_by_seed_image_and_view():
    seeds = {view_seed(seed, entry, view) for seed in range(3) for entry in ("a", "b") for view in range(1, 4)}
    assert len(seeds) == 18


def test_without_views_there_are_only_plain_copies(photos):
    download(DataParams(**DATA))
    pack_photos(views=0, transforms=[])
    assert PackedDataset(DATASET).split("train").images.shape[1] == 1


def test_audit_counts_by_split_and_class(dataset):
    audit = read_results("audit")
    assert (audit["images"], audit["leaks"], audit["bad_files"]) == (48, 0, 0)
    assert audit["splits"] == {"train": 24, "valid": 12, "test": 12}
    assert audit["classes"][2] == {"class": "red", "train": 8, "valid": 4, "test": 4}
    assert (PLOTS / "augment_preview.png").stat().st_size > 5_000


def break_two(photos) -> None:
    """Replace two photos by files that cannot be decoded."""
    (photos / "red" / "03.jpg").write_bytes(b"<html>not found</html>")
    (photos / "blue" / "07.jpg").write_bytes(b"")
    download(DataParams(**DATA))


def test_all_images_that_cannot_be_decoded_are_reported_and_the_old_dataset_stays(dataset, photos):
    before = digest(DATASET)
    break_two(photos)
    with pytest.raises(PipelineError, match="2 of 48 images cannot be decoded or augmented; ") as refusal:
        pack_photos()
    assert len(str(refusal.value).splitlines()) == 3
    assert "blue/07.jpg: the file is empty" in str(refusal.value)
    assert "red/03.jpg: is a web page (HTML), not an image" in str(refusal.value)
    assert digest(DATASET) == before
    assert [path.name for path in DATASET.parent.iterdir() if path.name.startswith(".")] == []


def test_skipped_images_do_not_change_the_others(dataset, photos):
    before = {name: PackedDataset(DATASET).split(name) for name in ("train", "valid", "test")}
    break_two(photos)
    pack_photos(on_bad_image="skip")
    after = PackedDataset(DATASET)
    assert sum(shape[0] for shape in after.manifest.shapes.values()) == 46
    for name, old in before.items():
        new = after.split(name)
        kept = [row for row, source in enumerate(old.sources) if source in new.sources]
        assert [old.sources[row] for row in kept] == new.sources
        np.testing.assert_array_equal(new.images, old.images[kept])
        np.testing.assert_array_equal(new.labels, old.labels[kept])
    table = pd.read_csv(AUDIT_TABLE)
    bad = table[table["finding"] == "bad image"]
    assert set(bad["detail"]) == {"the file is empty", "is a web page (HTML), not an image"}


def write_noise(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """Write noise as images of the given widths and heights."""
    random = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)


def test_a_transform_that_fails_on_a_photo_is_reported_like_a_file_that_cannot_be_decoded(photos):
    for path in photos.rglob("*.jpg"):
        path.unlink()
    sizes = {f"{name}/{number}.png": (50, 60) for name in ("blue", "red") for number in range(6)}
    write_noise(photos, sizes | {"red/2.png": (40, 44)})
    download(DataParams(**{**DATA, "test_fraction": 0.0}))
    crop = [{"name": "RandomCrop", "height": 48, "width": 48}]
    with pytest.raises(PipelineError) as refusal:
        pack_photos(transforms=crop, views=1, test_views=1)
    assert str(refusal.value).splitlines() == [
        "data/raw.zip: 1 of 12 images cannot be decoded or augmented; replace them in the source, or set "
        "data.on_bad_image to skip",
        "red/2.png: params.yaml: augment.transforms.0: RandomCrop: the photo has 40×44 pixels at this point (Crop "
        "size (height, width) exceeds image dimensions (height, width): (48, 48) vs (44, 40))",
    ]
    pack_photos(transforms=crop, views=1, test_views=1, on_bad_image="skip")
    packed = PackedDataset(DATASET)
    kept = {source for name in ("train", "valid") for source in packed.split(name).sources}
    assert kept == sizes.keys() - {"red/2.png"}
    table = pd.read_csv(AUDIT_TABLE)
    assert list(table[table["finding"] == "bad image"]["source"]) == ["red/2.png"]


_WITH_LIMITED_MEMORY = """
import resource, sys
from pipeline.augment.stage import augment
from pipeline.params.schema import AugmentParams
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
params = AugmentParams.model_validate_json(sys.argv[1])
for resize, interpolation in (("stretch", "area"), ("crop", "bilinear"), ("pad", "area"), ("stretch", "bicubic")):
    changes = {"resize": resize, "interpolation": interpolation}
    augment(params.model_copy(update=changes), 1, "error", "warn")
"""


def test_pictures_of_extreme_aspect_are_packed_with_little_memory(photos):
    shutil.rmtree(photos / "green")
    write_noise(photos, {"red/thin.png": (1_000_000, 1), "red/high.png": (1, 1_000_000), "blue/flat.png": (500_000, 3)})
    download(DataParams(**DATA))
    transforms = [{"name": "SmallestMaxSize", "max_size": 64}, {"name": "Rotate", "p": 1}]
    changes = {"image_size": 96, "preset": "strong", "transforms": transforms, "views": 2, "test_views": 1}
    command = [sys.executable, "-c", _WITH_LIMITED_MEMORY, AugmentParams(**{**AUGMENT, **changes}).model_dump_json()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("contains 35 images of 96×96 pixels") == 4


def test_a_dataset_of_only_bad_images_is_rejected(photos):
    for path in photos.rglob("*.jpg"):
        path.write_bytes(str(path).encode())
    download(DataParams(**DATA))
    with pytest.raises(PipelineError, match="48 of 48 images cannot be decoded or augmented"):
        pack_photos(on_bad_image="skip")
    assert not DATASET.exists()


def test_of_many_bad_images_the_first_are_named_and_the_others_counted_by_reason(photos):
    bad = sorted(photos.rglob("*.jpg"))
    for number, path in enumerate(bad):
        path.write_bytes(str(path).encode() if number % 2 else b"")
    download(DataParams(**DATA))
    with pytest.raises(PipelineError) as error:
        pack_photos(on_bad_image="error")
    first, *lines, last = str(error.value).splitlines()
    assert first.startswith("data/raw.zip: 48 of 48 images cannot be decoded or augmented; replace them in the source")
    assert len(lines) == 20
    assert last == "and 28 more: not an image: 20, the file is empty: 8"


def test_a_class_without_a_training_image_is_rejected_by_name(photos):
    for path in photos.glob("red/*.jpg"):
        path.write_bytes(str(path).encode())
    download(DataParams(**DATA))
    with pytest.raises(PipelineError, match="train has no image of red after bad and leaking images are left out"):
        pack_photos(on_bad_image="skip")
    assert not DATASET.exists()


def split_photos(photos, *bad) -> None:
    """Lay the photos out as train, valid and test, and damage those of these folders."""
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        split = ("train", "train", "valid", "test")[number % 4]
        target = photos.parent / "split" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            b"" if any(f"{split}/{path.parent.name}".startswith(name) for name in bad) else path.read_bytes()
        )
    download(DataParams(**{**DATA, "location": "split"}))


def test_a_valid_split_of_only_bad_images_is_rejected_with_advice_that_helps(photos):
    split_photos(photos, "valid")
    with pytest.raises(PipelineError, match=r"none of the 12 images of valid remains .* folder for them, remove it"):
        pack_photos(on_bad_image="skip")


def test_classes_without_images_in_valid_and_a_lost_test_split_cause_warnings(photos, capsys):
    split_photos(photos, "valid/red", "test")
    pack_photos(on_bad_image="skip")
    out = capsys.readouterr().out
    assert "warning: valid has no image of red, so nothing is known about its accuracy" in out
    assert "warning: none of the 12 images of test remains" in out


@pytest.fixture
def leaking(photos):
    """A dataset with one photo in all three splits, with another label in one of them."""
    download(DataParams(**DATA))
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if not name.endswith((".txt", ".csv"))}
    content = next(content for name, content in sorted(entries.items()) if name.startswith("train/0_"))
    entries |= {"valid/0_leak.jpg": content, "test/1_leak.jpg": content}
    write_raw_archive(RAW_ARCHIVE, ("blue", "green", "red"), {name: name for name in entries}, entries.__getitem__)


def test_a_leak_causes_a_warning(leaking, capsys):
    pack_photos()
    assert (
        "warning: 2 images of valid and test are in an earlier split, too, 2 as the same picture and 0"
        in capsys.readouterr().out
    )
    assert sum(shape[0] for shape in PackedDataset(DATASET).manifest.shapes.values()) == 50
    audit = read_results("audit")
    assert (audit["leaks"], audit["contradictory_labels"], audit["dropped"]) == (2, 1, 0)


def test_a_leak_is_dropped_from_all_splits_except_the_last(leaking):
    pack_photos(on_leak="drop")
    packed = PackedDataset(DATASET)
    assert "test/1_leak.jpg" in packed.split("test").sources
    assert "valid/0_leak.jpg" not in packed.split("valid").sources
    assert packed.manifest.shapes["train"][0] == 23
    pixels = packed.split("train").images[:, 0].reshape(-1, 3) / 255
    np.testing.assert_allclose(packed.manifest.mean, pixels.mean(0), atol=1e-9)


def test_a_leak_can_be_an_error(leaking):
    with pytest.raises(PipelineError, match=r"2 images of valid and test are in .*; remove them, or set "):
        pack_photos(on_leak="error")
    assert not DATASET.exists()


def test_bytes_do_not_depend_on_the_number_of_workers_if_images_are_left_out(leaking, photos, monkeypatch):
    digests = set()
    for workers in ("1", "3"):
        monkeypatch.setenv("PIPELINE_WORKERS", workers)
        pack_photos(on_leak="drop")
        digests.add(digest(DATASET) + AUDIT_PAGE.read_text() + AUDIT_TABLE.read_text())
    assert len(digests) == 1


def test_test_views_are_drawn_like_training_views(photos):
    download(DataParams(**DATA))
    pack_photos(views=1, test_views=3)
    packed = PackedDataset(DATASET)
    assert [packed.manifest.shapes[split][1] for split in ("train", "valid", "test")] == [2, 4, 4]
    test = packed.split("test")
    image = next(image for image in read_raw_archive(RAW_ARCHIVE)[1] if image.path == test.sources[0])
    photo = decode(RawReader(RAW_ARCHIVE).read(image))
    draw = augmented_view(AugmentParams(**AUGMENT))
    np.testing.assert_array_equal(test.images[0, 2], draw(photo, view_seed(1, image.entry, 2)))


def test_plain_copies_do_not_depend_on_the_views(dataset):
    before = PackedDataset(DATASET).split("train").images[:, 0].copy()
    pack_photos(views=1, preset="strong")
    np.testing.assert_array_equal(PackedDataset(DATASET).split("train").images[:, 0], before)


def test_hostile_files_are_packed_or_listed_with_a_reason(workspace, data_params, capfd):
    hostile = hostile_files()
    for label in ("cat", "dog"):
        (workspace / "photos" / label).mkdir(parents=True)
    for number, (name, file) in enumerate(hostile.items()):
        (workspace / "photos" / ("cat", "dog")[number % 2] / name).write_bytes(file.content)
    download(data_params("folder", location="photos"))
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        assert len(archive.namelist()) == 2 + len(hostile)
    pack_photos(on_bad_image="skip")
    table = pd.read_csv(AUDIT_TABLE)
    bad = {source.partition("/")[2] for source in table[table["finding"] == "bad image"]["source"]}
    assert bad == {name for name, file in hostile.items() if file.reason is not None}
    assert "Traceback" not in capfd.readouterr().err


def test_a_missing_archive_is_reported_with_the_stage_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"data/raw.zip: no such file; run dvc repro download"):
        pack_photos()


def test_unlabelled_test_images_have_no_class(photos):
    for name in ("train", "test"):
        (photos.parent / "split" / name).mkdir(parents=True)
    for folder in ("blue", "green", "red"):
        (photos / folder).rename(photos.parent / "split" / "train" / folder)
    source = photos.parent / "split" / "train" / "red" / "00.jpg"
    for number in range(3):
        (photos.parent / "split" / "test" / f"000{number}.jpg").write_bytes(source.read_bytes())
    download(DataParams(**{**DATA, "location": "split"}))
    pack_photos()
    test = PackedDataset(DATASET).split("test")
    assert test.ids == ["0000", "0001", "0002"]
    assert not test.labelled
    with zipfile.ZipFile(RAW_ARCHIVE) as archive:
        assert "test/0000.jpg" in archive.namelist()


@pytest.mark.parametrize(("disk", "name"), [("/dev/shm", "/dev/shm"), ("results", "results/[a-z./]+")])
def test_a_full_disk_is_one_line_that_names_the_file_and_the_disk(dataset, disk, name):
    shutil.copy(ROOT / "params.yaml", ".")
    folder = Path(disk).absolute()
    folder.mkdir(exist_ok=True)
    result = run_on_small_disk(folder, "4k", "augment")
    assert (result.returncode, result.stdout) == (75, "")
    line = f"error: {name}: No space left on device; the disk at {re.escape(str(folder))} has 0.0 MB free\n"
    assert re.fullmatch(line, result.stderr)


def test_grey_borders_count_neither_in_the_audit_nor_in_mean_and_std(photos):
    for number, high in enumerate((60, 90)):
        dark = np.random.default_rng(number).integers(0, high // 2, (40, 160, 3), dtype=np.uint8)
        Image.fromarray(dark).save(photos / "red" / f"dark {number}.png")
    download(DataParams(**DATA))
    audits = []
    for resize in ("stretch", "pad"):
        pack_photos(resize=resize, views=0, transforms=[])
        audits.append((read_results("audit"), AUDIT_TABLE.read_bytes()))
    assert audits[0] == audits[1]
    assert audits[1][0]["dark"] == 2
    assert (PackedDataset(DATASET).split("train").images[:, 0, 0] == 128).any()


def test_a_file_in_two_splits_is_found_also_if_training_images_are_stored_larger(workspace):
    for split, number in (("train", 0), ("train", 1), ("valid", 2), ("test", 3)):
        for label in ("cat", "dog"):
            pixels = np.random.default_rng(number + 10 * (label == "dog")).integers(0, 256, (16, 16, 3), np.uint8)
            path = Path("photos", split, label, f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((512, 512)).save(path)
    shutil.copy("photos/train/cat/0.jpg", "photos/valid/cat/copy.jpg")
    download(DataParams(**DATA))
    for store_size in (None, 128):
        pack_photos(store_size=store_size, views=0, transforms=[])
        found = read_results("audit")
        assert (found["leaks"], found.get("leaks_of_near_duplicates", 0)) == (1, 0)


def test_store_size_changes_the_stored_training_images_only(dataset):
    before, files = PackedDataset(DATASET), {path.name: path.read_bytes() for path in DATASET.iterdir()}
    audit = read_results("audit")
    pack_photos(store_size=32)
    assert {path.name: path.read_bytes() for path in DATASET.iterdir()} == files
    pack_photos(store_size=96)
    stored = PackedDataset(DATASET)
    assert stored.split("train").images.shape == (24, 3, 96, 96, 3)
    for name in ("valid.npy", "test.npy", "index.csv"):
        assert (DATASET / name).read_bytes() == files[name]
    assert stored.manifest.image_size == 32
    assert stored.manifest.digest != before.manifest.digest
    # These photos are small, so that they are decoded at the same scale for both sizes.
    assert (stored.manifest.mean, stored.manifest.std) == (before.manifest.mean, before.manifest.std)
    assert read_results("audit") == audit
