"""Predicting image files."""

import csv
import json
import os
import re
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from scipy.special import softmax

from pipeline.common.file_types import IMAGE_ENDINGS
from pipeline.common.yaml_file import read_yaml
from pipeline.errors import PipelineError
from pipeline.images.decoding import VIEW_DETAIL, decode
from pipeline.images.transforms import augmented_view, plain_copy, view_seed
from pipeline.network import device
from pipeline.network.calibrating import energies
from pipeline.network.calibration import Calibration
from pipeline.network.models import build_model
from pipeline.network.tta import METHODS, variants
from pipeline.network.weights import load_model, save_model
from pipeline.params.schema import AugmentParams, Params
from pipeline.predict import files as file_prediction
from pipeline.predict.files import (
    choose_views,
    decode_ahead,
    find_images,
    load_models,
    predict_files,
    predict_paths,
    read_file,
)
from pipeline.predict.table import COLUMNS
from tests.support.commands import run_command
from tests.support.models import SPEC, overflowing
from tests.support.sections import AUGMENT

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def machine(workspace, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    monkeypatch.setenv("PIPELINE_WORKERS", "2")


def write_model(path="model.safetensors", seed=0, **changes) -> Path:
    """A weights file of an untrained network whose probabilities differ from image to image."""
    torch.manual_seed(seed)
    spec = replace(SPEC, **changes)
    model = build_model(spec)
    with torch.no_grad():
        model.output.weight.mul_(20)
    save_model(Path(path), model.state_dict(), spec)
    return Path(path)


def write_image(path, seed=0, size=(48, 36), **options) -> Path:
    """A picture with structure, so that its orientation matters."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (4, 3, 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path, **options)
    return Path(path)


def probabilities_of(*files, models=("model.safetensors",), views=None, seed=0) -> np.ndarray:
    found = predict_files([Path(file) for file in files], load_models([Path(model) for model in models]), views, seed)
    assert not found.failures
    return found.probabilities


def expected(file, model="model.safetensors", seed=None, number=0, transforms=None) -> np.ndarray:
    """The definition: the prediction for the plain copy, or for a view with the given seed."""
    network, spec = load_model(Path(model))
    content = Path(file).read_bytes()
    if seed is None:
        pixels = plain_copy(spec)(decode(content, spec.image_size))
    else:
        params = AugmentParams(**{**AUGMENT, "image_size": spec.image_size, "transforms": transforms})
        photo = decode(content, VIEW_DETAIL * spec.image_size)
        pixels = augmented_view(params)(photo, view_seed(seed, Path(file).name, number))
    inputs = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        logits = network(torch.tensor(inputs.transpose(2, 0, 1)[None], dtype=torch.float32))[0]
    if len(logits) == 1:
        logits = torch.cat([torch.zeros(1), logits])
    return logits.softmax(0).numpy()


def read_csv(path="out.csv") -> list[list[str]]:
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["area", "bicubic"])
def test_a_file_is_resized_and_normalised_as_the_training_images_were(resize, interpolation):
    write_model(resize=resize, interpolation=interpolation, image_size=64)
    files = [write_image(f"{number}.png", number, (90, 70)) for number in range(3)]
    np.testing.assert_allclose(probabilities_of(*files), [expected(file) for file in files], atol=1e-5)


def test_a_network_with_one_sigmoid_output_has_two_probabilities():
    write_model(outputs=1, classes=("no", "yes"))
    file = write_image("a.png")
    [row] = probabilities_of(file)
    np.testing.assert_allclose(row, expected(file), atol=1e-6)
    assert row.sum() == pytest.approx(1)


def test_all_files_keep_their_order_over_batches_whatever_the_number_of_workers(monkeypatch):
    write_model()
    files = [write_image(f"{number:03}.png", number) for number in range(file_prediction.MAX_BATCH_SIZE + 6)]
    together = probabilities_of(*files)
    np.testing.assert_allclose(together[::23], [expected(file) for file in files[::23]], atol=1e-5)
    monkeypatch.setenv("PIPELINE_WORKERS", "5")
    np.testing.assert_array_equal(probabilities_of(*files), together)


def test_batches_of_large_images_are_small(monkeypatch):
    monkeypatch.setattr(device, "PIXELS_AT_ONCE", {"cpu": 2 * 64**2})
    write_model(image_size=64)
    seen = []
    models = load_models([Path("model.safetensors")])
    models[0][0].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    predict_files([write_image(f"{number}.png") for number in range(5)], models)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_the_exif_orientation_is_applied(orientation, turn):
    write_model()
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = write_image("lying.png", exif=exif)
    upright = Path("upright.png")
    Image.open(lying).transpose(turn).save(upright)
    np.testing.assert_array_equal(*probabilities_of(lying, upright))
    assert not np.allclose(*probabilities_of(lying, write_image("plain.png")))


def test_a_gif_and_a_file_without_an_ending_are_read():
    write_model()
    file = write_image("a.gif", format="GIF")
    Path("b").write_bytes(file.read_bytes())
    np.testing.assert_array_equal(*probabilities_of(file, "b"))


def test_probabilities_of_several_models_are_averaged_even_if_their_sizes_differ():
    models = [write_model("a.safetensors"), write_model("b.safetensors", seed=1), write_model("c.safetensors", 2)]
    models.append(write_model("d.safetensors", 3, image_size=96, resize="crop"))
    models.append(write_model("e.safetensors", 3, image_size=96, resize="crop", interpolation="bicubic"))
    files = [write_image(f"{number}.png", number, (120, 99)) for number in range(2)]
    alone = [probabilities_of(*files, models=[model]) for model in models]
    np.testing.assert_allclose(probabilities_of(*files, models=models), np.mean(alone, axis=0), atol=1e-6)
    assert not np.allclose(alone[0], alone[3])
    assert not np.allclose(alone[3], alone[4])


@pytest.mark.parametrize("classes", [("red", "green", "blue"), ("blue", "green")])
def test_models_with_other_classes_or_another_order_are_rejected(classes):
    models = [write_model("a.safetensors"), write_model("b.safetensors", outputs=len(classes), classes=classes)]
    with pytest.raises(PipelineError) as error:
        load_models(models)
    assert str(error.value).startswith(
        f"b.safetensors: its classes are {', '.join(classes)}, those of a.safetensors are blue, green, red;"
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: None, "x.safetensors: no such file; "),
        (lambda path: path.mkdir(), "x.safetensors: is a folder, allowed is a weights file"),
        (lambda path: path.write_bytes(b""), "x.safetensors: cannot be used ("),
        (lambda path: path.write_bytes(b"\xff" * 100), "x.safetensors: cannot be used ("),
        (lambda path: write_image("x.png").rename(path), "x.safetensors: cannot be used ("),
    ],
    ids=["missing", "folder", "empty", "bytes", "image"],
)
def test_a_missing_or_damaged_model_is_reported_in_one_line(make, line):
    make(Path("x.safetensors"))
    with pytest.raises(PipelineError) as error:
        predict_paths([write_image("a.png")], [Path("x.safetensors")], None, 3)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_images_of_a_folder_are_sorted_and_a_named_file_is_always_predicted():
    for name in ("b.png", "a.JPG", "deep/er/c.webp", ".hidden/x.png", "__MACOSX/._a.png", "notes.txt", "Thumbs.db"):
        path = Path("photos") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_image("photos/scan.png", 1).rename("photos/scan")
    files, failures, left_out = find_images([Path("photos/notes.txt"), Path("photos"), Path("photos/.hidden")])
    names = ["notes.txt", "a.JPG", "b.png", "deep/er/c.webp", "scan", ".hidden/x.png"]
    assert files == [Path("photos") / name for name in names]
    assert failures == {}
    assert left_out == {
        "photos/.hidden/x.png": "hidden, since a name begins with a dot",
        "photos/Thumbs.db": "created by an operating system",
        "photos/__MACOSX/._a.png": "created by an operating system",
        "photos/notes.txt": "not an image",
    }


def test_what_a_folder_contains_besides_images_is_counted_by_reason(capsys):
    write_model()
    write_image("photos/a.png")
    for name in ("b.txt", "c.md", "Thumbs.db"):
        (Path("photos") / name).write_text("text")
    predict_paths([Path("photos")], [Path("model.safetensors")], Path("out.csv"), 3)
    assert capsys.readouterr().out.splitlines()[0] == (
        "predict: left out 3 other files: not an image: 2 (photos/b.txt, ...); created by an operating system: 1 "
        "(photos/Thumbs.db)"
    )
    assert [row[0] for row in read_csv()] == ["path", "photos/a.png"]


def test_a_transform_that_fails_on_a_photo_is_the_reason_of_its_file():
    write_model()
    write_image("small.png", size=(40, 36))
    write_image("large.png", size=(60, 60))
    crop = [{"name": "RandomCrop", "height": 48, "width": 48}]
    views = AugmentParams(**{**AUGMENT, "views": 1, "transforms": crop})
    models = load_models([Path("model.safetensors")])
    found = predict_files([Path("small.png"), Path("large.png")], models, views)
    assert found.paths == [Path("large.png")]
    assert found.failures[Path("small.png")].startswith(
        "params.yaml: augment.transforms.0: RandomCrop: the photo has 40×36 pixels at this point (Crop size"
    )


def test_a_file_is_predicted_once_even_if_it_is_named_twice():
    photo = write_image("photos/a.png")
    files, _, _ = find_images([photo, Path("photos"), photo.absolute(), Path("photos/../photos/a.png")])
    assert files == [photo]


def test_unreadable_files_are_reported_after_the_others_are_predicted(capsys):
    write_model()
    write_image("photos/good.png")
    Path("photos/text.jpg").write_text("hello")
    Path("photos/empty.png").touch()
    Path("none").mkdir()
    Path("pipe").mkdir()
    os.mkfifo("pipe/waits.png")
    paths = [Path(name) for name in ("photos", "nowhere.png", "none", "pipe", "x" * 300)]
    with pytest.raises(PipelineError) as error:
        predict_paths(paths, [Path("model.safetensors")], Path("out.csv"), 3)
    assert str(error.value).splitlines() == [
        "predict: 6 of 7 could not be predicted",
        "nowhere.png: No such file or directory",
        f"none: contains no images; allowed extensions are {', '.join(sorted(IMAGE_ENDINGS))}",
        f"{'x' * 300}: File name too long",
        "photos/empty.png: the file is empty",
        "photos/text.jpg: not an image",
        "pipe/waits.png: not a regular file",
    ]
    assert [row[0] for row in read_csv()] == ["path", "photos/good.png"]
    assert "images per second" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_folder_without_permission_is_reported():
    Path("closed").mkdir(mode=0)
    assert find_images([Path("closed")]) == ([], {Path("closed"): "Permission denied"}, {})


def test_if_no_file_can_be_read_nothing_is_written():
    write_model()
    Path("out.csv").write_text("old")
    Path("bad.jpg").write_text("no image")
    with pytest.raises(PipelineError, match=r"^bad\.jpg: not an image$"):
        predict_paths([Path("bad.jpg")], [Path("model.safetensors")], Path("out.csv"), 3)
    assert Path("out.csv").read_text() == "old"


def test_the_csv_has_one_row_per_image_and_one_column_per_class(capsys):
    write_model(classes=("path", "зелёный", "red, or pink"))
    names = ["photos/写真 1.png", 'photos/a"b.png', os.fsdecode(b"photos/\xff.png")]
    for number, name in enumerate(names):
        write_image(name, number)
    predict_paths([Path("photos")], [Path("model.safetensors")], Path("new/out.csv"), 3)
    header, *rows = read_csv("new/out.csv")
    assert header == [*COLUMNS, "p_path", "p_зелёный", "p_red, or pink"]
    assert sorted(row[0] for row in rows) == sorted(names)
    assert COLUMNS == ["path", "predicted", "confidence", "answer", "energy", "outlier"]
    for path, predicted, confidence, answer, _, outlier, *numbers in rows:
        assert (answer, outlier) == (predicted, "")
        values = [float(number) for number in numbers]
        np.testing.assert_allclose(values, expected(path), atol=1e-5)
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert (float(confidence), f"p_{predicted}") == (max(values), header[6 + int(np.argmax(values))])
    out = capsys.readouterr().out
    assert out.startswith("predict: 3 images in ")
    assert out.endswith(" images per second, written to new/out.csv\n")


def test_a_screenshot_of_macos_is_in_the_csv_under_its_own_name():
    write_model()
    name = "Screenshot 2026-11-27 at 9.41.00\u202fAM.png"
    write_image(f"photos/{name}")
    predict_paths([Path("photos")], [Path("model.safetensors")], Path("out.csv"), 3)
    assert [row[0] for row in read_csv()[1:]] == [f"photos/{name}"]


def test_probabilities_are_calibrated_and_energies_are_those_of_the_logits():
    write_model(calibration=Calibration(temperature=2.5))
    file = write_image("a.png")
    logits = np.log(expected(file))
    np.testing.assert_allclose(probabilities_of(file), [softmax(logits / 2.5)], atol=1e-5)
    plain = load_models([write_model("plain.safetensors")])
    energy = predict_files([file], load_models([Path("model.safetensors")])).energies
    np.testing.assert_allclose(energy, predict_files([file], plain).energies)
    pixels = torch.tensor(plain_copy(SPEC)(decode(file.read_bytes(), 32)))[None]
    with torch.inference_mode():
        assert energy[0] == pytest.approx(energies(plain[0][0](pixels)[1].numpy())[0], rel=1e-5)


def test_unsure_predictions_list_the_most_probable_classes_and_outliers_are_noted(capsys):
    write_model(calibration=Calibration(energy=1e3))
    file = write_image("a.png")
    predict_paths([file], [Path("model.safetensors")], None, 2, abstain=0.9999999)
    header, row, last = capsys.readouterr().out.splitlines()
    values = expected(file)
    best, other = np.argsort(-values)[:2]
    classes = ("blue", "green", "red")
    assert header.split() == ["file", "class", "probability", "next", "best", "note"]
    assert row.split()[:3] == ["a.png", "unsure", f"{values[best]:.1%}"]
    assert f"{classes[best]} {values[best]:.1%}, {classes[other]} {values[other]:.1%}" in row
    assert row.endswith("unlike the training images")
    assert last.endswith("images per second, 1 unsure, 1 unlike the training images")
    predict_paths([file], [Path("model.safetensors")], Path("out.csv"), 2, abstain=0.9999999)
    assert read_csv()[1][:4] == ["a.png", classes[best], f"{values[best]:.6f}", "unsure"]
    assert read_csv()[1][5] == "1"


@pytest.mark.parametrize("output", ["a.png", "folder.csv", "results"])
def test_the_csv_replaces_no_photo_and_no_folder(output):
    write_model()
    before = write_image("a.png").read_bytes()
    Path("folder.csv").mkdir()
    with pytest.raises(PipelineError, match=f"^--output: got '{output}', allowed is the name of a file that ends in"):
        predict_paths([Path("a.png")], [Path("model.safetensors")], Path(output), 3)
    assert Path("a.png").read_bytes() == before
    assert Path("folder.csv").is_dir()


def test_in_a_pipe_the_table_is_plain_text_with_full_names(capsys):
    write_model()
    long = write_image("photos/" + "long" * 40 + ".png")
    write_image("photos/\x1b[31mred.png", 1)
    predict_paths([Path("photos")], [Path("model.safetensors")], None, 2)
    header, first, second, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "class", "probability", "next", "best"]
    assert first.split()[0] == "photos/?[31mred.png"
    values = expected(long)
    best, other = np.argsort(-values)[:2]
    classes = ("blue", "green", "red")
    assert second.split() == [
        *(str(long), classes[best], f"{values[best]:.1%}"),
        *(classes[other], f"{values[other]:.1%}"),
    ]
    assert last.startswith("predict: 2 images in ")


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_in_a_terminal_the_table_is_as_wide_as_the_terminal(capsys, monkeypatch, width):
    write_model(classes=("a class of a rather long name", "写真", "red"))
    write_image("photos/" + "long" * 20 + ".png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    predict_paths([Path("photos")], [Path("model.safetensors")], None, 3)
    table = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()[:-1]
    assert all(cell_len(line) <= width for line in table)
    assert "".join(line[: line.index("  ")] if "  " in line else line for line in table[1:]).count("long") > 3


def test_top_1_has_no_next_best(capsys):
    write_model()
    predict_paths([write_image("a.png")], [Path("model.safetensors")], None, 1)
    assert capsys.readouterr().out.splitlines()[0] == "file   class  probability"


def test_a_top_k_above_the_number_of_classes_shows_all(capsys):
    write_model()
    predict_paths([write_image("a.png")], [Path("model.safetensors")], None, 99)
    assert capsys.readouterr().out.splitlines()[1].count("%") == 3


def test_test_time_augmentation_averages_over_the_image_and_its_views():
    write_model()
    file = write_image("a.png")
    transforms = [{"name": "RandomResizedCrop", "scale": [0.3, 0.6]}, {"name": "HorizontalFlip"}]
    views = AugmentParams(**{**AUGMENT, "views": 3, "transforms": transforms})
    copies = [expected(file), *(expected(file, seed=7, number=number, transforms=transforms) for number in (1, 2, 3))]
    # The softmax of the mean logits.
    averaged = softmax(np.log(copies).mean(axis=0))
    np.testing.assert_allclose(probabilities_of(file, views=views, seed=7), [averaged], atol=1e-5)
    assert not np.allclose(copies[1], copies[2])
    moved = write_image("elsewhere/a.png")
    moved, original = (probabilities_of(path, views=views, seed=7) for path in (moved, file))
    np.testing.assert_array_equal(moved, original)


def test_views_of_many_files_do_not_depend_on_the_number_of_workers(monkeypatch):
    write_model()
    files = [write_image(f"{number}.png", number) for number in range(40)]
    views, _ = choose_views(2)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    alone = probabilities_of(*files, views=views)
    monkeypatch.setenv("PIPELINE_WORKERS", "6")
    np.testing.assert_array_equal(probabilities_of(*files, views=views), alone)


def test_threads_that_draw_views_leave_the_filters_of_warnings_alone(monkeypatch):
    """Building a transform turns warnings into errors for all threads, so no thread may do it beside another one."""
    monkeypatch.setenv("PIPELINE_WORKERS", "8")
    make, threads = file_prediction._make_reader, []
    monkeypatch.setattr(
        file_prediction, "_make_reader", lambda *given: threads.append(threading.current_thread()) or make(*given)
    )
    files = [write_image(f"{number}.png", number) for number in range(40)]
    views, _ = choose_views(2)
    for photo in decode_ahead(files, read_file, [SPEC], views, 1, ahead=4):
        assert isinstance(photo, list)
        assert "error" not in {action for action, *_ in warnings.filters}
    assert threads == [threading.current_thread()] * 8


@pytest.mark.parametrize("method", METHODS)
def test_flips_and_crops_of_a_file_are_averaged_as_by_the_stages(method, capsys):
    calibration = Calibration(temperature=3.0)
    path = write_model(calibration=calibration)
    files = [write_image(f"{number}.png", number) for number in range(3)]
    network, spec = load_model(path)
    pixels = np.stack([plain_copy(spec)(decode(file.read_bytes(), spec.image_size)) for file in files])
    inputs = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    shown = variants(torch.tensor(inputs.transpose(0, 3, 1, 2), dtype=torch.float32), method)
    with torch.no_grad():
        logits = torch.stack([network(images) for images in shown]).mean(0)
    predict_paths(files, [path], Path("out.csv"), 3, method)
    rows = np.array(read_csv()[1:])
    np.testing.assert_allclose(rows[:, len(COLUMNS) :].astype(float), (logits / 3).softmax(1), atol=1e-5)
    np.testing.assert_allclose(rows[:, COLUMNS.index("energy")].astype(float), energies(logits.numpy()), rtol=1e-4)
    noted = f"test-time augmentation (--tta {method}) uses the calibration and thresholds of single images"
    assert (noted in capsys.readouterr().out) == (method != "none")


@pytest.mark.parametrize("tta", ["auto", "flip", "0", "65", "-1", "²", ""])
def test_another_method_of_test_time_augmentation_is_refused(tta):
    with pytest.raises(PipelineError) as error:
        predict_paths([write_image("a.png")], [write_model()], None, 3, tta)
    assert str(error.value) == (
        f"--tta: got {tta!r}, allowed are none, hflip, five_crop, ten_crop, or a number of augmented views, 1 to 64"
        + "; auto and views need a dataset: set predict.tta in params.yaml" * (tta == "auto")
    )


def write_params(**augment) -> None:
    """Write a ``params.yaml`` with default values except in the section ``augment``."""
    content = read_yaml(ROOT / "params.yaml")
    content["augment"] |= {"views": 0, "test_views": 0, **augment}
    content["predict"]["tta"] = "none"
    Params.model_validate(content)
    Path("params.yaml").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("augment", "preset", "message"),
    [
        (None, "light", "preset light and 0 transforms (no params.yaml in this folder)"),
        ({"preset": "none", "transforms": []}, "light", "preset light and 0 transforms (params.yaml has no"),
        ({"preset": "strong", "transforms": []}, "strong", "preset strong and 0 transforms (from params.yaml)"),
        (
            {"preset": "none", "transforms": [{"name": "HorizontalFlip"}]},
            "none",
            "preset none and 1 transforms (from params.yaml)",
        ),
    ],
    ids=["no params.yaml", "no transforms", "preset", "transforms"],
)
def test_views_use_the_transforms_of_params_yaml_or_the_preset_light(capsys, augment, preset, message):
    if augment is not None:
        write_params(**augment)
    views, _ = choose_views(2)
    assert (views.preset, views.views) == (preset, 2)
    assert message in capsys.readouterr().out


def test_an_invalid_params_yaml_is_reported_if_views_need_it():
    Path("params.yaml").write_text("seed: x\n")
    with pytest.raises(PipelineError, match=r"^params\.yaml: "):
        choose_views(1)


def test_the_command_needs_only_a_weights_file():
    write_model("results/model.safetensors")
    write_image("-x.png")
    result = run_command("predict", "--top", "2", "--", "-x.png", "bad.jpg")
    assert (result.code, result.stderr) == (1, "error: bad.jpg: No such file or directory\n")
    _, row, last = result.stdout.splitlines()
    assert row.startswith("-x.png  ")
    assert last.startswith("predict: 1 image in ")
    assert last.endswith(" images per second")
    assert not Path("params.yaml").exists()


def test_options_without_a_path_are_rejected():
    result = run_command("predict", "--tta", "2")
    assert result.code == 1
    assert result.stderr == (
        "error: predict: options need images or folders to classify, such as python -m pipeline predict photos, or "
        "--split\n"
    )


def test_probabilities_that_are_not_finite_are_an_error(workspace):
    write_image("a.png")
    path = write_model("x.safetensors")
    network, spec = load_model(path)
    save_model(path, overflowing(network), spec)
    with pytest.raises(PipelineError) as error:
        predict_paths([Path("a.png")], [path], None, 3)
    assert str(error.value) == (
        "x.safetensors: its probabilities are NaN or infinite for 1 of 1 images, such as a.png; name a model of "
        "another training"
    )


def test_a_file_that_is_larger_than_an_image_may_be_is_not_read(workspace):
    path = write_model("x.safetensors")
    Path("huge.png").touch()
    os.truncate("huge.png", 40 * 2**30)
    with pytest.raises(PipelineError, match=r"^huge.png: has 42,949,672,960 bytes, allowed are 1,073,741,824$"):
        predict_paths([Path("huge.png")], [path], None, 3)
