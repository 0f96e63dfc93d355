"""A picture of training images as the network sees them."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline.common.files import replacing
from pipeline.network.batches import shuffled_plan
from pipeline.train.trainer import Trainer

# Images, and images in one row of the picture.
SHOWN, COLUMNS = 16, 8
# The largest picture of one image in pixels, and the least share of a class that is named.
SIDE, LEAST = 256, 0.005


def save_batch(path: Path, trainer: Trainer, classes: tuple[str, ...]) -> dict[str, Any]:
    """Write the first images of the first batch of the run as a PNG: cropped, mixed and erased, without margins.

    The trainer's random state is that of the start of the run afterwards.

    Returns:
        ``side``, of an image in pixels; and ``targets``, the classes of each image with their shares, largest first.
    """
    params, train = trainer.params, trainer.train
    torch.manual_seed(trainer.seed)
    images, copies, *_ = train.shape
    least = params.min_steps_per_epoch
    plan = [next(shuffled_plan(images, copies, params.batch_size, trainer.seed, epoch=1, min_steps=least))]
    with torch.no_grad():
        inputs, targets = next(trainer.augmented(*batch, trainer.phase_of(1)) for batch in train.load(plan))
    pixels = ((inputs[:SHOWN] - train.shift) / train.scale).clamp(0, 1).mul(255).round().byte().cpu()
    columns, (_, _, side, _) = min(COLUMNS, len(pixels)), pixels.shape
    missing = -len(pixels) % columns
    padded = torch.cat([pixels, pixels.new_full((missing, *pixels.shape[1:]), 255)])
    grid = padded.view(-1, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(-1, columns * side, 3)
    picture = Image.fromarray(grid.numpy())
    if side > SIDE:
        picture = picture.resize((columns * SIDE, picture.height // side * SIDE), Image.Resampling.BOX)
    side = min(side, SIDE)
    with replacing(path) as temporary:
        picture.save(temporary, "png")
    return {"side": side, "targets": [_named(row, classes) for row in targets[:SHOWN].tolist()]}


def _named(shares: list[float], classes: tuple[str, ...]) -> list[tuple[str, float]]:
    largest = sorted(zip(shares, classes, strict=True), key=lambda item: -item[0])
    return [(name, round(share, 3)) for share, name in largest if share >= LEAST]
