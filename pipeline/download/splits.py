"""Draws the splits that a source does not have."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pipeline.download.layout import SourceImage
from pipeline.errors import PipelineError


def assign_splits(
    images: Iterable[SourceImage], valid_fraction: float, test_fraction: float, seed: int
) -> list[SourceImage]:
    """Return the images sorted by path, each with a split; splits that the source has stay as they are.

    A missing test or validation split is drawn from the labelled training images, stratified by class, so that each
    class has the same share in every split. The fractions are of all of those images. The result does not depend on
    the order of ``images``.

    Raises:
        PipelineError: a class has too few images for the splits.
    """
    images = sorted((replace(image, split=image.split or "train") for image in images), key=lambda image: image.path)
    present = {image.split for image in images}
    wanted = {
        split: fraction
        for split, fraction in (("test", test_fraction), ("valid", valid_fraction))
        if split not in present and fraction
    }
    random = np.random.default_rng(seed)
    by_class: dict[int | None, list[int]] = {}
    for index, image in enumerate(images):
        if image.split == "train":
            by_class.setdefault(image.label, []).append(index)
    for label, members in sorted(by_class.items()):
        if len(members) <= len(wanted):
            raise PipelineError(
                f"data: class {label} has {len(members)} images ({images[members[0]].path} ...), too few for "
                f"{' and '.join(['train', *wanted])}; add images, or remove the class"
            )
        shuffled = random.permutation(members).tolist()
        for done, (split, fraction) in enumerate(wanted.items()):
            # At least one image of each class remains for each of the splits that follow, and for train.
            following = len(wanted) - done
            count = min(max(round(fraction * len(members)), 1), len(shuffled) - following)
            drawn, shuffled = shuffled[:count], shuffled[count:]
            for index in drawn:
                images[index] = replace(images[index], split=split)
    return images
