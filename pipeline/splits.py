"""Training, validation and test splits for sources that do not bring them all."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pipeline.errors import PipelineError
from pipeline.sources.image_set import SourceImage


def assign_splits(
    images: Iterable[SourceImage], valid_fraction: float, test_fraction: float, seed: int
) -> list[SourceImage]:
    """Give every image a split, sorted by path; what the source already split stays as it is.

    A missing test or validation split is drawn from the labelled training images, stratified by class, so that
    each class has the same share everywhere. The fractions are of all of those images. The order in which a
    source lists its files does not matter.
    """
    images = sorted((replace(image, split=image.split or "train") for image in images), key=lambda image: image.path)
    present = {image.split for image in images}
    pool = [index for index, image in enumerate(images) if image.split == "train"]
    total = len(pool)
    for split, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        if split in present or fraction == 0:
            continue
        labels = [images[index].label for index in pool]
        pool, drawn = _stratified(pool, labels, round(fraction * total), f"data.{split}_fraction", fraction, seed)
        for index in drawn:
            images[index] = replace(images[index], split=split)
    return images


def _stratified(
    pool: list[int], labels: list[int | None], count: int, key: str, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import train_test_split

    classes = Counter(labels)
    rarest = min(classes.values())
    if rarest < 2 or count < len(classes) or len(pool) - count < len(classes):
        raise PipelineError(
            f"{key}: {fraction} of {len(pool):,} images is {count:,}, too few or too many to keep each of "
            f"{len(classes)} classes on both sides (the rarest has {rarest}); change it or add images"
        )
    kept, drawn = train_test_split(np.array(pool), test_size=count, stratify=labels, random_state=seed)
    return sorted(kept.tolist()), sorted(drawn.tolist())
