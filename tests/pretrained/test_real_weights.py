"""Real ImageNet weights, with their own last layer, recognise photos of ImageNet's dogs."""

import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.network.inference import PixelClassifier
from pipeline.network.models import build_model
from pipeline.network.pretrained import read_pretrained
from pipeline.pretrained.stage import pretrained
from tests.support.models import SPEC

DATA = Path(__file__).parents[3] / "shared/data"
WEIGHTS, PHOTOS = DATA / "tf_efficientnet_lite0.safetensors", DATA / "imagewoof-160.zip"
# Imagewoof's breeds, as WordNet has them, and their places among ImageNet's 1,000 classes.
BREEDS = {
    "n02086240": 155,
    "n02087394": 159,
    "n02088364": 162,
    "n02089973": 167,
    "n02093754": 182,
    "n02096294": 193,
    "n02099601": 207,
    "n02105641": 229,
    "n02111889": 258,
    "n02115641": 273,
}
PER_BREED = 4


def photos(size: int) -> tuple[torch.Tensor, list[int]]:
    """The middle of some photos, ``(n, size, size, 3)``, and their classes."""
    images, labels = [], []
    with zipfile.ZipFile(PHOTOS) as archive:
        for breed, label in BREEDS.items():
            names = [name for name in sorted(archive.namelist()) if f"val/{breed}/" in name and not name.endswith("/")]
            for name in names[:: len(names) // PER_BREED][:PER_BREED]:
                with Image.open(BytesIO(archive.read(name))) as image:
                    side = min(image.size)
                    corner = [(length - side) / 2 for length in image.size]
                    box = (*corner, corner[0] + side, corner[1] + side)
                    middle = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box)
                images.append(torch.from_numpy(np.asarray(middle).copy()))
                labels.append(label)
    return torch.stack(images), labels


@pytest.mark.skipif(not (WEIGHTS.exists() and PHOTOS.exists()), reason="no real weights and photos in ../shared/data")
def test_imagenet_weights_recognise_dogs_with_their_own_last_layer_mean_and_deviation(workspace):
    pytest.importorskip("timm")
    pretrained("timm/tf_efficientnet_lite0", 4, "default", {}, str(WEIGHTS), 224)
    weights = read_pretrained()
    assert (weights.origin.mean, weights.origin.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (weights.origin.image_size, weights.origin.interpolation) == (224, "bicubic")
    spec = replace(SPEC, name="timm/tf_efficientnet_lite0", outputs=1000, image_size=224, mean=(0.5,) * 3)
    spec = replace(spec, std=(0.5,) * 3)
    model = build_model(spec).eval()
    assert len(weights.load_into(model, spec.classes)) == 1  # nothing is new
    images, labels = photos(spec.image_size)
    with torch.no_grad():
        found = PixelClassifier(model, spec)(images)[1].argmax(dim=1)
    assert len(labels) == 40
    assert np.mean(found.numpy() == labels) > 0.7
