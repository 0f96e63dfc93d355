"""``python -m pipeline explain PATH…``."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.explain.saliency import Saliency
from pipeline.explain_files import explain_paths, explain_pixels, overlaid, picture_names
from pipeline.network.models import build_model
from pipeline.network.weights import save_model
from pipeline.predict.files import load_models, predict_files
from tests.support.commands import run_command
from tests.support.models import SPEC, overflowing

MODEL = Path("results/model.safetensors")


@pytest.fixture(autouse=True)
def machine(workspace, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    monkeypatch.setenv("PIPELINE_WORKERS", "2")
    torch.manual_seed(0)
    model = build_model(SPEC)
    save_model(MODEL, model.state_dict(), SPEC)
    return model


def write_image(path: str, seed: int = 0) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return Path(path)


def test_each_image_gets_a_picture_and_a_line_with_its_class_and_probability(capsys):
    names = ("photos/a.jpg", "photos/b $x$.png", "photos/deeper/a.png")
    files = [write_image(name, seed) for seed, name in enumerate(names)]
    explain_paths([Path("photos")], MODEL, Path("out"))
    assert sorted(path.name for path in Path("out").iterdir()) == ["a-2.png", "a.png", "b $x$.png"]
    for path in Path("out").iterdir():
        assert Image.open(path).size == (840, 468)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "explain: grad_cam of blocks.2, 4×4 cells"
    rows = predict_files(files, load_models([MODEL])).probabilities
    pictures = ["out/a.png", "out/b $x$.png", "out/a-2.png"]
    for line, file, row, picture in zip(lines, files, rows, pictures, strict=True):
        assert line.startswith(f"{file}: {SPEC.classes[row.argmax()]} {row.max():.1%}, {picture}")


def test_a_class_can_be_named_and_an_unknown_one_is_refused(capsys):
    write_image("a.png")
    result = run_command("explain", "a.png", "--class", "red", "-o", "out", "--method", "occlusion")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("a.png: red ")
    result = run_command("explain", "a.png", "--class", "rde")
    assert (result.code, result.stderr) == (
        1,
        "error: --class: got 'rde', no class of the model; some of these are red\n",
    )
    assert not Path("explained").exists()


def test_unreadable_files_are_reported_after_the_others_are_explained():
    write_image("photos/good.png")
    Path("photos/bad.jpg").write_text("no image")
    os.mkfifo("photos/pipe.png")
    with pytest.raises(PipelineError) as error:
        explain_paths([Path("photos"), Path("nowhere.png")], MODEL, Path("out"))
    assert str(error.value).splitlines() == [
        "explain: 3 of 4 could not be explained",
        "nowhere.png: No such file or directory",
        "photos/bad.jpg: not an image",
        "photos/pipe.png: not a regular file",
    ]
    assert [path.name for path in Path("out").iterdir()] == ["good.png"]


def test_a_file_is_no_folder_for_pictures():
    write_image("a.png")
    with pytest.raises(PipelineError, match=r"^--output: a\.png is a file, allowed is a folder; choose another name$"):
        explain_paths([Path("a.png")], MODEL, Path("a.png"))


def test_images_are_never_replaced_by_pictures_and_pictures_are_not_explained(capsys):
    files = [write_image("photos/a.jpg"), write_image("photos/a.png", 1)]
    contents = [file.read_bytes() for file in files]
    for paths in ([Path("photos")], files):
        with pytest.raises(PipelineError, match=r"^--output: photos has images to explain, which pictures could"):
            explain_paths(paths, MODEL, Path("photos"))
    assert [file.read_bytes() for file in files] == contents
    explain_paths([Path("photos")], MODEL, Path())  # in which photos/ is
    assert sorted(path.name for path in Path().glob("*.png")) == ["a-2.png", "a.png"]
    explain_paths([Path("photos")], MODEL, Path("photos/explained"))
    explain_paths([Path("photos")], MODEL, Path("photos/explained"))
    assert sorted(path.name for path in Path("photos/explained").iterdir()) == ["a-2.png", "a.png"]
    assert "left out 2 images in photos/explained, the folder of the pictures" in capsys.readouterr().out


def test_an_onnx_file_is_refused():
    with pytest.raises(PipelineError, match=r"^model\.onnx: an ONNX file has no gradients; name the weights file"):
        explain_paths([Path("photos")], Path("model.onnx"), Path("maps"))


def test_a_network_whose_output_is_not_finite_is_refused(machine):
    save_model(MODEL, overflowing(machine), SPEC)
    with pytest.raises(PipelineError, match=r"^explain: a probability or a gradient is NaN or infinite"):
        explain_paths([write_image("a.png")], MODEL, Path("out"))
    assert not Path("out").exists()


def test_pictures_of_files_with_the_same_name_are_numbered_also_if_only_their_case_differs():
    files = [Path(name) for name in ("a.png", "x/A.jpg", "a-2.png", "y/a.webp")]
    assert list(picture_names(files).values()) == ["a.png", "A-2.png", "a-2-2.png", "a-3.png"]


def test_pictures_of_many_files_with_the_same_name_are_named_in_a_moment():
    start = time.process_time()
    names = picture_names([Path(f"{number}/front.jpg") for number in range(20_000)])
    assert len(set(names.values())) == 20_000
    assert names[Path("19999/front.jpg")] == "front-20000.png"
    assert time.process_time() - start < 10


def test_the_probability_is_that_of_the_explained_class():
    ((network, spec),) = load_models([MODEL])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    saliency = Saliency(network.model, spec, "grad_cam")
    probabilities = network(torch.from_numpy(pixels))[0].detach().numpy()
    for chosen in (None, 1):
        maps, classes, values = explain_pixels(network, saliency, pixels, chosen)
        assert maps.shape == (2, 4, 4)
        assert classes.tolist() == (probabilities.argmax(1).tolist() if chosen is None else [1, 1])
        np.testing.assert_allclose(values, probabilities[range(2), classes], rtol=1e-5)


def test_an_empty_map_leaves_the_image_as_it_is_and_a_full_cell_colours_its_place():
    image = np.full((32, 32, 3), 100, np.uint8)
    cells = np.zeros((4, 4), np.uint8)
    np.testing.assert_array_equal(overlaid(image, cells), image)
    cells[0, 3] = 255
    changed = (overlaid(image, cells) != image).any(axis=2)
    assert changed[:8, 24:].all()
    assert not changed[16:].any()
    assert not changed[:, :16].any()
