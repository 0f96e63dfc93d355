"""What the benchmarks measure with: photos, sections of parameters, and clones of this repository. Imports no torch,
whose memory is measured."""

import itertools
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from pipeline.common.yaml_file import read_yaml
from pipeline.params.schema import AugmentParams, TrainParams

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 11
NAMES = tuple(str(label) for label in range(CLASSES))
SEED = 6666
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
# A recipe's network and training as small as they can be.
SMALL = {"augment.image_size": 32, "model.width": 2, "train.epochs": 1, "train.warmup_epochs": 0.0}
SMALL |= {"train.ema_decay": 0.0, "evaluate.bootstrap": 0, "train.batch_size": 4}


def params_with_recipe(recipe: str) -> dict[str, Any]:
    """``params.yaml`` with the values of a recipe, so that it has every parameter of today."""
    content = read_yaml(ROOT / "params.yaml")
    for key, values in read_yaml(ROOT / "recipes" / f"{recipe}.yaml").items():
        content[key] = content[key] | values if isinstance(values, dict) else values
    return content


def section(name: str) -> dict[str, Any]:
    """A section of ``params.yaml`` with the values of the recipe food11."""
    return params_with_recipe("food11")[name]


def augment_params(**changes: Any) -> AugmentParams:
    """The section ``augment`` of the recipe food11, which makes plain copies only, with some changes."""
    return AugmentParams(**(section("augment") | changes))


def train_params(**changes: Any) -> TrainParams:
    """The section ``train`` of the recipe food11, not deterministic, with some changes."""
    return TrainParams(**(section("train") | {"deterministic": False} | changes))


def call(folder: Path | str, *command: str) -> None:
    """Run ``python -m command`` in a folder; a failure ends the benchmark with the output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run, env = [sys.executable, "-m", *command], os.environ | {"PATH": path}
    done = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def clone_with_recipe(folder: Path, recipe: str, changes: dict[str, Any]) -> None:
    """Clone the last commit of this repository, and apply a recipe and ``changes`` to some of its parameters; the
    value ``train.epochs`` of ``train.freeze_epochs`` stands for all epochs."""
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    call(folder, "pipeline", "recipe", "apply", recipe)
    set_parameters(folder, changes)


def set_values(content: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change the values at dotted keys, such as ``model.kwargs.output_stride``."""
    for key, value in changes.items():
        *parents, name = key.split(".")
        reduce(getitem, parents, content)[name] = value


def set_parameters(folder: Path, changes: dict[str, Any]) -> None:
    """Change parameters in the file ``params.yaml`` of a folder."""
    yaml, params = YAML(), folder / "params.yaml"
    content = yaml.load(params)
    set_values(content, changes)
    if content["train"].get("freeze_epochs") == "train.epochs":
        content["train"]["freeze_epochs"] = content["train"]["epochs"]
    yaml.dump(content, params)


def photo_files(archive: Path | None, folder: Path, count: int = 100) -> list[Path]:
    """Photos in a folder: those of a zip, or without one ``count`` of noise.

    Raises:
        SystemExit: the zip contains no photo.
    """
    folder.mkdir(exist_ok=True)
    if archive is None:
        random = np.random.default_rng(SEED)
        photos = [folder / f"{number:05}.jpg" for number in range(count)]
        for photo in photos:
            noise_photo(random).save(photo, quality=85)
        return photos
    with zipfile.ZipFile(archive) as content:
        names = sorted(name for name in content.namelist() if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png"))
        photos = [Path(content.extract(name, folder)) for name in names]
    if not photos:
        raise SystemExit(f"{archive} contains no .jpg, .jpeg or .png")
    return photos


def noise_photo(random: np.random.Generator, size: int = 512, patches: int = 32, noise: float = 6.0) -> Image.Image:
    """Noise as smooth as photos; as a JPEG of 512 pixels and quality 85 it has 76 kB."""
    coarse = Image.fromarray(random.integers(0, 256, (patches, patches, 3), np.uint8)).resize((size, size))
    pixels = np.asarray(coarse) + random.normal(0, noise, (size, size, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_noise_archive(path: Path, images: int) -> None:
    """Write a zip of photos of noise, named like the homework's: two classes, ``images`` of each in train and valid."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, label, number in itertools.product(("train", "valid"), range(2), range(images)):
            with archive.open(f"photos/{part}/{label}_{number}.png", "w") as file:
                noise_photo(random, 64).save(file, "PNG")


def text_page(random: np.random.Generator, side: int = 256) -> NDArray[np.uint8]:
    """A scanned page of text without letters: dark words on paper, in paragraphs; ``(1.4 * side, side, 3)``.

    Their perceptual hashes are much alike: of all pairs, 1.6 % differ in at most 12 bits, of photos 0.001 %.
    """
    page = np.full((round(1.4 * side), side, 3), random.integers(235, 256), np.uint8)
    for top in range(24, len(page) - 24, 8):
        if random.random() < 0.12:  # between two paragraphs
            continue
        left, end = 20, side - 20 if random.random() < 0.8 else int(side * random.uniform(0.3, 0.9))
        while left < end:
            width = int(random.integers(4, 22))
            page[top : top + 4, left : min(left + width, end)] = random.integers(20, 90)
            left += width + 4
    return page


class Photos:
    """A ``Dataset`` of photos that are decoded on access, as tutorials write it; repeated up to ``images``."""

    def __init__(self, files: list[Path], images: int, image_size: int, normalised: bool = False) -> None:
        from torchvision import transforms

        self.files, self.images = files, images
        steps = [transforms.Resize((image_size, image_size)), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, *[transforms.Normalize(MEAN, STD)] * normalised])

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int):
        return self.transform(Image.open(self.files[index % len(self.files)]).convert("RGB")), index % CLASSES


def with_quick_mode(app: Any, work: Callable[[], None]) -> None:
    """Add the option ``--quick`` to a Typer app of several commands: ``work`` runs them all in seconds."""
    import typer

    @app.callback(invoke_without_command=True)
    def main(
        context: typer.Context, quick: bool = typer.Option(False, help="run everything in seconds, as a test")
    ) -> None:
        if quick:
            work()
        elif context.invoked_subcommand is None:
            print(context.get_help())
