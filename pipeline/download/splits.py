"""Training, validation and test splits for sources that do not bring them all."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pipeline.download.layout import SourceImage
from pipeline.errors import PipelineError


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
        for served, (split, fraction) in enumerate(wanted.items()):
            # Every class has at least one image in each split: it leaves one for each that follows, and for train.
            following = len(wanted) - served
            count = min(max(round(fraction * len(members)), 1), len(shuffled) - following)
            drawn, shuffled = shuffled[:count], shuffled[count:]
            for index in drawn:
                images[index] = replace(images[index], split=split)
    return images
